"""Reading pickles from outside that hold nothing but numbers.

A pickle is a program. The reader here runs it with nothing to call but the stand-ins below, which make plain numbers
and arrays of numbers, so a file can neither import nor run anything.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALLOWED", "Array", "NumbersUnpickler", "RefusedError"]

ALLOWED = "numbers, strings, lists, dictionaries and NumPy arrays and scalars"


class RefusedError(Exception):
    """The file asks for something that numbers do not need."""


class NumbersUnpickler(pickle.Unpickler):
    """Reads a pickle of numbers, strings, lists, dictionaries and NumPy arrays, which become :class:`Array`."""

    def find_class(self, module: str, name: str) -> Any:
        # A new function at every call: a file can set attributes of what it is given.
        match module.replace("numpy._core", "numpy.core"), name:
            case "numpy", "dtype":
                return lambda code, *_: _DType(code)
            case "numpy", "ndarray":
                return "ndarray"  # only ever an argument of _reconstruct
            case "numpy.core.multiarray", "_reconstruct":
                return lambda *_: Array()
            case "numpy.core.multiarray", "scalar":
                return lambda dtype, content: np.frombuffer(content, dtype.dtype)[0].item()
            case "numpy.core.numeric", "_frombuffer":
                return lambda content, dtype, shape, order: Array(
                    np.frombuffer(content, dtype.dtype).reshape(shape, order=order)
                )
            case "_codecs", "encode":
                return lambda text, _: text.encode("latin1")  # bytes in the oldest protocols
        raise RefusedError(f"{module}.{name}")


class _DType:
    """Stands in for a data type of numbers."""

    __slots__ = ("dtype",)

    def __init__(self, code: str) -> None:
        dtype = np.dtype(code)
        if dtype.kind not in "biuf":
            raise RefusedError(f"an array of {dtype}")
        self.dtype = dtype

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class Array:
    """Stands in for an array of numbers."""

    __slots__ = ("values",)

    def __init__(self, values: NDArray[Any] | None = None) -> None:
        self.values = values

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, content = state
        self.values = np.frombuffer(content, dtype.dtype).reshape(shape, order="F" if is_fortran else "C")
