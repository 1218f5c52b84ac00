"""Image streams with wrong labels, noisy pixels or augmentation in the training data; the test data stays clean.

The noise is that of :mod:`clpack.noise`. With one experience, the default, these are the data of the experiments on
example forgetting [1]. Everything is held in memory as 8-bit images, so unless there is an augmentation the
batch-gathering loader of :mod:`clpack.strategies` serves them.

References:
    [1] M. Toneva et al. An Empirical Study of Example Forgetting during Deep Neural Network Learning. ICLR 2019,
        arXiv:1812.05159. Authors' code: github.com/mtoneva/example_forgetting (MIT).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from avalanche.benchmarks import NCScenario, nc_benchmark
from avalanche.benchmarks.utils import _make_taskaware_classification_dataset
from torch import Tensor
from torchvision.transforms import Compose, ConvertImageDtype, Normalize, RandomCrop, RandomHorizontalFlip

from clpack import noise
from clpack.data import TensorImages
from clpack.randomness import generator_for

from ._class_order import FixedOrder, class_order
from ._readers import read_cifar, read_grey
from .digits import _digits
from .files import check_files
from .registry import describe

__all__ = ["NoisyCIFAR10", "NoisyCIFAR100", "NoisyDigits", "NoisyFMNIST", "NoisyMNIST", "check_options"]

Augmentation = Literal["none", "crop_flip", "cutout"]
_Read = Callable[[str | os.PathLike[str] | None], tuple[TensorImages, TensorImages]]

_CROP_PADDING = 4
_CUTOUT_SIDE = 16


def _noisy(name: str, read: _Read, normalize: Normalize | None) -> Callable[..., NCScenario]:
    """Returns the function that opens a stream.

    Args:
        name: of the stream.
        read: returns the clean 8-bit training and test images, given the dataset root.
        normalize: applied to images in [0, 1]; None for nothing.
    """
    info = describe(name)

    def open_stream(
        n_experiences: int = 1,
        *,
        return_task_id: bool = False,
        seed: int | None = None,
        fixed_class_order: FixedOrder | None = None,
        shuffle: bool = True,
        label_noise: float = 0.0,
        pixel_noise: float | None = None,
        pixel_noise_percent: float = 100.0,
        augmentation: Augmentation = "none",
        noise_seed: int = 0,
        class_ids_from_zero_in_each_exp: bool = False,
        class_ids_from_zero_from_first_exp: bool = False,
        dataset_root: str | os.PathLike[str] | None = None,
    ) -> NCScenario:
        arguments = {**locals(), "stream": name}
        order = class_order(
            info.n_classes, n_experiences, seed=seed, shuffle=shuffle, fixed_class_order=fixed_class_order
        )
        check_options(arguments)
        train, test = read(dataset_root)
        clean = torch.tensor(train.targets)
        targets = clean
        if label_noise:
            targets = _noisy_targets(clean, order, n_experiences, label_noise, noise_seed)
        images = train.images
        if pixel_noise is not None:
            generator = generator_for(noise_seed, "pixel noise")
            images = noise.pixel_noise(images, std=pixel_noise, percent=pixel_noise_percent, generator=generator).images
        samples = _make_taskaware_classification_dataset(TensorImages(images, targets))
        if label_noise:
            shown = torch.arange(info.n_classes)  # the labels that the stream gives to the classes
            if class_ids_from_zero_from_first_exp:
                shown[order] = torch.arange(len(order))
            elif class_ids_from_zero_in_each_exp:
                shown[order] = torch.arange(len(order)) % (len(order) // n_experiences)
            samples = samples.update_data_attribute("is_changed", (targets != clean).tolist())
            samples = samples.update_data_attribute("clean_targets", shown[clean].tolist())
        return nc_benchmark(
            samples,
            test,
            n_experiences=n_experiences,
            task_labels=return_task_id,
            fixed_class_order=order,
            class_ids_from_zero_in_each_exp=class_ids_from_zero_in_each_exp,
            class_ids_from_zero_from_first_exp=class_ids_from_zero_from_first_exp,
            train_transform=_transform(normalize, augmentation, images.shape[-1]),
            eval_transform=_transform(normalize),
        )

    source = info.data_set or "scikit-learn's digits"
    missing = (
        "" if info.embedded else "\n        FileNotFoundError: if a file is missing; the message says where to get it."
    )
    open_stream.__name__ = open_stream.__qualname__ = name
    open_stream.__doc__ = f"""Opens {source} with noise or augmentation in the training data.

    Each class belongs to one experience. The noise is added once, before the data is shared out; the test data has
    none. Images are float32 tensors of shape ``{info.image_shape}``, {_in_words(normalize)}.

    With label noise, the data set of each training experience has two data attributes that are not part of the
    mini-batches: ``is_changed``, whether the label is a wrong one, and ``clean_targets``, the right labels. Row by row
    they go with the samples through subsets, concatenations and replay buffers; read them with
    :func:`clpack.strategies.dataset_field`.

    Args:
        n_experiences: number of experiences, which must share the classes evenly.
        return_task_id: True labels the experiences 0, 1, ...; False labels all of them 0.
        seed: seed of the class order; None takes the order that the present state of torch's global generator gives.
        fixed_class_order: the classes in the order wanted, all or a part of them, or ``"numpy"``: the permutation of
            NumPy's legacy generator for ``seed``. ``shuffle`` and, for a list, ``seed`` then
            play no part.
        shuffle: False keeps the classes in ascending order.
        label_noise: percentage, in [0, 100], of the samples of each experience that get another label. It is one
            of the other classes of the same experience; with one experience that is any other class.
        pixel_noise: standard deviation, in grey levels of 0..255, of the noise of mean 120 that is added to one
            channel of the pixels; None for no noise.
        pixel_noise_percent: percentage, in [0, 100], of the pixels of each image that it is added to.
        augmentation: drawn anew for each use of a training image, from torch's global generator: ``"none"``;
            ``"crop_flip"``, a random crop of the image's size after padding it with 4 black pixels, and a horizontal
            flip with probability 0.5; ``"cutout"``, the same, and then, after the normalization, a square of 16 pixels
            around a random pixel set to 0, as far as it lies in the image.
        noise_seed: seed of the label and pixel noise.
        class_ids_from_zero_in_each_exp: True numbers the classes of each experience from 0.
        class_ids_from_zero_from_first_exp: True numbers the classes in the order in which they appear. Excludes
            ``class_ids_from_zero_in_each_exp``.
        dataset_root: folder of the data sets; None means the environment variable ``CLPACK_DATA``, and if that is
            unset, ``~/.clpack``.{" Without effect here." if info.embedded else ""}

    Returns:
        The benchmark, of Avalanche's classic family.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument has an impossible value, there is no other class for a wrong label, or the images
            are too small for cutout.{missing}
    """
    return open_stream


def check_options(arguments: Mapping[str, Any]) -> None:
    """Checks the arguments about noise, all of them by name, and with them the name of the stream as ``stream``.

    Raises:
        TypeError, ValueError: if one has an impossible value.
    """
    info = describe(arguments["stream"])
    _check_number("label_noise", arguments["label_noise"], 100)
    if arguments["pixel_noise"] is not None:
        _check_number("pixel_noise", arguments["pixel_noise"], 255)
    _check_number("pixel_noise_percent", arguments["pixel_noise_percent"], 100)
    noise_seed = arguments["noise_seed"]
    if isinstance(noise_seed, bool) or not isinstance(noise_seed, int):
        raise TypeError(f"noise_seed must be an integer, got {noise_seed!r} of type {type(noise_seed).__name__}")
    augmentation = arguments["augmentation"]
    if augmentation not in get_args(Augmentation):
        raise ValueError(f"augmentation must be one of {', '.join(get_args(Augmentation))}, got {augmentation!r}")
    if augmentation == "cutout" and info.image_shape[-1] <= _CUTOUT_SIDE:
        raise ValueError(
            f"augmentation is 'cutout', but a square of {_CUTOUT_SIDE} pixels leaves nothing of the images of "
            f"{info.name}, {info.image_shape[-1]} pixels wide; use 'crop_flip' or 'none'"
        )
    order = arguments["fixed_class_order"]
    n_classes = info.n_classes if order is None else len(order)
    if arguments["label_noise"] and n_classes == arguments["n_experiences"]:
        raise ValueError(
            f"label_noise is {arguments['label_noise']}, but with {n_classes} experiences each has one class only, "
            "and there is no other label to give; take fewer experiences, or label_noise=0"
        )


def _in_words(normalize: Normalize | None) -> str:
    if normalize is None:
        return "with values in [0, 1], rounded to 8 bits"
    means, stds = ([round(255 * value, 1) for value in values] for values in (normalize.mean, normalize.std))
    return f"normalized with the means {means} / 255 and the standard deviations {stds} / 255"


def _check_number(name: str, value: Any, largest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    if not 0 <= value <= largest:
        raise ValueError(f"{name} must be in [0, {largest}], got {value}")


def _noisy_targets(targets: Tensor, order: list[int], n_experiences: int, percent: float, seed: int) -> Tensor:
    """Returns the labels ``(N,)`` with a part of them moved to another class of the same experience."""
    noisy = targets.clone()
    for experience, classes in enumerate(torch.tensor(order).view(n_experiences, -1).sort().values):
        rows = torch.isin(targets, classes).nonzero().flatten()
        positions = torch.searchsorted(classes, targets[rows])
        generator = generator_for(seed, "label noise", experience)
        moved = noise.label_noise(positions, percent, num_classes=len(classes), generator=generator).targets
        noisy[rows] = classes[moved]
    return noisy


def _transform(normalize: Normalize | None, augmentation: Augmentation = "none", side: int = 0) -> Compose:
    """Returns the transform of an 8-bit image; ``side`` is its width in pixels, for an augmentation."""
    steps: list[Any] = [] if augmentation == "none" else [RandomCrop(side, _CROP_PADDING), RandomHorizontalFlip()]
    steps.append(ConvertImageDtype(torch.float32))
    if normalize is not None:
        steps.append(normalize)
    if augmentation == "cutout":
        steps.append(_Cutout())
    return Compose(steps)


class _Cutout:
    """Sets a square of an image ``(C, H, W)`` to 0, around a random pixel and clipped at the border."""

    def __call__(self, image: Tensor) -> Tensor:
        square = [slice(None)]
        for side in image.shape[1:]:
            center = int(torch.randint(side, ()))
            square.append(slice(max(center - _CUTOUT_SIDE // 2, 0), center + _CUTOUT_SIDE // 2))
        image = image.clone()
        image[tuple(square)] = 0
        return image


def _read_digits(dataset_root: str | os.PathLike[str] | None) -> tuple[TensorImages, TensorImages]:
    train, test = _digits()
    return _in_8_bits(train), _in_8_bits(test)


def _in_8_bits(data: TensorImages) -> TensorImages:
    return TensorImages((255 * data.images).round().to(torch.uint8), data.targets)


def _from_files(data_set: str, read: Callable[[Path], tuple[TensorImages, TensorImages]]) -> _Read:
    return lambda dataset_root: read(check_files(data_set, dataset_root))


_CIFAR = Normalize([mean / 255 for mean in (125.3, 123.0, 113.9)], [std / 255 for std in (63.0, 62.1, 66.7)])

NoisyDigits = _noisy("NoisyDigits", _read_digits, None)
NoisyMNIST = _noisy("NoisyMNIST", _from_files("MNIST", partial(read_grey, "MNIST")), Normalize((0.1307,), (0.3081,)))
NoisyFMNIST = _noisy(
    "NoisyFMNIST", _from_files("FashionMNIST", partial(read_grey, "FashionMNIST")), Normalize((0.2860,), (0.3530,))
)
NoisyCIFAR10 = _noisy("NoisyCIFAR10", _from_files("CIFAR10", partial(read_cifar, "CIFAR10")), _CIFAR)
NoisyCIFAR100 = _noisy("NoisyCIFAR100", _from_files("CIFAR100", partial(read_cifar, "CIFAR100")), _CIFAR)
