"""What class impressions ask of models and data, and what they do to both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from avalanche.models import DynamicModule, avalanche_forward
from avalanche.models.utils import is_multi_task_module
from torch import Tensor, nn
from torch.utils.data import DataLoader

from clpack.models import ContinualNorm2d
from clpack.modes import evaluation_mode
from clpack.synthesis import SynthesisOptions

from ._images import task_labels
from .data import dataset_field
from .loader import ExperienceLoader
from .templates import check_not_empty

__all__ = [
    "Outputs",
    "check_data",
    "check_outputs",
    "class_keys",
    "evaluation_batches",
    "has_layer",
    "has_statistics",
    "merged",
]


class Outputs(nn.Module):
    """A model as a function of the images alone: its logits for a task, or those of some classes of it."""

    def __init__(self, model: nn.Module, task_label: int, labels: list[int] | None = None) -> None:
        super().__init__()
        self.model = model
        self.task_label = task_label
        self.labels = labels

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = avalanche_forward(self.model, images, self.task_label)
        return logits if self.labels is None else logits[:, self.labels]


def merged(table: Tensor | None, new: Tensor, places: Tensor, shares: Tensor) -> Tensor:
    """Returns a table with a row for every class, in which rows ``new`` have their shares of those at ``places``."""
    old = new[:0] if table is None else table
    extended = new.new_zeros((max(len(old), int(places.max()) + 1), *new.shape[1:]))
    extended[: len(old)] = old
    weights = shares.to(new).view(-1, *[1] * (new.dim() - 1))
    extended[places] = extended[places].lerp(new, weights)
    return extended


def class_keys(data: Any) -> tuple[list[tuple[int, int]], Tensor]:
    """Returns task label and label of each class in a dataset, and which of them each sample is of."""
    pairs = torch.stack((task_labels(data), dataset_field(data, "targets")), dim=1)
    keys, rows = pairs.unique(dim=0, return_inverse=True)
    return [(task, label) for task, label in keys.tolist()], rows


def evaluation_batches(data: Any, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the images and labels of a dataset in its order, as evaluation sees them."""
    data = data.eval()
    loader = DataLoader(data, batch_size=batch_size, collate_fn=data.collate_fn)
    with torch.random.fork_rng(devices=[]):  # a loader draws a seed when its iteration begins
        batches = iter(ExperienceLoader(loader))
    for images, targets, *_ in batches:
        yield images, targets


def _first_image(data: Any) -> Any:
    with torch.random.fork_rng(devices=[]):  # looking at a sample must not shift the random stream of the run
        return data.eval()[0][0]


def check_data(experience: Any, options: SynthesisOptions) -> None:
    """Complains about samples that are no images, that impressions cannot be like, or that are alone in their class."""
    check_not_empty(experience)
    image = _first_image(experience.dataset)
    if not isinstance(image, Tensor) or image.dim() != 3 or not image.is_floating_point():
        found = f"{image.dtype} of shape {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(
            f"samples must be floating-point images of shape (C, H, W), got {found}; add transforms such as ToTensor"
        )
    low, high = (torch.as_tensor(bound, dtype=image.dtype).view(-1, 1, 1) for bound in options.pixel_range)
    if not {len(low), len(high)} <= {1, len(image)}:
        raise ValueError(
            f"pixel_range must hold one number or one for each of {len(image)} channels, got {options.pixel_range}"
        )
    clipped, slack = image[: options.clip_channels], 0.01 * (high - low)  # interpolation may overshoot a little
    if ((clipped < low - slack) | (clipped > high + slack)).any():
        raise ValueError(
            f"impressions are clipped to pixel_range={options.pixel_range}, but the first sample of experience "
            f"{experience.current_experience} has values from {image.min():.3g} to {image.max():.3g}: give the range "
            "of the transformed images"
        )
    keys, rows = class_keys(experience.dataset)
    for (_, label), count in zip(keys, rows.bincount().tolist(), strict=True):
        if count < 2:
            raise ValueError(
                f"class {label} has a single sample in experience {experience.current_experience}, which would be its "
                "mean image; every class needs two at least"
            )


def check_outputs(strategy: Any) -> None:
    """Complains if the model has no outputs for classes that come now or, if it never grows, later."""
    model, experience = strategy.model, strategy.experience
    if is_multi_task_module(model):
        return
    experiences = [experience] if has_layer(model, DynamicModule) else experience.origin_stream
    highest = max(max(each.classes_in_this_experience) for each in experiences)
    with torch.no_grad(), evaluation_mode(model):
        outputs = model(_first_image(experience.dataset)[None].to(strategy.device)).shape[1]
    if outputs <= highest:
        raise ValueError(
            f"the model has {outputs} outputs and none for class {highest}: give it a head that grows, such as that of "
            "with_head(model, 'incremental'), or an output for every class of the stream"
        )


def has_layer(model: nn.Module, kind: type[nn.Module]) -> bool:
    return any(isinstance(module, kind) for module in model.modules())


def has_statistics(model: nn.Module) -> bool:
    return any(
        isinstance(module, ContinualNorm2d | nn.BatchNorm2d) and module.running_mean is not None
        for module in model.modules()
    )
