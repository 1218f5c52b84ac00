"""Writing the state of a tree of live objects to a file, and putting it back into a tree built anew, without pickle.

A state file is a safetensors file. Its tensors are memory blocks; one of them is a JSON table of records that
describes lists, dictionaries, tensors, objects and who refers to whom. Reading creates objects without calling
constructors or any other code that a file could choose, and finds classes and functions only where an honest file
needs them: in the tree being restored, in the modules of its classes, and in the packages listed below.

Restoring is in place: where the tree already holds an object of the saved class, that object takes over the saved
attributes, so that references to the strategy's model, parameters or plugins stay valid.
"""

from __future__ import annotations

import collections
import enum
import functools
import io
import json
import os
import pathlib
import random
import sys
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch.utils.data.dataloader import _BaseDataLoaderIter

from clpack.files import atomic_path

__all__ = ["read_header", "read_state", "write_state"]

_FORMAT, _SCHEMA = "clpack state", "1"
_ATOMS = frozenset({type(None), bool, int, float, str})  # JSON holds these exactly, inf and nan included
_ALIGNMENT = 64  # bytes: blocks keep the alignment that torch gave them, which some kernels' rounding depends on

# Objects that stand for something outside the process: never stored, the live one stays in its place.
_RESOURCES = (
    *("_io", "_thread", "_threading_local", "logging", "multiprocessing", "queue", "rich", "socket", "subprocess"),
    *("tensorboard", "threading", "torch.utils.tensorboard", "tqdm", "wandb"),
)
_PICTURES = ("matplotlib", "PIL")  # in metric histories: neither stored nor needed to go on

_CLASS_PACKAGES = ("avalanche", "clpack", "collections", "torch.nn", "torch.optim", "torch.utils.data", "torchvision")
_FUNCTION_PACKAGES = (
    "avalanche.benchmarks.utils",
    "avalanche.evaluation",
    "clpack",
    "torch.nn",
    "torch.utils.data",
    "torchvision.transforms",
)
_BUILTINS = frozenset(
    {bool, bytes, complex, dict, float, frozenset, int, list, object, range, set, slice, str, tuple, type(None)}
)
_TORCH_FUNCTIONS = ("empty", "ones", "rand", "randn", "relu", "sigmoid", "tanh", "zeros")
_SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": collections.deque}

Skip = Callable[[object, str], bool]


def write_state(
    path: str | os.PathLike[str], header: Mapping[str, str], root: dict[str, Any], *, unique_objects: Any, skip: Skip
) -> None:
    """Writes everything reachable from ``root`` to ``path``, atomically.

    Args:
        path: the file to write.
        header: short strings that :func:`read_header` returns without reading the rest.
        root: what to write.
        unique_objects: objects that exist again at reading time, e.g. the benchmark: what is reachable from them
            is referred to instead of stored. None for none.
        skip: whether an attribute, given its owner and its name, is left out.

    Raises:
        TypeError: if something can be neither stored nor kept, naming where it is.
    """
    encoder = _Encoder(_References(unique_objects), skip)
    encoder.value(root, "")
    tensors = encoder.blocks()
    table = {"records": encoder.records, "blocks": encoder.block_starts}
    tensors["table"] = torch.frombuffer(bytearray(json.dumps(table).encode()), dtype=torch.uint8)
    with atomic_path(path) as partial:
        save_file(tensors, partial, metadata={**header, "format": _FORMAT, "schema": _SCHEMA})


