"""GenImage's prepared arrays on the disk: their manifests, and whether they are whole.

``<generator>/parts.json`` lists the folders that converting a download makes for a generator, and is written before
the first of them. Nothing here needs torch, so that the processes that convert images start at once.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ._genimage_classes import CLASSES_PER_TASK

__all__ = ["AGAIN", "ARRAYS", "PARTS", "left_over", "read_manifest", "sha256", "size_problem", "verify_genimage"]

ARRAYS = ("images.npy", "labels.npy")
PARTS = "parts.json"
AGAIN = "remove its folder and run clpack data prepare genimage again"
_GO_ON = "run clpack data prepare genimage again"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the manifest of the arrays in a folder.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged.
    """
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        counts, files = manifest["images_per_class"], manifest["files"]
        sound = (len(counts), sum(counts), set(files)) == (CLASSES_PER_TASK, manifest["images"], set(ARRAYS)) and all(
            isinstance(file["bytes"], int) and isinstance(file["sha256"], str) for file in files.values()
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise ValueError(f"{path} is damaged; {AGAIN}")
    return manifest


def size_problem(path: Path, size: int) -> str | None:
    """Returns what is wrong with a file that should have ``size`` bytes, None for nothing."""
    if not path.is_file():
        return "missing"
    found = path.stat().st_size
    return None if found == size else f"{found} bytes where {size} are expected"


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def left_over(folder: Path) -> list[Path]:
    """Returns the files that a process which was killed left unfinished.

    Args:
        folder: the one with the generators.
    """
    return sorted(path for places in ("*", "*/[0-5]/*/*") for path in folder.glob(f"{places}/.*.partial"))


def verify_genimage(root: Path) -> list[tuple[Path, str | None]]:
    """Compares what is prepared with the manifests and with the lists of what should be.

    Args:
        root: the dataset root.

    Returns:
        Each file and what is wrong with it, None for nothing. Empty if nothing is prepared there.
    """
    folder = root / "genimage"
    found: list[tuple[Path, str | None]] = [(path, f"not finished; {_GO_ON}") for path in left_over(folder)]
    names = (*ARRAYS, "manifest.json")
    parts = {path.parent for name in names for path in folder.glob(f"*/[0-5]/*/*/{name}")}
    for generator in sorted({part.parents[2] for part in parts} | {path.parent for path in folder.glob(f"*/{PARTS}")}):
        try:
            parts |= {generator / part for part in json.loads((generator / PARTS).read_text())}
        except (FileNotFoundError, ValueError, TypeError):
            found.append((generator / PARTS, f"missing or damaged; {_GO_ON}"))
    return found + [status for part in sorted(parts) for status in _verify_part(part)]


def _verify_part(folder: Path) -> list[tuple[Path, str | None]]:
    try:
        files = read_manifest(folder)["files"]
    except FileNotFoundError:
        return [(folder, f"not finished; {_GO_ON}")]
    except ValueError:
        return [(folder / "manifest.json", f"damaged; {AGAIN}")]
    return [(folder / name, _problem(folder / name, files[name])) for name in ARRAYS]


def _problem(path: Path, expected: dict[str, Any]) -> str | None:
    problem = size_problem(path, expected["bytes"])
    if problem is None and (found := sha256(path)) != expected["sha256"]:
        problem = f"wrong content, SHA-256 {found} where {expected['sha256']} is expected"
    return None if problem is None else f"{problem}; {AGAIN}"
