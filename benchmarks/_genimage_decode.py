"""The part of converting a GenImage download that many processes do: decoding images into their place in a file.

Little is imported here, so that these processes start at once.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import threading
from multiprocessing import parent_process
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ._genimage_classes import Form, Split
from ._genimage_raw import SIDE, UNREADABLE, to_pixels

__all__ = [
    "CHUNK",
    "IMAGE_BYTES",
    "SEPARATOR",
    "Decoded",
    "Part",
    "decode",
    "header",
    "offset",
    "record",
    "start_worker",
]

CHUNK = 64  # images that a process decodes at a time
IMAGE_BYTES = 3 * SIDE * SIDE
SEPARATOR = "\0"  # the only character that no file name has, but for the slash


class Part(NamedTuple):
    """Images that are converted together."""

    source: Path
    target: Path
    generator: str
    task: int
    split: Split
    form: Form

    @property
    def unfinished(self) -> Path:
        """Where the images are until all of them are there."""
        return self.target / ".images.npy.partial"


class Decoded(NamedTuple):
    """What a process made of a chunk: the labels of the images that it wrote, and the other files."""

    labels: list[int]
    records: bytes  # of all its files
    skipped: list[tuple[str, str]]
    unreadable: bool  # whether a file was skipped that may be as it should, but could not be read


def start_worker() -> None:
    """Makes the end of the main process that of the calling one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main one ends the others
    threading.Thread(target=_end_with_main_process, daemon=True).start()


def _end_with_main_process() -> None:
    main = parent_process()
    if main is not None:
        main.join()  # returns even if it is killed, when it can end nobody
        os._exit(1)


def decode(part: Part, names: list[str], labels: bytes, start: int) -> Decoded:
    """Decodes some images of a part, and writes them from the place of image ``start`` on."""
    images = np.empty((len(names), 3, SIDE, SIDE), np.uint8)
    kept: list[int] = []
    records: list[bytes] = []
    skipped: list[tuple[str, str]] = []
    unreadable = False
    for name, label in zip(names, labels, strict=True):
        path = f"{part.source}{os.sep}{name}"
        try:
            status = os.stat(path)
            records.append(record(name, status))
            if not status.st_size:
                raise ValueError("empty file")
            with Image.open(path) as image:
                images[len(kept)] = to_pixels(image, part.form)
            kept.append(label)
        except MemoryError as error:
            raise OSError(errno.ENOMEM, "not enough memory to decode it", path) from error
        except Exception as error:  # whatever a damaged file makes a decoder raise
            if isinstance(error, OSError) and error.errno is not None:
                if error.errno not in UNREADABLE:  # not the file is to blame, but the disk
                    raise OSError(error.errno, error.strerror, path) from error
                os.stat(f"{part.source}{os.sep}{os.curdir}")  # raises if not the file is to blame, but its folder
                unreadable = True
            skipped.append((name, str(error).replace(f"{part.source}{os.sep}", "")))
    part.target.mkdir(parents=True, exist_ok=True)
    try:
        with open(part.unfinished, "wb", opener=_open_as_it_is) as output:
            output.seek(offset(start))
            output.write(images[: len(kept)].data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(part.unfinished)) from error
    return Decoded(kept, b"".join(records), skipped, unreadable)


def _open_as_it_is(path: str, flags: int) -> int:
    """Opens a file that several processes write to: whoever comes first makes it, and nobody empties it."""
    return os.open(path, flags & ~os.O_TRUNC, 0o666)


def record(name: str, status: os.stat_result) -> bytes:
    """Returns what tells whether a file changed; the SHA-256 of those of all files of a part is its source."""
    return os.fsencode(f"{name}{SEPARATOR}{status.st_size}{SEPARATOR}{status.st_mtime_ns}{SEPARATOR}")


def offset(number: int) -> int:
    """Returns where in the file of a part an image is, in bytes."""
    return len(header(0)) + number * IMAGE_BYTES


def header(n: int) -> bytes:
    """Returns the header of an array of ``n`` images, which has the same length for every ``n``."""
    file = io.BytesIO()
    shape = (n, 3, SIDE, SIDE)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()
