"""Where data lies on the disk, and writing files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["atomic_path", "resolve_dataset_root", "write_bytes", "write_text"]


def resolve_dataset_root(dataset_root: str | os.PathLike[str] | None = None) -> Path:
    """Returns the folder that holds the data sets.

    Args:
        dataset_root: the folder; None takes the environment variable ``CLPACK_DATA``, and if that is unset or
            empty, ``~/.clpack``.
    """
    return Path(dataset_root or os.environ.get("CLPACK_DATA") or "~/.clpack").expanduser()


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; on success it replaces ``path``, on error it is removed.

    The content is flushed to the disk before the rename, and the folder is created if it is missing, so after
    a crash ``path`` holds either the whole old content or the whole new one.

    Args:
        path: the file to write.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # mkstemp makes private files; results are shared like any other file
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes ``content`` to ``path`` atomically."""
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Writes ``content`` to ``path`` atomically, as UTF-8."""
    write_bytes(path, content.encode())