def read_header(path: str | os.PathLike[str]) -> dict[str, str]:
    """Returns the header of a state file.

    Raises:
        ValueError: if the file is damaged, not a state file, or of another version of the format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a checkpoint ({error}); delete it to start anew") from error
    if header.get("format") != _FORMAT:
        raise ValueError(f"{path} is not a checkpoint of clpack; give another file name")
    if header.get("schema") != _SCHEMA:
        raise ValueError(
            f"{path} has checkpoint schema {header.get('schema')!r}, this version of clpack reads {_SCHEMA!r}; "
            f"use the version that wrote it or delete it to start anew"
        )
    return header


def read_state(
    path: str | os.PathLike[str],
    root: dict[str, Any],
    *,
    unique_objects: Any,
    skip: Skip,
    map_location: torch.device | str | None = None,
) -> dict[str, Any]:
    """Restores a file of :func:`write_state` into the live objects of ``root`` and returns the restored root.

    Args:
        path: the file.
        root: the live tree: the same keys as were written, as far as there are live objects for them.
        unique_objects: what was given to :func:`write_state`, built anew in the same way.
        skip: what was given to :func:`write_state`; these attributes stay as they are.
        map_location: the device for everything that was saved, or None for the devices it was saved from.

    Raises:
        ValueError: if the file is damaged, or refers to a class, a function or an object of the benchmark that is
            not there.
    """
    read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        table = json.loads(tensors.pop("table").numpy().tobytes())
        records, starts = table["records"], table["blocks"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to start anew") from error
    decoder = _Decoder(records, starts, tensors, root, _References(unique_objects), skip, map_location)
    restored: dict[str, Any] = decoder.value([0], root, "")
    return restored


@functools.cache
def _is_from(cls: Any, packages: tuple[str, ...]) -> bool:
    """Whether a class or one of its bases is defined in one of the packages."""
    return any(_is_in(base.__module__, packages) for base in cls.__mro__)


def _is_in(module: str, packages: tuple[str, ...]) -> bool:
    return module.startswith(tuple(f"{name}." for name in packages)) or module in packages


def _is_plain(value: Any) -> bool:
    """Whether the state of an object is its attributes: a class written in Python, and no live resource."""
    cls: Any = type(value)
    if isinstance(value, type | types.FunctionType | types.ModuleType | Tensor) or _is_resource(value):
        return False
    return _is_plain_class(cls) and (hasattr(value, "__dict__") or bool(_slots(cls)))


def _is_plain_class(cls: Any) -> bool:
    return bool(cls.__new__ is object.__new__)


def _is_resource(value: Any) -> bool:
    cls: Any = type(value)
    return isinstance(value, io.IOBase) or _is_from(cls, _RESOURCES)


@functools.cache
def _slots(cls: Any) -> list[str]:
    names = [base.__dict__.get("__slots__", ()) for base in cls.__mro__]
    every = [name for slots in names for name in ([slots] if isinstance(slots, str) else slots)]
    return [name for name in every if name not in ("__dict__", "__weakref__")]


def _name(value: Any) -> list[str]:
    return [value.__module__ or "builtins", value.__qualname__]


def _find(module: str, qualname: str) -> Any:
    """Returns the class or function of that name if its module is imported and it is defined there, else None."""
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type | types.FunctionType) or _name(found) != [module, qualname]:
        return None
    return found


def _below(path: str, key: Any) -> str:
    """Returns where the value of a key is, for messages; keys of the root are names."""
    shown = repr(key) if type(key) in _ATOMS else f"<{type(key).__name__}>"
    return f"{path}[{shown}]" if path else str(key)


def _torch_function(name: str) -> Any:
    """Returns a function of torch that is written in C, which says no module, by its name."""
    function = getattr(nn.functional, name, None)
    if not isinstance(function, types.BuiltinFunctionType) and name in _TORCH_FUNCTIONS:
        function = getattr(torch, name)
    return function if isinstance(function, types.BuiltinFunctionType) else None


def _children(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, dict):
        yield from ((key, child) for key, child in value.items() if type(key) in (str, int))
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    elif _is_plain(value):
        yield from getattr(value, "__dict__", {}).items()


def _walk(root: object) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yields whatever is reachable from ``root`` once, with its shortest path of attributes, indices and keys."""
    seen = {id(root)}
    waiting: collections.deque[tuple[tuple[str | int, ...], Any]] = collections.deque([((), root)])
    while waiting:
        path, value = waiting.popleft()
        yield path, value
        for step, child in _children(value):
            if type(child) not in _ATOMS and id(child) not in seen:
                seen.add(id(child))
                waiting.append(((*path, step), child))


