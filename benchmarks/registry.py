"""The streams by name: list them, describe them, open them.

Names and descriptions come from the table below; all the other functions import Avalanche.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Literal

from clpack.names import unknown_name

from ._medmnist_sets import SETS, find_set
from ._members import MEMBERS, PAPER, check_members

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
        data_sets: names of the data sets in ``describe_data_sets()`` that it reads; none if the images come with
            scikit-learn.
        reference: where the stream, or else its data, was introduced.
        largest_seed: the largest seed it takes.
        shares_evenly: whether its experiences must have equally many classes, where it shares them out.
        selection_options: its arguments that say, besides ``scores``, which samples it shows; without them and with
            one experience it shows all of its training data. Empty for a stream that takes no scores.
        variant: returns which of the above differ for some arguments of its function; None if none ever does.
    """

    name: str
    module: str
    scenarios: tuple[Scenario, ...]
    n_classes: int
    image_shape: tuple[int, int, int]
    data_sets: tuple[str, ...]
    reference: str
    largest_seed: int = 2**64 - 1  # torch's generators
    shares_evenly: bool = True
    selection_options: tuple[str, ...] = ()
    variant: Callable[[Mapping[str, Any]], dict[str, Any]] | None = field(default=None, repr=False)

    @property
    def data_set(self) -> str | None:
        """The data set if it reads a single one."""
        return self.data_sets[0] if len(self.data_sets) == 1 else None

    @property
    def takes_scores(self) -> bool:
        """Whether it picks samples by ``scores``, shape ``(N,)``, of all of its training data."""
        return bool(self.selection_options)

    @property
    def embedded(self) -> bool:
        """Whether the stream needs no files besides the installed packages."""
        return not self.data_sets

    def __str__(self) -> str:
        source = "embedded (scikit-learn digits)" if self.embedded else f"local files of {', '.join(self.data_sets)}"
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

_MEDMNIST = "J. Yang et al., MedMNIST v2, Scientific Data 2023; S. Ayromlou et al., CCSI, arXiv:2406.05631"

_NETZER = (
    "Y. Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, NIPS Workshop on Deep "
    "Learning and Unsupervised Feature Learning 2011"
)
_LE = "Y. Le and X. Yang, Tiny ImageNet Visual Recognition Challenge, Stanford CS 231N, 2015"

_TAG = "P. Malviya et al., TAG: Task-based Accumulated Gradients for Lifelong learning, CoLLAs 2022, arXiv:2105.05155"

_BY_SCORE = ("score_ranges", "images_per_experience")

_NUMPY = 2**32 - 1  # the largest seed of NumPy's legacy generator; PermutedDigits gives it 1000 * seed + experience


def _medmnist(arguments: Mapping[str, Any]) -> dict[str, Any]:
    size = arguments.get("size", 28)
    data = find_set(arguments.get("name", "bloodmnist"), size)
    side = 32 if size == 28 else size
    return {
        "n_classes": data.n_classes,
        "image_shape": (data.channels, side, side),
        "data_sets": (data.data_set(size),),
    }


def _five(arguments: Mapping[str, Any]) -> dict[str, Any]:
    members = check_members(arguments.get("members", PAPER))
    return {"n_classes": 10 * len(members), "data_sets": tuple(MEMBERS[member].data_set for member in members)}


def _mini(arguments: Mapping[str, Any]) -> dict[str, Any]:
    images = arguments.get("source") == "images"
    return {"data_sets": ("miniImageNet-images" if images else "miniImageNet",)}


def _digits(arguments: Mapping[str, Any]) -> dict[str, Any]:
    side = arguments.get("image_size", 8)
    return {"image_shape": (1, side, side)}


def _tiny(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"data_sets": ("TinyImageNet-subset",) if arguments.get("subset") else ("TinyImageNet",)}


def _tiny_100(arguments: Mapping[str, Any]) -> dict[str, Any]:
    side = arguments.get("image_size", 84)
    return {"image_shape": (3, side, side)}


