"""Continual-learning streams as Avalanche benchmarks, and their registry.

Every stream is a function, ``SplitDigits(n_experiences=5, seed=0)``, and has an entry in the registry:
``names()``, ``describe("SplitDigits")``, ``get("SplitDigits", n_experiences=5, seed=0)``. Listing and describing
take no time: Avalanche is imported when a stream function is first used.
"""

from importlib import import_module
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
    from ._genimage_prepare import GenImageReport, prepare_genimage
    from .cifake import SplitCIFAKE
    from .cub import SplitCUB
    from .digits import PermutedDigits, SplitDigits
    from .five_datasets import FiveDatasets
    from .genimage import GenImageCL, GenImageDisjoint
    from .medmnist import SplitMedMNIST
    from .mini_imagenet import SplitMiniImageNet
    from .mixed import MixedCIFARPermutedMNIST
    from .noise import NoisyCIFAR10, NoisyCIFAR100, NoisyDigits, NoisyFMNIST, NoisyMNIST
    from .plain import PlainSplitCIFAR100, SplitCIFAR10JPEG
    from .pruned import pruned_benchmark
    from .score_split import ScoreSplitCIFAR10, ScoreSplitDigits, ScoreSplitMNIST
    from .svhn import SplitSVHN
    from .tiny_imagenet import SplitTinyImageNet, SplitTinyImageNet100
    from .vision import PermutedMNIST, RotatedMNIST, SplitCIFAR10, SplitCIFAR100, SplitFMNIST, SplitMNIST

__all__ = [
    "DataFile",
    "DataSet",
    "FileStatus",
    "FiveDatasets",
    "GenImageCL",
    "GenImageDisjoint",
    "GenImageReport",
    "MixedCIFARPermutedMNIST",
    "NoisyCIFAR10",
    "NoisyCIFAR100",
    "NoisyDigits",
    "NoisyFMNIST",
    "NoisyMNIST",
    "PermutedDigits",
    "PermutedMNIST",
    "PlainSplitCIFAR100",
    "RotatedMNIST",
    "ScoreSplitCIFAR10",
    "ScoreSplitDigits",
    "ScoreSplitMNIST",
    "SplitCIFAKE",
    "SplitCIFAR10",
    "SplitCIFAR10JPEG",
    "SplitCIFAR100",
    "SplitCUB",
    "SplitDigits",
    "SplitFMNIST",
    "SplitMNIST",
    "SplitMedMNIST",
    "SplitMiniImageNet",
    "SplitSVHN",
    "SplitTinyImageNet",
    "SplitTinyImageNet100",
    "StreamInfo",
    "check",
    "describe",
    "describe_data_sets",
    "get",
    "names",
    "prepare_data_set",
    "prepare_genimage",
    "pruned_benchmark",
    "resolve_dataset_root",
    "verify_data_sets",
]

_MODULES = {  # of what is neither a stream nor quick to import
    "GenImageReport": "_genimage_prepare",
    "prepare_genimage": "_genimage_prepare",
    "pruned_benchmark": "pruned",
}


def __getattr__(name: str) -> Any:
    if name in names():
        return load_function(name)
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