class _References:
    """The objects that exist again at reading time, and a name for each: its path."""

    def __init__(self, unique_objects: Any) -> None:
        streams = getattr(unique_objects, "streams", {})  # experiences may be made only when they are asked for
        self.root: Any = {
            "streams": {name: list(stream) for name, stream in streams.items()},
            "objects": unique_objects,
        }
        self.paths = {
            id(value): path
            for path, value in _walk(self.root)
            if len(path) > 1 and (isinstance(value, list | dict | Tensor | np.ndarray) or _is_plain(value))
        }
        if _is_plain(unique_objects):
            self.paths[id(unique_objects)] = ("objects",)

    def describe(self, value: Any) -> list[Any]:
        """Returns what must be equal at reading time: the class and the size, except of caches that fill up."""
        sized = isinstance(value, Sized) and not isinstance(value, dict)
        return [*_name(type(value)), list(value.shape) if hasattr(value, "shape") else len(value) if sized else None]

    def resolve(self, path: list[Any], description: list[Any]) -> Any:
        found: Any = self.root
        try:
            for step in path:
                found = found[step] if isinstance(found, dict | list | tuple) else found.__dict__[step]
        except (AttributeError, IndexError, KeyError, TypeError):
            found = None
        if self.describe(found) != description:
            raise ValueError(
                f"unique_objects is not the benchmark of the checkpoint: expected {description} at "
                f"{'.'.join(map(str, path))}, found {self.describe(found)}; build it in the same way as before"
            )
        return found


