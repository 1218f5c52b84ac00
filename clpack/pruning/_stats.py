"""The "stats" pickles of github.com/mtoneva/example_forgetting, written by its training scripts.

They hold a dictionary: sample index -> ``[losses, accuracies, margins]``, one number per presentation in each, in the
order in which samples were first presented, and ``"train"`` and ``"test"`` -> ``[[], accuracies]``.

A pickle is a program. The reader here runs it with nothing to call but the stand-ins below, which make plain numbers
and arrays of numbers, so a file can neither import nor run anything.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
            stats = _StatsUnpickler(file).load()
        except _RefusedError as error:
            raise ValueError(f"{path} asks for {error}; a stats pickle holds {_ALLOWED} only") from None
        except Exception as error:  # whatever a damaged program runs into
            raise ValueError(f"{path} is no stats pickle, or damaged ({error!r})") from error
    if not isinstance(stats, dict):
        raise ValueError(f"{path} must hold a dictionary, got {type(stats).__name__}")
    return {_key(key, path): _lists(key, entry, path) for key, entry in stats.items()}


def write_stats(path: str | os.PathLike[str], stats: dict[int | str, list[list[Any]]]) -> None:
    """Writes a stats pickle atomically; ``stats`` holds plain Python objects only."""
    write_bytes(path, pickle.dumps(stats, protocol=4))


_ALLOWED = "numbers, strings, lists, dictionaries and NumPy arrays and scalars"


class _RefusedError(Exception):
    """The file asks for something that numbers do not need."""


class _StatsUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # A new function at every call: a file can set attributes of what it is given.
        match module.replace("numpy._core", "numpy.core"), name:
            case "numpy", "dtype":
                return lambda code, *_: _DType(code)
            case "numpy", "ndarray":
                return "ndarray"  # only ever an argument of _reconstruct
            case "numpy.core.multiarray", "_reconstruct":
                return lambda *_: _Array()
            case "numpy.core.multiarray", "scalar":
                return lambda dtype, content: np.frombuffer(content, dtype.dtype)[0].item()
            case "numpy.core.numeric", "_frombuffer":
                return lambda content, dtype, shape, order: _Array(
                    np.frombuffer(content, dtype.dtype).reshape(shape, order=order)
                )
            case "_codecs", "encode":
                return lambda text, _: text.encode("latin1")  # bytes in the oldest protocols
        raise _RefusedError(f"{module}.{name}")


class _DType:
    """Stands in for a data type of numbers."""

    __slots__ = ("dtype",)

    def __init__(self, code: str) -> None:
        dtype = np.dtype(code)
        if dtype.kind not in "biuf":
            raise _RefusedError(f"an array of {dtype}")
        self.dtype = dtype

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands in for an array of numbers."""

    __slots__ = ("values",)

    def __init__(self, values: NDArray[Any] | None = None) -> None:
        self.values = values

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, content = state
        self.values = np.frombuffer(content, dtype.dtype).reshape(shape, order="F" if is_fortran else "C")


def _key(key: object, path: str | os.PathLike[str]) -> int | str:
    if (isinstance(key, int) and key >= 0) or (isinstance(key, str) and key in ("train", "test")):
        return key
    raise ValueError(f"{path} has the key {key!r}, expected sample indices from 0 on, 'train' and 'test'")


def _lists(key: object, entry: Any, path: str | os.PathLike[str]) -> list[NDArray[np.float64]]:
    entry = entry.values if isinstance(entry, _Array) else entry
    try:
        lists = [np.asarray(part.values if isinstance(part, _Array) else part, dtype=np.float64) for part in entry]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}, entry {key!r}: expected lists of numbers, got others ({error})") from error
    if any(part.ndim != 1 for part in lists):
        raise ValueError(f"{path}, entry {key!r}: expected flat lists, got shapes {[part.shape for part in lists]}")
    return lists
