"""Turning JSON records and blocks of memory back into live objects; see :mod:`clpack.strategies._state`."""

from __future__ import annotations

import collections
import enum
import functools
import pathlib
import random
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ._encoder import below
from ._graph import TORCH_FUNCTIONS, Names, References, is_from, is_plain_class, name_of, slots

__all__ = ["Decoder"]


class Decoder:
    """Turns records back into values, reusing the live object at the same place where its class is the saved one.

    Args:
        records: what ``Encoder.records`` were.
        starts: the first part of ``Encoder.blocks()``.
        contents: the second part of ``Encoder.blocks()``.
        root: the live tree.
        references: the objects that the records refer to.
        skip: whether an attribute, given its owner and its name, stays as it is.
        map_location: the device for everything, or None for the devices of the records.

    Raises:
        ValueError: if the records refer to a class, a function or an object that is not there or not allowed. Nothing
            has been restored then.
    """

    def __init__(
        self,
        records: list[dict[str, Any]],
        starts: list[int],
        contents: list[Tensor],
        root: object,
        *,
        references: References,
        skip: Callable[[object, str], bool],
        map_location: torch.device | str | None,
    ) -> None:
        self._records = records
        self._starts = starts
        self._contents = contents
        self._references = references
        self._names = Names([root, references.root])
        self._skip = skip
        self._map_location = map_location
        self._values: dict[int, Any] = {}
        self._storages: dict[tuple[int, torch.device], torch.UntypedStorage] = {}
        self._adopted: set[int] = set()  # ids of the live objects that have been restored
        for record in records:  # all of them, before the first live object is touched
            if "class" in record:
                self._names.resolve(record["class"])
            if record["kind"] == "named":
                self._names.resolve(record["name"])
            if record["kind"] == "reference":
                references.resolve(record)

    def value(self, encoded: Any, live: Any, path: str) -> Any:
        """Decodes a value.

        Args:
            encoded: what ``Encoder.value`` returned.
            live: the object that is now at its place, to be restored if it is of the saved class; None for none.
            path: where it is, for messages.

        Raises:
            ValueError: if something is not as it was when the state was written, or the records are damaged.
        """
        if not isinstance(encoded, list):
            return encoded
        (index,) = encoded
        if index not in self._values:
            value = self._make(index, self._records[index], live, path)
            self._values.setdefault(index, value)  # a cycle through a tuple may have made it meanwhile
        return self._values[index]

    def _make(self, index: int, record: dict[str, Any], live: Any, path: str) -> Any:
        match record["kind"]:
            case "object":
                return self._object(index, record, live, path)
            case "state":
                return self._state(record, live, path)
            case "kept":
                return _keep(record, live, path)
            case "nothing":
                return None
            case "reference":
                return self._references.resolve(record)
            case "list":
                return self._list(index, record, live, path)
            case "dict":
                return self._dict(index, record, live, path)
            case "tuple":
                cls = self._class(record, tuple)
                return tuple.__new__(cls, self._items(record, live if type(live) is cls else (), path))
            case "set":
                return _ordered_set(self._items(record, (), path), record["bytes"])
            case "frozenset":
                return frozenset(self._items(record, (), path))
            case "deque":
                return collections.deque(self._items(record, (), path), record["maxlen"])
            case "tensor":
                return self._tensor(record, live, path)
            case "array":
                return self._array(record, path)
            case "scalar":
                return self._array(record, path)[()]
            case "bytes":
                return self._array(record, path).tobytes()
            case "size":
                return torch.Size(record["items"])
            case "slice":
                return slice(*record["items"])
            case "range":
                return range(*record["items"])
            case "dtype":
                return _dtype(record["name"])
            case "device":
                return self._device(record["name"])
            case "path":
                return pathlib.Path(record["name"])
            case "enum":
                return self._class(record, enum.Enum).__members__[record["name"]]
            case "generator":
                return self._generator(record, live, path)
            case "partial":
                return self._partial(record, live, path)
            case "named":
                return self._names.resolve(record["name"])
            case "torch" if record["name"] in TORCH_FUNCTIONS:
                return TORCH_FUNCTIONS[record["name"]]
        raise ValueError(f"the checkpoint is damaged: cannot read the {record['kind']!r} at {path}")

    def _class(self, record: dict[str, Any], base: type) -> type[Any]:
        cls = self._names.resolve(record["class"]) if "class" in record else base
        if not isinstance(cls, type) or not issubclass(cls, base):
            raise ValueError(f"the checkpoint is damaged: {cls!r} is not a class of {base.__name__}")
        return cls

    def _adopt(self, live: Any, cls: Any) -> bool:
        """Whether the live object becomes the saved one of that class: each at most once, the benchmark's never."""
        if type(live) is not cls or id(live) in self._adopted or live in self._references:
            return False
        if isinstance(live, Dataset) or is_from(live, ("avalanche.benchmarks",)):
            return False  # it may share its parts with the benchmark
        self._adopted.add(id(live))
        return True

    def _object(self, index: int, record: dict[str, Any], live: Any, path: str) -> Any:
        cls = self._class(record, object)
        if not is_plain_class(cls):
            raise ValueError(f"the checkpoint is damaged: {path} cannot be an object of {cls!r}")
        target = live if self._adopt(live, cls) else object.__new__(cls)
        self._values[index] = target
        self._set_attributes(target, record["attributes"], path, adopted=target is live)
        return target

    def _set_attributes(self, target: Any, attributes: list[Any], path: str, *, adopted: bool) -> None:
        own = getattr(target, "__dict__", {})
        before = dict(own)
        for name in before.keys() - {name for name, _ in attributes}:
            if not self._skip(target, name):
                del own[name]
        for name, encoded in attributes:
            if adopted and isinstance(target, nn.Module | torch.optim.Optimizer) and "_hooks" in name:
                continue  # registered again by whoever built the live object; usually closures
            if name in slots(target):
                object.__setattr__(target, name, self.value(encoded, getattr(target, name, None), f"{path}.{name}"))
            else:
                own[name] = self.value(encoded, before.get(name), f"{path}.{name}")

    def _state(self, record: dict[str, Any], live: Any, path: str) -> Any:
        if type(live) is not self._class(record, object):
            raise ValueError(f"expected a {'.'.join(record['class'])} at {path}, found {live!r}; build it as before")
        live.load_checkpoint_state(self.value(record["state"], None, path))
        return live

    def _list(self, index: int, record: dict[str, Any], live: Any, path: str) -> list[Any]:
        cls = self._class(record, list)
        target: list[Any] = live if self._adopt(live, cls) else list.__new__(cls)
        self._values[index] = target
        before = list(target)
        target.clear()
        for position, encoded in enumerate(record["items"]):
            counterpart = before[position] if position < len(before) else None
            target.append(self.value(encoded, counterpart, f"{path}[{position}]"))
        self._set_attributes(target, record.get("attributes", []), path, adopted=target is live)
        return target

    def _dict(self, index: int, record: dict[str, Any], live: Any, path: str) -> dict[Any, Any]:
        cls = self._class(record, dict)
        target: dict[Any, Any] = live if self._adopt(live, cls) else dict.__new__(cls)
        self._values[index] = target
        before = dict(target)
        target.clear()
        for encoded_key, encoded in record["items"]:
            key = self.value(encoded_key, None, f"a key of {path}")
            target[key] = self.value(encoded, before.get(key), below(path, key))
        if isinstance(target, collections.defaultdict):
            target.default_factory = self.value(record["factory"], target.default_factory, f"{path}.default_factory")
        self._set_attributes(target, record.get("attributes", []), path, adopted=target is live)
        return target

    def _items(self, record: dict[str, Any], live: Sequence[Any], path: str) -> list[Any]:
        before = [*live, *[None] * len(record["items"])]
        return [self.value(item, before[k], f"{path}[{k}]") for k, item in enumerate(record["items"])]

    def _tensor(self, record: dict[str, Any], live: Any, path: str) -> Tensor:
        dtype, device, block = _dtype(record["dtype"]), self._device(record["device"]), record["block"]
        if (block, device) not in self._storages:
            # A copy, since what the file reader returns need not be writable or aligned.
            self._storages[block, device] = self._contents[block].clone().to(device).untyped_storage()
        offset = record["offset"] - self._starts[block] // dtype.itemsize
        value = torch.empty(0, dtype=dtype, device=device)
        value.set_(self._storages[block, device], offset, record["shape"], record["stride"])
        if record["parameter"]:
            fits = isinstance(live, nn.Parameter) and live.shape == value.shape and live.device == device
            if fits and live.dtype == dtype and self._adopt(live, nn.Parameter):
                live.data = value  # and not a copy into it, so that tensors that shared memory share it again
                value = live
            else:
                value = nn.Parameter(value, requires_grad=False)
        value.requires_grad_(record["requires_grad"])
        value.grad = self.value(record["grad"], None, f"{path}.grad")
        self._set_attributes(value, record["attributes"], path, adopted=value is live)
        return value

    def _array(self, record: dict[str, Any], path: str) -> Any:
        content = self.value(record["bytes"], None, path).cpu().numpy().tobytes()
        return np.frombuffer(content, np.dtype(record["dtype"])).reshape(record["shape"]).copy()

    def _device(self, name: str) -> torch.device:
        return torch.device(name if self._map_location is None else self._map_location)

    def _generator(self, record: dict[str, Any], live: Any, path: str) -> torch.Generator:
        device = self._device(record["device"])
        adopted = isinstance(live, torch.Generator) and live.device == device and self._adopt(live, torch.Generator)
        generator: torch.Generator = live if adopted else torch.Generator(device)
        return generator.set_state(self.value(record["state"], None, path).cpu())

    def _partial(self, record: dict[str, Any], live: Any, path: str) -> functools.partial[Any]:
        before = (live.func, live.args, live.keywords) if isinstance(live, functools.partial) else ()
        function, arguments, keywords = self.value(record["call"], before, path)
        if not isinstance(function, types.FunctionType) and function not in before[:1]:
            raise ValueError(f"the checkpoint is damaged: {path} calls {function!r}, which is not a function")
        return functools.partial(function, *arguments, **keywords)