class _Encoder:
    """Turns values into JSON: atoms as they are, anything else as ``[index]`` of a record."""

    def __init__(self, references: _References, skip: Skip) -> None:
        self.records: list[Any] = []
        self.block_starts: list[int] = []
        self._references = references
        self._skip = skip
        self._indices: dict[int, int] = {}
        self._alive: list[Any] = []  # an id names an object only as long as the object lives
        self._blocks: dict[tuple[torch.device, int], tuple[int, torch.UntypedStorage]] = {}
        self._extents: list[tuple[int, int]] = []

    def value(self, value: Any, path: str) -> Any:
        if type(value) in _ATOMS:
            return value
        index = self._indices.setdefault(id(value), len(self.records))
        if index == len(self.records):
            self._alive.append(value)
            self.records.append(None)
            self.records[index] = self._record(value, path)
        return [index]

    def blocks(self) -> dict[str, Tensor]:
        """Returns, as bytes, the part of each storage that tensors use; ``block_starts`` says where it begins."""
        blocks = {}
        for (index, storage), (start, stop) in zip(self._blocks.values(), self._extents, strict=True):
            start -= start % _ALIGNMENT
            self.block_starts.append(start)
            whole = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
            blocks[str(index)] = whole[start:stop].cpu()
        return blocks

    def _record(self, value: Any, path: str) -> dict[str, Any] | None:
        cls: Any = type(value)
        reference = self._references.paths.get(id(value))
        if reference is not None:
            return {"kind": "reference", "path": reference, "is": self._references.describe(value)}
        if _is_from(cls, _PICTURES):
            return {"kind": "nothing"}
        if _is_resource(value):
            return self._kept(value)
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        for kind, base in _SEQUENCES.items():
            if isinstance(value, base) and cls is not torch.Size:
                items = list(value) if _ATOMS.issuperset(map(type, value)) else self._items(value, path)
                maxlen = getattr(value, "maxlen", None)
                return {"kind": kind, **self._subclass(value, base, path), "items": items, "maxlen": maxlen}
        if isinstance(value, dict):
            items = [[self.value(k, f"a key of {path}"), self.value(v, _below(path, k))] for k, v in value.items()]
            factory = self.value(getattr(value, "default_factory", None), f"{path}.default_factory")
            return {"kind": "dict", **self._subclass(value, dict, path), "items": items, "factory": factory}
        match value:
            case enum.Enum():
                return {"kind": "enum", "class": _name(cls), "name": value.name}
            case bytes():
                return self._array(np.frombuffer(value, np.uint8), path) | {"kind": "bytes"}
            case np.ndarray():
                return self._array(value, path) | {"kind": "array"}
            case np.generic():
                return self._array(np.asarray(value), path) | {"kind": "scalar"}
            case slice() | range():
                return {"kind": cls.__name__, "items": [value.start, value.stop, value.step]}
            case torch.Size():
                return {"kind": "size", "items": list(value)}
            case torch.dtype():
                return {"kind": "dtype", "name": str(value).removeprefix("torch.")}
            case torch.device():
                return {"kind": "device", "name": str(value)}
            case torch.Generator():
                return {"kind": "generator", "device": str(value.device), "state": self.value(value.get_state(), path)}
            case random.Random():
                return {"kind": "random", "state": self.value(value.getstate(), path)}
            case np.random.RandomState():
                return {"kind": "randomstate", "state": self.value(value.get_state(), path)}
            case np.random.Generator():
                state = self.value(value.bit_generator.state, path)
                return {"kind": "bitgenerator", "name": type(value.bit_generator).__name__, "state": state}
            case pathlib.PurePath():
                return {"kind": "path", "name": str(value)}
            case weakref.ref():
                return {"kind": "weakref", "target": self.value(value(), path)}
            case functools.partial():
                call = (value.func, value.args, value.keywords)
                return {"kind": "partial", "call": self.value(call, path)}
        if isinstance(value, type | types.FunctionType) and (value in _BUILTINS or _find(*_name(value)) is value):
            return {"kind": "named", "name": _name(value)}
        if isinstance(value, types.BuiltinFunctionType) and _torch_function(value.__name__) is value:
            return {"kind": "torch", "name": value.__name__}
        if isinstance(value, type) or not _is_plain(value):
            return self._unstorable(value, path)
        if isinstance(value, _BaseDataLoaderIter):
            raise TypeError(_open_iterator(path))
        if hasattr(cls, "checkpoint_state"):
            return {"kind": "state", "class": _name(cls), "state": self.value(value.checkpoint_state(), path)}
        return {"kind": "object", "class": _name(cls), "attributes": self._attributes(value, path)}

    def _items(self, values: Any, path: str) -> list[Any]:
        return [self.value(item, f"{path}[{position}]") for position, item in enumerate(values)]

    def _attributes(self, value: Any, path: str) -> list[Any]:
        cls: Any = type(value)
        slots = [(name, getattr(value, name)) for name in _slots(cls) if hasattr(value, name)]
        named = [*getattr(value, "__dict__", {}).items(), *slots]
        prefix = f"{path}." if path else ""
        return [[name, self.value(v, f"{prefix}{name}")] for name, v in named if not self._skip(value, name)]

    def _subclass(self, value: Any, base: type, path: str) -> dict[str, Any]:
        if type(value) is base:
            return {}
        return {"class": _name(type(value)), "attributes": self._attributes(value, path)}

    def _kept(self, value: object) -> dict[str, Any]:
        return {"kind": "kept", "type": _name(type(value))}

    def _unstorable(self, value: Any, path: str) -> dict[str, Any]:
        """Keeps what has no state of its own (a lambda, a bound method, a sentinel) and refuses open iterators."""
        if isinstance(value, Iterator) and getattr(value, "__length_hint__", lambda: 1)() != 0:
            raise TypeError(_open_iterator(path))
        return self._kept(value)

    def _array(self, value: np.ndarray[Any, Any], path: str) -> dict[str, Any]:
        if value.dtype.hasobject:
            raise TypeError(f"{path} is an array of Python objects, which a checkpoint cannot hold; use a list")
        content = torch.from_numpy(np.frombuffer(value.tobytes(), np.uint8).copy())
        self._alive.append(content)
        return {"dtype": value.dtype.str, "shape": value.shape, "bytes": self.value(content, path)}

    def _tensor(self, value: Tensor, path: str) -> dict[str, Any]:
        dense = value.layout == torch.strided and not value.is_quantized and not value.is_meta
        if type(value) not in (Tensor, nn.Parameter) or not dense:
            raise TypeError(
                f"{path} is a {type(value).__name__} of layout {value.layout} on {value.device}; "
                f"a checkpoint holds dense tensors and parameters: keep its values in one"
            )
        storage = value.untyped_storage()
        key = (value.device, storage.data_ptr() or -len(self._blocks) - 1)  # empty storages all have address 0
        block, _ = self._blocks.setdefault(key, (len(self._blocks), storage))
        start = int(value.storage_offset()) * value.itemsize
        reach = sum((n - 1) * stride for n, stride in zip(value.shape, value.stride(), strict=True))
        stop = start + (int(reach) + 1) * value.itemsize if value.numel() else start
        if block == len(self._extents):
            self._extents.append((start, stop))
        self._extents[block] = (min(start, self._extents[block][0]), max(stop, self._extents[block][1]))
        return {
            "kind": "tensor",
            "block": block,
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "stride": value.stride(),
            "offset": value.storage_offset(),
            "device": str(value.device),
            "parameter": isinstance(value, nn.Parameter),
            "requires_grad": value.is_leaf and value.requires_grad,  # a graph is over when a state is taken
            "grad": self.value(value.grad if value.is_leaf else None, f"{path}.grad"),
            "attributes": self._attributes(value, path),
        }


