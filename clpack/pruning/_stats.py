"""The "stats" pickles of github.com/mtoneva/example_forgetting, written by its training scripts.

They hold a dictionary: sample index -> ``[losses, accuracies, margins]``, one number per presentation in each, in the
order in which samples were first presented, and ``"train"`` and ``"test"`` -> ``[[], accuracies]``.

They are read without running anything that they could ask for, see :mod:`clpack._unpickling`.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clpack._unpickling import ALLOWED, Array, NumbersUnpickler, RefusedError
from clpack.files import write_bytes

__all__ = ["read_stats", "write_stats"]


def read_stats(path: str | os.PathLike[str]) -> dict[int | str, list[NDArray[np.float64]]]:
    """Reads a stats pickle.

    Returns:
        For each key, its lists as float64 arrays of shape ``(T,)``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or holds anything but numbers, strings, lists, dictionaries and NumPy arrays
            and scalars, in the layout above.
    """
    with Path(path).open("rb") as file:
        try:
            stats = NumbersUnpickler(file).load()
        except RefusedError as error:
            raise ValueError(f"{path} asks for {error}; a stats pickle holds {ALLOWED} only") from None
        except Exception as error:  # whatever a damaged program runs into
            raise ValueError(f"{path} is no stats pickle, or damaged ({error!r})") from error
    if not isinstance(stats, dict):
        raise ValueError(f"{path} must hold a dictionary, got {type(stats).__name__}")
    return {_key(key, path): _lists(key, entry, path) for key, entry in stats.items()}


def write_stats(path: str | os.PathLike[str], stats: dict[int | str, list[list[Any]]]) -> None:
    """Writes a stats pickle atomically; ``stats`` holds plain Python objects only."""
    write_bytes(path, pickle.dumps(stats, protocol=4))


def _key(key: object, path: str | os.PathLike[str]) -> int | str:
    if (isinstance(key, int) and key >= 0) or (isinstance(key, str) and key in ("train", "test")):
        return key
    raise ValueError(f"{path} has the key {key!r}, expected sample indices from 0 on, 'train' and 'test'")


def _lists(key: object, entry: Any, path: str | os.PathLike[str]) -> list[NDArray[np.float64]]:
    entry = entry.values if isinstance(entry, Array) else entry
    try:
        lists = [np.asarray(part.values if isinstance(part, Array) else part, dtype=np.float64) for part in entry]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}, entry {key!r}: expected lists of numbers, got others ({error})") from error
    if any(part.ndim != 1 for part in lists):
        raise ValueError(f"{path}, entry {key!r}: expected flat lists, got shapes {[part.shape for part in lists]}")
    return lists
