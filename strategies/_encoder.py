"""Turning a tree of live objects into JSON records and blocks of memory; see :mod:`clpack.strategies._state`."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import pathlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data.dataloader import _BaseDataLoaderIter

from ._graph import ATOMS, TORCH_FUNCTIONS, References, find, is_from, is_plain, is_resource, name_of, slots

__all__ = ["Encoder", "below"]

_COLLECTIONS = (set, frozenset, collections.deque)  # without subclasses
_PICTURES = ("matplotlib", "PIL")  # in metric histories: neither stored nor needed to go on
_TORCH_NAMES = {function: name for name, function in TORCH_FUNCTIONS.items()}
_ALIGNMENT = 64  # bytes: blocks keep the alignment that torch gave them, which some kernels' rounding depends on


@dataclasses.dataclass
class _Block:
    """The bytes of a storage that tensors use."""

    storage: torch.UntypedStorage
    start: int
    stop: int


class Encoder:
    """Turns values into JSON: atoms as they are, anything else as ``[index]`` of a record.

    Args:
        references: the objects that are referred to instead of stored.
        skip: whether an attribute, given its owner and its name, is left out.

    Attributes:
        records: what was encoded so far.
    """

    def __init__(self, references: References, skip: Callable[[object, str], bool]) -> None:
        self.records: list[Any] = []
        self._references = references
        self._skip = skip
        self._indices: dict[int, int] = {}
        self._alive: list[Any] = []  # an id names an object only as long as the object lives
        self._blocks: dict[tuple[torch.device, int], tuple[int, _Block]] = {}

    def value(self, value: Any, path: str) -> Any:
        """Encodes a value and all that it refers to.

        Raises:
            TypeError: if something can be neither stored nor kept, naming where below ``path`` it is.
        """
        if type(value) in ATOMS:
            return value
        index = self._indices.setdefault(id(value), len(self.records))
        if index == len(self.records):
            self._alive.append(value)
            self.records.append(None)
            self.records[index] = self._record(value, path)
        return [index]

    def blocks(self) -> tuple[list[int], list[Tensor]]:
        """Returns the memory that the encoded tensors use: where in its storage each block begins, and its bytes."""
        starts, contents = [], []
        for _, block in self._blocks.values():
            starts.append(block.start - block.start % _ALIGNMENT)
            whole = torch.empty(0, dtype=torch.uint8, device=block.storage.device).set_(block.storage)
            contents.append(whole[starts[-1] : block.stop].cpu())
        return starts, contents

    def _record(self, value: Any, path: str) -> dict[str, Any]:
        if value in self._references:
            return {"kind": "reference", **self._references.describe(value)}
        if is_from(value, _PICTURES):
            return {"kind": "nothing"}
        if is_resource(value):
            return _kept(value)
        match value:
            case Tensor():
                return self._tensor(value, path)
            case torch.Size():
                return {"kind": "size", "items": list(value)}
            case list() | tuple():
                base = list if isinstance(value, list) else tuple
                return {"kind": base.__name__, "items": self._items(value, path), **self._subclass(value, base, path)}
            case set() | frozenset() | collections.deque() if type(value) in _COLLECTIONS:
                items, maxlen = self._items(value, path), getattr(value, "maxlen", None)
                return {"kind": type(value).__name__, "items": items, "maxlen": maxlen, "bytes": sys.getsizeof(value)}
            case dict():
                return self._dict(value, path)
            case enum.Enum():
                return {"kind": "enum", "class": name_of(type(value)), "name": value.name}
            case bytes():
                return {**self._array(np.frombuffer(value, np.uint8), path), "kind": "bytes"}
            case np.ndarray():
                return {**self._array(value, path), "kind": "array"}
            case np.generic():
                return {**self._array(np.asarray(value), path), "kind": "scalar"}
            case slice() | range():
                return {"kind": type(value).__name__, "items": [value.start, value.stop, value.step]}
            case torch.dtype():
                return {"kind": "dtype", "name": _dtype_name(value)}
            case torch.device():
                return {"kind": "device", "name": str(value)}
            case torch.Generator():
                return {"kind": "generator", "device": str(value.device), "state": self.value(value.get_state(), path)}
            case pathlib.PurePath():
                return {"kind": "path", "name": str(value)}
            case functools.partial():
                return {"kind": "partial", "call": self.value((value.func, value.args, value.keywords), path)}
            case type() | types.FunctionType() if find(name_of(value)) is value:
                return {"kind": "named", "name": name_of(value)}
            case types.BuiltinFunctionType() if value in _TORCH_NAMES:
                return {"kind": "torch", "name": _TORCH_NAMES[value]}
            case _ if is_plain(value) and not isinstance(value, _BaseDataLoaderIter):
                return self._object(value, path)
        return _kept_if_stateless(value, path)

    def _object(self, value: Any, path: str) -> dict[str, Any]:
        cls = name_of(type(value))
        if hasattr(value, "checkpoint_state"):
            return {"kind": "state", "class": cls, "state": self.value(value.checkpoint_state(), path)}
        return {"kind": "object", "class": cls, "attributes": self._attributes(value, path)}

    def _items(self, values: Any, path: str) -> list[Any]:
        if ATOMS.issuperset(map(type, values)):  # usual, and long: labels, indices, metric histories
            return list(values)
        return [self.value(item, f"{path}[{position}]") for position, item in enumerate(values)]

    def _dict(self, value: dict[Any, Any], path: str) -> dict[str, Any]:
        items = [[self.value(k, f"a key of {path}"), self.value(v, below(path, k))] for k, v in value.items()]
        record = {"kind": "dict", "items": items, **self._subclass(value, dict, path)}
        if isinstance(value, collections.defaultdict):
            record["factory"] = self.value(value.default_factory, f"{path}.default_factory")
        return record

    def _subclass(self, value: Any, base: type, path: str) -> dict[str, Any]:
        if type(value) is base:
            return {}
        return {"class": name_of(type(value)), "attributes": self._attributes(value, path)}

    def _attributes(self, value: Any, path: str) -> list[Any]:
        named = dict(getattr(value, "__dict__", {}))
        named.pop("__orig_class__", None)  # a type hint
        named |= {name: getattr(value, name) for name in slots(value) if hasattr(value, name)}
        return [[name, self.value(v, f"{path}.{name}")] for name, v in named.items() if not self._skip(value, name)]

    def _array(self, value: np.ndarray[Any, Any], path: str) -> dict[str, Any]:
        if value.dtype.hasobject:
            raise TypeError(f"{path} is an array of Python objects, which a checkpoint cannot hold; use a list")
        content = torch.from_numpy(np.frombuffer(value.tobytes(), np.uint8).copy())
        return {"dtype": value.dtype.str, "shape": value.shape, "bytes": self.value(content, path)}

    def _tensor(self, value: Tensor, path: str) -> dict[str, Any]:
        dense = value.layout == torch.strided and not value.is_quantized and not value.is_meta
        if type(value) not in (Tensor, nn.Parameter) or not dense:
            raise TypeError(
                f"{path} is a {type(value).__name__} of layout {value.layout} on {value.device}; "
                f"a checkpoint holds dense tensors and parameters: keep its values in one"
            )
        return {
            "kind": "tensor",
            "block": self._block(value),
            "dtype": _dtype_name(value.dtype),
            "shape": list(value.shape),
            "stride": value.stride(),
            "offset": value.storage_offset(),
            "device": str(value.device),
            "parameter": isinstance(value, nn.Parameter),
            "requires_grad": value.is_leaf and value.requires_grad,  # a graph is over when a state is taken
            "grad": self.value(value.grad if value.is_leaf else None, f"{path}.grad"),
            "attributes": self._attributes(value, path),
        }

    def _block(self, value: Tensor) -> int:
        """Returns the index of the block that a tensor shares with all others in its storage, after widening it."""
        start = int(value.storage_offset()) * value.itemsize
        reach = sum((n - 1) * stride for n, stride in zip(value.shape, value.stride(), strict=True))
        stop = start + (int(reach) + 1) * value.itemsize if value.numel() else start
        storage = value.untyped_storage()
        key = (value.device, storage.data_ptr() or -len(self._blocks) - 1)  # empty storages all have address 0
        index, block = self._blocks.setdefault(key, (len(self._blocks), _Block(storage, start, stop)))
        block.start, block.stop = min(start, block.start), max(stop, block.stop)
        return index


def below(path: str, key: Any) -> str:
    """Returns where the value of a key is, for messages; keys of the root are names."""
    shown = repr(key) if type(key) in ATOMS else f"<{type(key).__name__}>"
    return f"{path}[{shown}]" if path else str(key)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _kept(value: object) -> dict[str, Any]:
    return {"kind": "kept", "type": name_of(type(value))}


def _kept_if_stateless(value: object, path: str) -> dict[str, Any]:
    """Keeps what has no state to lose: lambdas, methods, modules, sentinels, weak references, finished iterators."""
    if callable(value) or isinstance(value, types.ModuleType) or type(value) is object:
        return _kept(value)
    if not isinstance(value, Iterator):
        raise TypeError(
            f"{path} is a {'.'.join(name_of(type(value)))}, whose state a checkpoint cannot hold; "
            f"keep numbers, strings, containers, arrays or tensors in its place, or draw from a torch.Generator"
        )
    if getattr(value, "__length_hint__", lambda: 1)() != 0:
        raise TypeError(
            f"{path} is an open iterator, whose position a checkpoint cannot hold; "
            f"keep the data and a position in it instead, or drop the iterator before saving"
        )
    return _kept(value)
