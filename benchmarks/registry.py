"""The streams by name: list them, describe them, open them.

Names and descriptions come from the table below; all the other functions import Avalanche.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from clpack.names import unknown_name

__all__ = ["Scenario", "StreamInfo", "check", "describe", "get", "load_function", "names"]

Scenario = Literal["class-incremental", "task-incremental", "domain-incremental"]
"""What changes from one experience to the next, and whether a task label tells which one it is."""


@dataclass(frozen=True)
class StreamInfo:
    """What there is to know about a stream before opening it.

    Attributes:
        name: name of the stream and of its function in ``clpack.benchmarks``.
        module: module of ``clpack.benchmarks`` that defines the function.
        scenarios: the forms it comes in: the default one first, then, if it differs, that of ``return_task_id=True``.
        n_classes: number of classes in the data set.
        image_shape: shape ``(C, H, W)`` of an image.
        data_set: name of the data set in ``describe_data_sets()``; None if the images come with scikit-learn.
        reference: where the stream, or else its data, was introduced.
        largest_seed: the largest seed it takes.
        selection_options: its arguments that say, besides ``scores``, which samples it shows; without them and with
            one experience it shows all of its training data. Empty for a stream that takes no scores.
    """

    name: str
    module: str
    scenarios: tuple[Scenario, ...]
    n_classes: int
    image_shape: tuple[int, int, int]
    data_set: str | None
    reference: str
    largest_seed: int = 2**64 - 1  # torch's generators
    selection_options: tuple[str, ...] = ()

    @property
    def takes_scores(self) -> bool:
        """Whether it picks samples by ``scores``, shape ``(N,)``, of all of its training data."""
        return bool(self.selection_options)

    @property
    def embedded(self) -> bool:
        """Whether the stream needs no files besides the installed packages."""
        return self.data_set is None

    def __str__(self) -> str:
        source = "embedded (scikit-learn digits)" if self.embedded else f"local files of {self.data_set}"
        return (
            f"{self.name}: {', '.join(self.scenarios)}\n"
            f"  data       {source}\n"
            f"  classes    {self.n_classes}\n"
            f"  images     {' x '.join(map(str, self.image_shape))}\n"
            f"  reference  {self.reference}"
        )


_SPLIT: tuple[Scenario, ...] = ("class-incremental", "task-incremental")
_SHIFTED: tuple[Scenario, ...] = ("domain-incremental", "task-incremental")
_TASKS: tuple[Scenario, ...] = ("task-incremental",)

_DIGITS = "E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998, doi:10.24432/C50P49"
_ZENKE = "F. Zenke et al., Continual Learning Through Synaptic Intelligence, ICML 2017, arXiv:1703.04200"
_GOODFELLOW = "I. Goodfellow et al., An Empirical Investigation of Catastrophic Forgetting, 2013, arXiv:1312.6211"
_LOPEZ_PAZ = "D. Lopez-Paz and M. Ranzato, Gradient Episodic Memory, NeurIPS 2017, arXiv:1706.08840"
_XIAO = "H. Xiao et al., Fashion-MNIST, 2017, arXiv:1708.07747"
_TONEVA = "M. Toneva et al., An Empirical Study of Example Forgetting, ICLR 2019, arXiv:1812.05159"

_EPOCHLOSS = "Minimizing Data, Maximizing Performance (EpochLoss), CRyJiF03eT at OpenReview"
_GENIMAGE = f"{_EPOCHLOSS}; M. Zhu et al., GenImage, NeurIPS 2023, arXiv:2306.08571"
_CIFAKE = "J. Bird and A. Lotfi, CIFAKE, IEEE Access 2024, arXiv:2303.14126; natural images: CIFAR-10 (JPEG)"
_MIXED = f"{_EPOCHLOSS}; reads MNIST, too"

_BY_SCORE = ("score_ranges", "images_per_experience")

_NUMPY = 2**32 - 1  # the largest seed of NumPy's legacy generator; PermutedDigits gives it 1000 * seed + experience

_STREAMS = {
    info.name: info
    for info in (
        StreamInfo("SplitDigits", "digits", _SPLIT, 10, (1, 8, 8), None, _DIGITS),
        StreamInfo("PermutedDigits", "digits", _SHIFTED, 10, (1, 8, 8), None, _DIGITS, 4_000_000),
        StreamInfo("NoisyDigits", "noise", _SPLIT, 10, (1, 8, 8), None, _TONEVA),
        StreamInfo(
            "ScoreSplitDigits", "score_split", _SHIFTED, 10, (1, 8, 8), None, _TONEVA, selection_options=_BY_SCORE
        ),
        StreamInfo("SplitMNIST", "vision", _SPLIT, 10, (1, 28, 28), "MNIST", _ZENKE),
        StreamInfo("PermutedMNIST", "vision", _SHIFTED, 10, (1, 28, 28), "MNIST", _GOODFELLOW, _NUMPY),
        StreamInfo("RotatedMNIST", "vision", _SHIFTED, 10, (1, 28, 28), "MNIST", _LOPEZ_PAZ, _NUMPY),
        StreamInfo("SplitFMNIST", "vision", _SPLIT, 10, (1, 28, 28), "FashionMNIST", _XIAO),
        StreamInfo("SplitCIFAR10", "vision", _SPLIT, 10, (3, 32, 32), "CIFAR10", _ZENKE),
        StreamInfo("SplitCIFAR100", "vision", _SPLIT, 100, (3, 32, 32), "CIFAR100", _ZENKE),
        StreamInfo("NoisyMNIST", "noise", _SPLIT, 10, (1, 28, 28), "MNIST", _TONEVA),
        StreamInfo("NoisyFMNIST", "noise", _SPLIT, 10, (1, 28, 28), "FashionMNIST", _TONEVA),
        StreamInfo("NoisyCIFAR10", "noise", _SPLIT, 10, (3, 32, 32), "CIFAR10", _TONEVA),
        StreamInfo("NoisyCIFAR100", "noise", _SPLIT, 100, (3, 32, 32), "CIFAR100", _TONEVA),
        StreamInfo(
            "ScoreSplitMNIST", "score_split", _SHIFTED, 10, (1, 28, 28), "MNIST", _TONEVA, selection_options=_BY_SCORE
        ),
        StreamInfo(
            "ScoreSplitCIFAR10",
            "score_split",
            _SHIFTED,
            10,
            (3, 32, 32),
            "CIFAR10",
            _TONEVA,
            selection_options=_BY_SCORE,
        ),
        StreamInfo("SplitCIFAKE", "cifake", _TASKS, 10, (3, 32, 32), "CIFAKE", _CIFAKE),
        StreamInfo("GenImageCL", "genimage", _TASKS, 600, (3, 64, 64), "genimage", _GENIMAGE),
        StreamInfo("GenImageDisjoint", "genimage", _TASKS, 600, (3, 64, 64), "genimage", _GENIMAGE),
        StreamInfo("MixedCIFARPermutedMNIST", "mixed", _TASKS, 90, (3, 32, 32), "CIFAR100", _MIXED),
    )
}


def names() -> list[str]:
    """Returns the names of all streams, the embedded ones first."""
    return list(_STREAMS)


def describe(name: str) -> StreamInfo:
    """Returns the description of a stream; ``print`` shows it in full.

    Raises:
        ValueError: if there is no stream of this name.
    """
    if name not in _STREAMS:
        raise ValueError(unknown_name("stream", name, _STREAMS))
    return _STREAMS[name]


def load_function(name: str) -> Callable[..., Any]:
    """Returns the function that opens the stream ``name``, importing its module and Avalanche.

    Raises:
        ValueError: if there is no stream of this name.
    """
    function: Callable[..., Any] = getattr(import_module(f".{describe(name).module}", __package__), name)
    return function


def check(name: str, **kwargs: Any) -> None:
    """Raises what :func:`get` would raise for these arguments, without looking at any data.

    Raises:
        ValueError: if there is no stream of this name, or an argument has an impossible value.
        TypeError: if the stream takes no argument of a given name, or one it needs is not given.
    """
    from ._class_order import check_arguments  # imports torch

    info = describe(name)
    signature = inspect.signature(load_function(name))
    for argument in kwargs:
        if argument not in signature.parameters:
            raise TypeError(unknown_name(f"{name} argument", argument, signature.parameters))
    for parameter in signature.parameters.values():
        if parameter.default is parameter.empty and parameter.name not in kwargs:
            raise TypeError(f"{name} needs the argument {parameter.name}, got {sorted(kwargs) or 'none'}")
    call = signature.bind(**kwargs)
    call.apply_defaults()
    check_arguments(call.arguments, n_classes=info.n_classes, largest_seed=info.largest_seed)
    check_options = getattr(import_module(f".{info.module}", __package__), "check_options", None)
    if check_options is not None:  # what only the streams of that module take
        check_options({**call.arguments, "stream": name})


def get(name: str, **kwargs: Any) -> Any:
    """Opens a stream.

    Args:
        name: one of :func:`names`.
        **kwargs: the arguments of the stream's function, e.g. ``n_experiences=5, seed=0``.

    Returns:
        An Avalanche benchmark of the classic family, with ``train_stream`` and ``test_stream``.

    Raises:
        ValueError: if there is no stream of this name, or an argument has an impossible value.
        TypeError: if the stream takes no argument of a given name, or one it needs is not given.
        FileNotFoundError: if a file of its data set is missing.
    """
    check(name, **kwargs)
    return load_function(name)(**kwargs)
