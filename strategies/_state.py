"""Writing the state of a tree of live objects to a file, and putting it back into a tree built anew, without pickle.

A state file is a safetensors file. Its tensors are memory blocks; one of them is a JSON table of records that
describes lists, dictionaries, tensors, objects and who refers to whom.

Restoring is in place: where the tree already holds an object of the saved class, that object takes over the saved
attributes, so that references to the strategy's model, parameters or plugins stay valid.

What a file cannot make the reader do, whoever wrote it: import a module; run code that the file brings; call a
constructor, a ``__setstate__`` or a property, since objects are created bare and their attributes are set directly
(a live object that has ``load_checkpoint_state`` is given its state through that); name a class or function other than
those that :class:`clpack.strategies._graph.Names` lists; change a class, a function or the benchmark. A file with
a name that is not allowed is refused before anything is restored.

What it can do: give any value to any attribute of the objects it restores, and have functions from that list called
with arguments of its choice when training goes on. It is a configuration of the run, paths to write to included:
resume from files of your own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from clpack.files import atomic_path

from ._decoder import Decoder
from ._encoder import Encoder
from ._graph import References

__all__ = ["read_header", "read_state", "write_state"]

_FORMAT, _SCHEMA = "clpack state", "1"

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
    encoder = Encoder(References(unique_objects), skip)
    encoder.value(root, "")
    starts, contents = encoder.blocks()
    table = json.dumps({"records": encoder.records, "blocks": starts})
    tensors = {str(index): content for index, content in enumerate(contents)}
    tensors["table"] = torch.frombuffer(bytearray(table.encode()), dtype=torch.uint8)
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
            table = json.loads(file.get_tensor("table").numpy().tobytes())
            records, starts = table["records"], table["blocks"]
            contents = [file.get_tensor(str(index)) for index in range(len(starts))]
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to start anew") from error
    references = References(unique_objects)
    decoder = Decoder(records, starts, contents, root, references=references, skip=skip, map_location=map_location)
    restored: dict[str, Any] = decoder.value([0], root, "")
    return restored
