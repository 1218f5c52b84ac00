"""Avalanche's own image streams, opened from local files only.

Each function has the name, the arguments, the defaults and the result of the one in ``avalanche.benchmarks.classic``,
with three differences: the arguments are checked first, then the files of the data set (see
:mod:`clpack.benchmarks.files`), so that Avalanche never gets to download; and torch's global generator is not
reseeded, although the class order for a seed is the same.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from avalanche.benchmarks import NCScenario, classic

from ._class_order import check_arguments
from .files import check_files
from .registry import describe

__all__ = ["PermutedMNIST", "RotatedMNIST", "SplitCIFAR10", "SplitCIFAR100", "SplitFMNIST", "SplitMNIST"]


def _from_local_files(create: Callable[..., NCScenario], data_set: str) -> Callable[..., NCScenario]:
    """Returns Avalanche's function ``create`` with its arguments and its files checked before it is called.

    Args:
        create: a function of ``avalanche.benchmarks.classic``.
        data_set: the data set it reads, a name of :mod:`clpack.benchmarks.files`.
    """
    signature = inspect.signature(create)
    info = describe(create.__name__)

    @functools.wraps(create, assigned=("__name__", "__qualname__"))
    def open_stream(*args: Any, **kwargs: Any) -> NCScenario:
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        given = call.arguments
        order = check_arguments(given, n_classes=info.n_classes, largest_seed=info.largest_seed)
        if order is not None:
            given["fixed_class_order"] = order
        given["dataset_root"] = check_files(data_set, given["dataset_root"])
        return create(*call.args, **call.kwargs)

    open_stream.__module__ = __name__
    open_stream.__doc__ = f"""Opens Avalanche's ``{create.__name__}`` from the local files of {data_set}.

    The arguments are those of ``avalanche.benchmarks.classic.{create.__name__}``; ``dataset_root=None`` means the
    environment variable ``CLPACK_DATA``, and if that is unset, ``~/.clpack``.

    Raises:
        TypeError: if an argument is unknown, missing, or not of an integer type where it should be.
        ValueError: if an argument has an impossible value, or a file has another content than it should have.
        FileNotFoundError: if a file is missing; the message says where to get it and where to put it.
    """
    return open_stream


SplitMNIST = _from_local_files(classic.SplitMNIST, "MNIST")
PermutedMNIST = _from_local_files(classic.PermutedMNIST, "MNIST")
RotatedMNIST = _from_local_files(classic.RotatedMNIST, "MNIST")
SplitFMNIST = _from_local_files(classic.SplitFMNIST, "FashionMNIST")
SplitCIFAR10 = _from_local_files(classic.SplitCIFAR10, "CIFAR10")
SplitCIFAR100 = _from_local_files(classic.SplitCIFAR100, "CIFAR100")
