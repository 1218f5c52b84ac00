"""Continual-learning streams as Avalanche benchmarks, and their registry.

Every stream is a function, ``SplitDigits(n_experiences=5, seed=0)``, and has an entry in the registry:
``names()``, ``describe("SplitDigits")``, ``get("SplitDigits", n_experiences=5, seed=0)``. Listing and describing
take no time: Avalanche is imported when a stream function is first used.
"""

from typing import TYPE_CHECKING, Any

from .files import (
    DataFile,
    DataSet,
    FileStatus,
    describe_data_sets,
    prepare_data_set,
    resolve_dataset_root,
    verify_data_sets,
)
from .registry import StreamInfo, check, describe, get, load_function, names

if TYPE_CHECKING:
    from .digits import PermutedDigits, SplitDigits
    from .vision import PermutedMNIST, RotatedMNIST, SplitCIFAR10, SplitCIFAR100, SplitFMNIST, SplitMNIST

__all__ = [
    "DataFile",
    "DataSet",
    "FileStatus",
    "PermutedDigits",
    "PermutedMNIST",
    "RotatedMNIST",
    "SplitCIFAR10",
    "SplitCIFAR100",
    "SplitDigits",
    "SplitFMNIST",
    "SplitMNIST",
    "StreamInfo",
    "check",
    "describe",
    "describe_data_sets",
    "get",
    "names",
    "prepare_data_set",
    "resolve_dataset_root",
    "verify_data_sets",
]


def __getattr__(name: str) -> Any:
    if name in names():
        return load_function(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