_STREAMS = {
    info.name: info
    for info in (
        StreamInfo("SplitDigits", "digits", _SPLIT, 10, (1, 8, 8), (), _DIGITS, variant=_digits),
        StreamInfo("PermutedDigits", "digits", _SHIFTED, 10, (1, 8, 8), (), _DIGITS, 4_000_000),
        StreamInfo("NoisyDigits", "noise", _SPLIT, 10, (1, 8, 8), (), _TONEVA),
        StreamInfo(
            "ScoreSplitDigits", "score_split", _SHIFTED, 10, (1, 8, 8), (), _TONEVA, selection_options=_BY_SCORE
        ),
        StreamInfo("SplitMNIST", "vision", _SPLIT, 10, (1, 28, 28), ("MNIST",), _ZENKE),
        StreamInfo("PermutedMNIST", "vision", _SHIFTED, 10, (1, 28, 28), ("MNIST",), _GOODFELLOW, _NUMPY),
        StreamInfo("RotatedMNIST", "vision", _SHIFTED, 10, (1, 28, 28), ("MNIST",), _LOPEZ_PAZ, _NUMPY),
        StreamInfo("SplitFMNIST", "vision", _SPLIT, 10, (1, 28, 28), ("FashionMNIST",), _XIAO),
        StreamInfo("SplitCIFAR10", "vision", _SPLIT, 10, (3, 32, 32), ("CIFAR10",), _ZENKE),
        StreamInfo("SplitCIFAR100", "vision", _SPLIT, 100, (3, 32, 32), ("CIFAR100",), _ZENKE),
        StreamInfo("SplitSVHN", "svhn", _SPLIT, 10, (3, 32, 32), ("SVHN",), _NETZER),
        StreamInfo("PlainSplitCIFAR100", "plain", _TASKS, 100, (3, 32, 32), ("CIFAR100",), _TAG),
        StreamInfo("SplitCIFAR10JPEG", "plain", _TASKS, 10, (3, 32, 32), ("CIFAR10-JPEG",), _ZENKE),
        StreamInfo(
            "SplitMiniImageNet",
            "mini_imagenet",
            _TASKS,
            100,
            (3, 84, 84),
            ("miniImageNet",),
            f"O. Vinyals et al., Matching Networks, NeurIPS 2016, arXiv:1606.04080; {_TAG}",
            variant=_mini,
        ),
        StreamInfo(
            "SplitTinyImageNet100",
            "tiny_imagenet",
            _TASKS,
            100,
            (3, 84, 84),
            ("TinyImageNet-subset",),
            _LE,
            variant=_tiny_100,
        ),
        StreamInfo(
            "SplitCUB",
            "cub",
            _TASKS,
            200,
            (3, 224, 224),
            ("CUB200",),
            f"C. Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, CNS-TR-2011-001; {_TAG}",
        ),
        StreamInfo(
            "SplitTinyImageNet", "tiny_imagenet", _SPLIT, 200, (3, 64, 64), ("TinyImageNet",), _LE, variant=_tiny
        ),
        StreamInfo("NoisyMNIST", "noise", _SPLIT, 10, (1, 28, 28), ("MNIST",), _TONEVA),
        StreamInfo("NoisyFMNIST", "noise", _SPLIT, 10, (1, 28, 28), ("FashionMNIST",), _TONEVA),
        StreamInfo("NoisyCIFAR10", "noise", _SPLIT, 10, (3, 32, 32), ("CIFAR10",), _TONEVA),
        StreamInfo("NoisyCIFAR100", "noise", _SPLIT, 100, (3, 32, 32), ("CIFAR100",), _TONEVA),
        StreamInfo(
            "ScoreSplitMNIST",
            "score_split",
            _SHIFTED,
            10,
            (1, 28, 28),
            ("MNIST",),
            _TONEVA,
            selection_options=_BY_SCORE,
        ),
        StreamInfo(
            "ScoreSplitCIFAR10",
            "score_split",
            _SHIFTED,
            10,
            (3, 32, 32),
            ("CIFAR10",),
            _TONEVA,
            selection_options=_BY_SCORE,
        ),
        StreamInfo(
            "SplitMedMNIST",
            "medmnist",
            _SPLIT,
            8,
            (3, 32, 32),
            tuple(SETS),  # one of them
            _MEDMNIST,
            shares_evenly=False,
            variant=_medmnist,
        ),
        StreamInfo(
            "FiveDatasets",
            "five_datasets",
            _TASKS,
            50,
            (3, 32, 32),
            tuple(MEMBERS[member].data_set for member in PAPER),
            f"S. Ebrahimi et al., Adversarial Continual Learning, ECCV 2020, arXiv:2003.09553; {_TAG}",
            variant=_five,
        ),
        StreamInfo("SplitCIFAKE", "cifake", _TASKS, 10, (3, 32, 32), ("CIFAKE",), _CIFAKE),
        StreamInfo("GenImageCL", "genimage", _TASKS, 600, (3, 64, 64), ("genimage",), _GENIMAGE),
        StreamInfo("GenImageDisjoint", "genimage", _TASKS, 600, (3, 64, 64), ("genimage",), _GENIMAGE),
        StreamInfo("MixedCIFARPermutedMNIST", "mixed", _TASKS, 90, (3, 32, 32), ("CIFAR100", "MNIST"), _EPOCHLOSS),
    )
}


