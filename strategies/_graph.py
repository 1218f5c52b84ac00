"""The objects of a strategy as a graph: what the state of each is, what it is called, and which are there already."""

from __future__ import annotations

import collections
import functools
import io
import sys
import types
import typing
from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "ATOMS",
    "TORCH_FUNCTIONS",
    "Names",
    "References",
    "find",
    "is_from",
    "is_plain",
    "is_plain_class",
    "is_resource",
    "name_of",
    "slots",
    "walk",
]

ATOMS = frozenset({type(None), bool, int, float, str})  # JSON holds these exactly, inf and nan included

# Objects that stand for something outside the process: never stored, the live one stays in its place.
_RESOURCES = (
    *("_io", "_thread", "_threading_local", "logging", "multiprocessing", "queue", "rich", "socket", "subprocess"),
    *("tensorboard", "threading", "torch.utils.tensorboard", "tqdm", "wandb"),
)

# What a file may name although the live tree does not hold it: what training is known to make.
_CLASS_PACKAGES = ("avalanche", "clpack", "collections", "torch.nn", "torch.optim", "torch.utils.data", "torchvision")
_BUILTIN_CLASSES = frozenset({bool, bytes, complex, dict, float, frozenset, int, list, object, set, str, tuple})
_FUNCTION_MODULES = (
    "avalanche.benchmarks.utils.classification_dataset",
    "avalanche.benchmarks.utils.collate_functions",
    "avalanche.benchmarks.utils.transform_groups",
    "avalanche.evaluation.metric_utils",
    "torch.nn.functional",
    "torch.utils.data._utils.collate",
    "torchvision.transforms.functional",
)
TORCH_FUNCTIONS = {  # written in C, they do not know their module
    name: function
    for name, function in (
        *((name, getattr(torch, name)) for name in ("empty", "ones", "relu", "sigmoid", "tanh", "zeros")),
        *vars(nn.functional).items(),
    )
    if isinstance(function, types.BuiltinFunctionType)
}


def is_from(value: object, packages: tuple[str, ...]) -> bool:
    """Whether the class of an object, or one of its bases, is defined in one of the packages."""
    cls: Any = type(value)
    return _is_class_from(cls, packages)


@functools.cache
def _is_class_from(cls: Any, packages: tuple[str, ...]) -> bool:
    return any(_is_in(base.__module__, packages) for base in cls.__mro__)


def _is_in(module: str, packages: tuple[str, ...]) -> bool:
    return module in packages or module.startswith(tuple(f"{name}." for name in packages))


def is_resource(value: Any) -> bool:
    """Whether an object stands for something outside the tree, whose state no file can hold."""
    return isinstance(value, io.IOBase) or is_from(value, _RESOURCES)


def is_plain(value: Any) -> bool:
    """Whether the state of an object is its attributes: a class written in Python, and neither type nor resource."""
    if isinstance(value, type | types.FunctionType | types.ModuleType | Tensor) or is_resource(value):
        return False
    if typing.get_origin(value) is not None:  # a type such as typing.Counter, used to create a collections.Counter
        return False
    return is_plain_class(type(value)) and (hasattr(value, "__dict__") or bool(slots(value)))


def is_plain_class(cls: Any) -> bool:
    """Whether objects of a class can be created bare, to be given their attributes."""
    return bool(cls.__new__ is object.__new__)


def slots(value: object) -> list[str]:
    """Returns the names of the attributes that an object may hold outside of ``__dict__``."""
    cls: Any = type(value)
    return _slots_of_class(cls)


@functools.cache
def _slots_of_class(cls: Any) -> list[str]:
    declared = [base.__dict__.get("__slots__", ()) for base in cls.__mro__]
    names = [name for each in declared for name in ([each] if isinstance(each, str) else each)]
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def name_of(value: Any) -> list[str]:
    """Returns the module and the qualified name of a class or function."""
    return [value.__module__ or "builtins", value.__qualname__]


def find(name: list[str]) -> Any:
    """Returns the class or function of that name if its module is imported and it is defined there, else None."""
    found: Any = sys.modules.get(name[0])
    for part in name[1].split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type | types.FunctionType) and name_of(found) == name else None