def _open_iterator(path: str) -> str:
    return (
        f"{path} is an open iterator, whose position a checkpoint cannot hold; "
        f"keep the data and a position in it instead, or drop the iterator before saving"
    )


class _Decoder:
    """Turns records back into values, reusing the live object at the same place where its class is the saved one."""

    def __init__(
        self,
        records: list[Any],
        starts: list[int],
        tensors: dict[str, Tensor],
        root: dict[str, Any],
        references: _References,
        skip: Skip,
        map_location: torch.device | str | None,
    ) -> None:
        self._records = records
        self._starts = starts
        self._tensors = tensors
        self._references = references
        self._skip = skip
        self._map_location = map_location
        self._values: dict[int, Any] = {}
        self._storages: dict[tuple[int, str], torch.UntypedStorage] = {}
        self._adopted = set(references.paths)  # ids of live objects that must not be overwritten (again)
        self._live_names: dict[tuple[str, ...], Any] = {}
        self._live_modules: set[str] = set()
        for _, value in _walk([root, references.root]):
            named = value if isinstance(value, type | types.FunctionType) else type(value)
            self._live_names.setdefault(tuple(_name(named)), named)
            if _is_plain(value):
                self._live_modules.add(type(value).__module__)
        for record in records:  # all of them, before the first live object is touched
            if "class" in record:
                self._class(record, object)
            if record["kind"] == "named":
                self._named(record["name"])
            if record["kind"] == "reference":
                references.resolve(record["path"], record["is"])

    def value(self, encoded: Any, live: Any, path: str) -> Any:
        if not isinstance(encoded, list):
            return encoded
        (index,) = encoded
        if index not in self._values:
            value = self._make(index, self._records[index], live, path)
            self._values.setdefault(index, value)  # a cycle through a tuple may have made it meanwhile
        return self._values[index]

    def _named(self, name: list[str]) -> Any:
        """Returns the class or function of that module and name, if a state may refer to it."""
        if tuple(name) in self._live_names:
            return self._live_names[tuple(name)]
        module, qualname = name
        found = _find(module, qualname)
        packages = _CLASS_PACKAGES if isinstance(found, type) else _FUNCTION_PACKAGES
        allowed = found is not None and (_is_in(module, packages) or module in self._live_modules)
        if not allowed and not (isinstance(found, type) and found in _BUILTINS):
            raise ValueError(
                f"the checkpoint refers to {module}.{qualname}, which is neither part of the strategy being restored "
                f"nor of a package whose classes it may create; import its module and build the strategy as before"
            )
        return found

    def _class(self, record: dict[str, Any], base: type) -> type[Any]:
        cls = self._named(record["class"]) if "class" in record else base
        if not isinstance(cls, type) or not issubclass(cls, base):
            raise ValueError(f"the checkpoint is damaged: {cls!r} is not a class of {base.__name__}")
        return cls

    def _adopt(self, live: Any, cls: Any) -> bool:
        """Whether the live object becomes the saved one of that class: each at most once, and datasets never."""
        found: Any = type(live)
        if found is not cls or id(live) in self._adopted:
            return False
        if isinstance(live, Dataset) or _is_from(found, ("avalanche.benchmarks",)):
            return False  # they belong to the benchmark, or share their parts with it
        self._adopted.add(id(live))
        return True

    def _make(self, index: int, record: dict[str, Any], live: Any, path: str) -> Any:
        match record["kind"]:
            case "object":
                return self._object(index, record, live, path)
            case "state":
                return self._state(record, live, path)
            case "list":
                return self._list(index, record, live, path)
            case "dict":
                return self._dict(index, record, live, path)
            case "tuple":
                cls = self._class(record, tuple)
                return tuple.__new__(cls, self._items(record, live if type(live) is cls else (), path))
            case "set":
                return self._set(record, path)
            case "frozenset":
                return frozenset(self._set(record, path))
            case "deque":
                return collections.deque(self._items(record, (), path), record["maxlen"])
            case "tensor":
                return self._tensor(record, live, path)
            case "reference":
                return self._references.resolve(record["path"], record["is"])
            case "named":
                return self._named(record["name"])
            case "torch" if _torch_function(record["name"]) is not None:
                return _torch_function(record["name"])
            case "kept":
                return self._kept(record, live, path)
            case "nothing":
                return None
            case "enum":
                return self._class(record, enum.Enum).__members__[record["name"]]
            case "bytes":
                return self._array(record, path).tobytes()
            case "array":
                return self._array(record, path)
            case "scalar":
                return self._array(record, path)[()]
            case "slice":
                return slice(*record["items"])
            case "range":
                return range(*record["items"])
            case "size":
                return torch.Size(record["items"])
            case "dtype":
                return _dtype(record["name"])
            case "device":
                return self._device(record["name"])
            case "path":
                return pathlib.Path(record["name"])
            case "weakref":
                target = self.value(record["target"], live() if isinstance(live, weakref.ref) else None, path)
                return None if target is None else weakref.ref(target)
            case "partial":
                before = (live.func, live.args, live.keywords) if isinstance(live, functools.partial) else None
                function, arguments, keywords = self.value(record["call"], before, path)
                return functools.partial(function, *arguments, **keywords)
            case kind:
                return self._random(kind, record, live, path)

    def _object(self, index: int, record: dict[str, Any], live: Any, path: str) -> Any:
        cls = self._class(record, object)
        if not _is_plain_class(cls):
            raise ValueError(f"the checkpoint is damaged: {path} cannot be an object of {cls!r}")
        target = live if self._adopt(live, cls) else object.__new__(cls)
        self._values[index] = target
        self._set_attributes(target, record["attributes"], path, adopted=target is live)
        return target

    def _set_attributes(self, target: Any, attributes: list[Any], path: str, *, adopted: bool) -> None:
        cls: Any = type(target)
        own = getattr(target, "__dict__", {})
        before = dict(own)
        for name in before.keys() - {name for name, _ in attributes}:
            if not self._skip(target, name):
                del own[name]
        for name, encoded in attributes:
            if adopted and isinstance(target, nn.Module | torch.optim.Optimizer) and "_hooks" in name:
                continue  # registered again by whoever built the live object; usually closures
            if name in _slots(cls):
                object.__setattr__(target, name, self.value(encoded, getattr(target, name, None), f"{path}.{name}"))
            else:
                own[name] = self.value(encoded, before.get(name), f"{path}.{name}")

    def _state(self, record: dict[str, Any], live: Any, path: str) -> Any:
        if type(live) is not self._class(record, object):
            raise ValueError(f"expected a {'.'.join(record['class'])} at {path}, found {live!r}; build it as before")
        live.load_checkpoint_state(self.value(record["state"], None, path))
        return live

    def _kept(self, record: dict[str, Any], live: Any, path: str) -> Any:
        if _name(type(live)) != record["type"]:
            raise ValueError(
                f"{path} was a {'.'.join(record['type'])}, which a checkpoint cannot hold, and the strategy being "
                f"restored has {live!r} there; let its owner create it in the constructor"
            )
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
            target[key] = self.value(encoded, before.get(key), _below(path, key))
        if isinstance(target, collections.defaultdict):
            where = f"{path}.default_factory"
            target.default_factory = self.value(record["factory"], target.default_factory, where)
        self._set_attributes(target, record.get("attributes", []), path, adopted=target is live)
        return target

    def _items(self, record: dict[str, Any], live: tuple[Any, ...], path: str) -> list[Any]:
        before = [*live, *[None] * len(record["items"])]
        return [self.value(item, before[k], f"{path}[{k}]") for k, item in enumerate(record["items"])]

    def _set(self, record: dict[str, Any], path: str) -> set[Any]:
        return _set_in_order(self._items(record, (), path))

    def _device(self, name: str) -> torch.device:
        return torch.device(name if self._map_location is None else self._map_location)

    def _tensor(self, record: dict[str, Any], live: Any, path: str) -> Tensor:
        dtype, device = _dtype(record["dtype"]), self._device(record["device"])
        block = (record["block"], str(device))
        if block not in self._storages:
            # A copy, since what the file reader returns need not be writable or aligned.
            self._storages[block] = self._tensors[str(record["block"])].clone().to(device).untyped_storage()
        offset = record["offset"] - self._starts[record["block"]] // dtype.itemsize
        value = torch.empty(0, dtype=dtype, device=device)
        value.set_(self._storages[block], offset, record["shape"], record["stride"])
        if record["parameter"]:
            adoptable = isinstance(live, nn.Parameter) and live.shape == value.shape and live.device == device
            if adoptable and live.dtype == dtype and self._adopt(live, nn.Parameter):
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

    def _random(self, kind: str, record: dict[str, Any], live: Any, path: str) -> Any:
        state = self.value(record.get("state"), None, path)
        match kind:
            case "generator":
                device = self._device(record["device"])
                adopted = isinstance(live, torch.Generator) and live.device == device and self._adopt(live, type(live))
                generator = live if adopted else torch.Generator(device)
                return generator.set_state(state.cpu())
            case "random":
                source = live if self._adopt(live, random.Random) else random.Random()
                source.setstate(state)
                return source
            case "randomstate":
                source = live if self._adopt(live, np.random.RandomState) else np.random.RandomState()
                source.set_state(state)
                return source
            case "bitgenerator" if record["name"] in ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"):
                adopted = isinstance(live, np.random.Generator) and self._adopt(live, np.random.Generator)
                source = live if adopted else np.random.Generator(getattr(np.random, record["name"])())
                source.bit_generator.state = state
                return source
        raise ValueError(f"the checkpoint is damaged: unknown kind {kind!r} at {path}")


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"the checkpoint is damaged: unknown dtype {name!r}")
    return dtype


def _set_in_order(items: list[Any]) -> set[Any]:
    """Returns a set that iterates in a given order, on which the rounding of sums over it depends, if one is found.

    The order comes from the size that the table grew to, and from who took a place first. Merging some elements at
    once and adding the others tries the sizes; letting one whose place was taken come later tries the places. Sets
    that lost elements, and strings, which hash anew in each process, may come out in another order.
    """
    for merged in (0, *range(len(items), 0, -1)):
        order = list(items)
        for _ in items:
            candidate = set(dict.fromkeys(order[:merged]))
            for item in order[merged:]:
                candidate.add(item)  # one by one: an update would grow the table at once
            pairs = ((item, met) for item, met in zip(items, candidate, strict=True) if item != met)
            item, met = next(pairs, (None, None))
            if item == met:
                return candidate
            if order.index(item) > order.index(met):
                break
            order.remove(item)
            order.insert(order.index(met) + 1, item)
    return set(items)