def names() -> list[str]:
    """Returns the names of all streams, the embedded ones first."""
    return list(_STREAMS)


def describe(name: str, /, **arguments: Any) -> StreamInfo:
    """Returns the description of a stream; ``print`` shows it in full.

    Args:
        name: one of :func:`names`.
        **arguments: those that the stream is opened with. Some streams read other data, or show other images, for
            other arguments; without any, it is described for the defaults, with all the data it can take by name.

    Raises:
        ValueError: if there is no stream of this name, or it has no data for these arguments.
    """
    if name not in _STREAMS:
        raise ValueError(unknown_name("stream", name, _STREAMS))
    info = _STREAMS[name]
    return replace(info, **info.variant(arguments)) if arguments and info.variant else info


def load_function(name: str) -> Callable[..., Any]:
    """Returns the function that opens the stream ``name``, importing its module and Avalanche.

    Raises:
        ValueError: if there is no stream of this name.
    """
    function: Callable[..., Any] = getattr(import_module(f".{describe(name).module}", __package__), name)
    return function


def check(name: str, /, **kwargs: Any) -> None:
    """Raises what :func:`get` would raise for these arguments, without looking at any data.

    Raises:
        ValueError: if there is no stream of this name, or an argument has an impossible value.
        TypeError: if the stream takes no argument of a given name, or one it needs is not given.
    """
    from ._class_order import check_arguments  # imports torch

    signature = inspect.signature(load_function(name))
    for argument in kwargs:
        if argument not in signature.parameters:
            raise TypeError(unknown_name(f"{name} argument", argument, signature.parameters))
    for parameter in signature.parameters.values():
        if parameter.default is parameter.empty and parameter.name not in kwargs:
            raise TypeError(f"{name} needs the argument {parameter.name}, got {sorted(kwargs) or 'none'}")
    call = signature.bind(**kwargs)
    call.apply_defaults()
    info = describe(name, **call.arguments)
    check_arguments(call.arguments, n_classes=info.n_classes, largest_seed=info.largest_seed, evenly=info.shares_evenly)
    check_options = getattr(import_module(f".{info.module}", __package__), "check_options", None)
    if check_options is not None:  # what only the streams of that module take
        check_options({**call.arguments, "stream": name})


def get(name: str, /, **kwargs: Any) -> Any:
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