def _keep(record: dict[str, Any], live: Any, path: str) -> Any:
    if name_of(type(live)) != record["type"]:
        raise ValueError(
            f"{path} was a {'.'.join(record['type'])}, which a checkpoint cannot hold, and the strategy being "
            f"restored has {live!r} there; let its owner create it in the constructor"
        )
    return live


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"the checkpoint is damaged: unknown dtype {name!r}")
    return dtype


def _ordered_set(items: list[Any], size: int) -> set[Any]:
    """Returns a set that iterates in the given order, if it is one of up to 1000 integers and that order is found.

    Sums over a set of class labels (in Avalanche's LwF) are rounded in its order, which comes from the size of its
    hash table and from who took a place first. The size in bytes tells that of the table. Who came first is searched
    for: as long as the orders agree up to some item, an item goes elsewhere in the order in which they are added.

    Args:
        items: in the order wanted.
        size: ``sys.getsizeof`` of the set that had this order.
    """
    if len(items) > 1000 or any(type(item) is not int for item in items):
        return set(items)
    counts = [count for count in range(len(items) + 1) if sys.getsizeof(_filled(items, count)) == size]
    draws, agreed, trial = random.Random(0), -1, items
    order, instead = items, None  # the best order so far, and what its set has after the items that agree
    for _ in range(10_000 if counts else 0):
        candidate = _filled(trial, draws.choice(counts))
        pairs = enumerate(zip(items, candidate, strict=True))
        position = next((position for position, (item, met) in pairs if item != met), len(items))
        if position == len(items):
            return candidate
        if position >= agreed:
            agreed, order, instead = position, trial, list(candidate)[position]
        moved = draws.choice((items[agreed], instead, draws.choice(items)))
        trial = [item for item in order if item != moved]
        trial.insert(draws.randrange(len(items)), moved)
    return set(items)


def _filled(items: list[int], at_once: int) -> set[int]:
    """Adds so many items at once and the others one by one, which leads to hash tables of different sizes."""
    filled = set(dict.fromkeys(items[:at_once]))  # the length of a dictionary says how much room to make
    for item in items[at_once:]:
        filled.add(item)
    return filled