def walk(root: object) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yields whatever is reachable from ``root`` once, with its shortest path of attributes, indices and keys."""
    seen = {id(root)}
    waiting: collections.deque[tuple[tuple[str | int, ...], Any]] = collections.deque([((), root)])
    while waiting:
        path, value = waiting.popleft()
        yield path, value
        for step, child in _children(value):
            if type(child) not in ATOMS and id(child) not in seen:
                seen.add(id(child))
                waiting.append(((*path, step), child))


def _children(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, dict):
        yield from ((key, child) for key, child in value.items() if type(key) in (str, int))
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    elif is_plain(value):
        yield from getattr(value, "__dict__", {}).items()


class Names:
    """The classes and functions that a file may refer to.

    They are those in the live tree, the classes in the modules of its classes, and some of the packages that training
    makes objects of. Nothing is imported: a name that has to be looked up must be there already.

    Args:
        root: the live tree.
    """

    def __init__(self, root: object) -> None:
        self._live: dict[tuple[str, ...], Any] = {}
        self._modules: set[str] = set()
        for _, value in walk(root):
            factory = value.default_factory if isinstance(value, collections.defaultdict) else None
            for named in (value if isinstance(value, type | types.FunctionType) else type(value), factory):
                if isinstance(named, type | types.FunctionType):
                    self._live.setdefault(tuple(name_of(named)), named)
            if is_plain(value):
                self._modules.add(type(value).__module__)

    def resolve(self, name: list[str]) -> Any:
        """Returns the class or function of that module and qualified name.

        Raises:
            ValueError: if a file may not refer to it, or it does not exist.
        """
        if tuple(name) in self._live:
            return self._live[tuple(name)]
        found, module = find(name), name[0]
        if isinstance(found, type):
            allowed = _is_in(module, _CLASS_PACKAGES) or module in self._modules or found in _BUILTIN_CLASSES
        else:
            allowed = found is not None and module in _FUNCTION_MODULES
        if not allowed:
            raise ValueError(
                f"the checkpoint refers to {'.'.join(name)}, which is neither part of the strategy being restored "
                f"nor of what a checkpoint may name; build the strategy as before, and give the benchmark as "
                f"unique_objects"
            )
        return found


class References:
    """The objects that exist again at reading time, and a name for each: its path.

    Args:
        unique_objects: the benchmark, or any other object that is built anew in the same way; None for none.
    """

    def __init__(self, unique_objects: Any) -> None:
        streams = getattr(unique_objects, "streams", {})  # experiences may be made only when they are asked for
        self.root: Any = {
            "streams": {name: list(stream) for name, stream in streams.items()},
            "objects": unique_objects,
        }
        self._paths = {
            id(value): path
            for path, value in walk(self.root)
            if len(path) > 1 and (isinstance(value, list | dict | Tensor | np.ndarray) or is_plain(value))
        }
        if is_plain(unique_objects):
            self._paths[id(unique_objects)] = ("objects",)

    def __contains__(self, value: object) -> bool:
        return id(value) in self._paths

    def describe(self, value: object) -> dict[str, Any]:
        """Returns what :meth:`resolve` needs to find an object that exists again."""
        return {"path": self._paths[id(value)], "is": _summary(value)}

    def resolve(self, description: dict[str, Any]) -> Any:
        """Returns the object that was described when the state was written.

        Raises:
            ValueError: if there is none, or it is of another class or size.
        """
        path, summary = description["path"], description["is"]
        found: Any = self.root
        try:
            for step in path:
                found = found[step] if isinstance(found, dict | list | tuple) else found.__dict__[step]
        except (AttributeError, IndexError, KeyError, TypeError):
            found = None
        if _summary(found) != summary:
            raise ValueError(
                f"unique_objects is not the benchmark of the checkpoint: expected {summary} at "
                f"{'.'.join(map(str, path))}, found {_summary(found)}; build it in the same way as before"
            )
        return found


def _summary(value: Any) -> list[Any]:
    """The class and the size, except of dictionaries, which may be caches that fill up."""
    sized = isinstance(value, Sized) and not isinstance(value, dict)
    return [*name_of(type(value)), list(value.shape) if hasattr(value, "shape") else len(value) if sized else None]
