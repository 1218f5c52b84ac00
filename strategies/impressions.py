"""Replay of class impressions: images that the network itself is inverted into, so that no past image is kept.

References:
    [1] S. Ayromlou, T. Tsang, P. Abolmaesumi, X. Li. CCSI: Continual Class-Specific Impression for Data-free Class
        Incremental Learning. arXiv:2406.05631. Authors' code: github.com/ubc-tea/Continual-Impression-CCSI.
    [2] S. Ayromlou, P. Abolmaesumi, T. Tsang, X. Li. Class Impression for Data-free Incremental Learning. MICCAI 2022,
        arXiv:2207.00005.
    [3] H. Yin et al. Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion. CVPR 2020, arXiv:1912.08795.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from avalanche.core import SupervisedPlugin
from avalanche.models.utils import is_multi_task_module
from avalanche.training.plugins import ReplayPlugin
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, WeightedRandomSampler
from torchvision.utils import make_grid

from clpack.files import atomic_path
from clpack.models import ContinualNorm2d
from clpack.randomness import generator_for
from clpack.synthesis import (
    BatchMoments,
    GroupStatistics,
    SynthesisOptions,
    class_means,
    class_statistics,
    impression_targets,
    sampling_weights,
    synthesize_impressions,
)

from ._by_experience import check_entries, check_numbers, entries, entry_of
from ._images import Group, groups_of, has_task_labels
from ._inversion import (
    Outputs,
    check_data,
    check_outputs,
    class_keys,
    evaluation_batches,
    has_layer,
    has_statistics,
    merged,
)
from .data import SAMPLE_ID, add_samples, attach_sample_ids, dataset_field, synthetic_dataset

__all__ = ["ClassImpressionPlugin"]

Start = Literal["mean", "noise"]
Draw = Literal["balanced", "uniform"]
Preset = Literal["default", "released"]

_COLUMNS = 10  # impressions of a class in a picture


class ClassImpressionPlugin(SupervisedPlugin):
    """Replays impressions of all classes seen so far, in any strategy, without keeping an image of them.

    After each experience the mean image of every class and, for a network with continual normalization, the mean
    moments of its groups of channels in every layer are taken from the data of the experience, as evaluation sees them.
    They are all that is kept. When the next experience begins, the network as it is then is inverted into new images of
    all classes seen (:func:`clpack.synthesis.synthesize_impressions`), and these are added to the training data;
    earlier impressions are thrown away. Model, optimizer and the global random generators are left as they were.

    With networks of continual normalization that is the first step of [1], with batch normalization that of [2], and
    with ``init="noise"`` the replay of [3]. The statistics need one of both; for other networks give ``statistics=0``.

    The impressions are images as the model takes them: no transform is applied to them, and ``pixel_range`` must be
    that of the transformed images; the default is [0, 1]. Put this plugin before others that read the training data.

    Arguments that say so may be sequences: one number for each experience of the stream after the first, as the
    released configurations of [1] have them.

    Args:
        images_per_class: how many impressions there are of each class. Default: see ``num_batches``.
        num_batches: how many batches of ``batch_size`` impressions there are in all. Default: as in the code of [1], so
            many that for each experience seen there are half as many images as a class had; and enough for one of each
            class. Or a sequence.
        init: what images start from, the noisy mean of their class (``"mean"``) or ``"noise"``.
        draw: ``"balanced"``, all classes have as many impressions, or ``"uniform"``, the class of each is drawn.
            Default: that of the preset, balanced.
        eight_bit: whether class means are rounded to multiples of 1/255. Default: that of the preset, False.
        synthetic_fraction: how often a training sample is to be an impression: samples are drawn with replacement, so
            many that the real ones come about once each (:func:`clpack.synthesis.sampling_weights`). [1] uses 0.66.
            Or a sequence. Default: None, every sample comes once.
        tv_l2: weight of the total variation in the synthesis, or a sequence. Default: 0.01.
        preset: ``"default"``, or ``"released"`` for the choices of the code of [1], which are costly:
            5000 iterations.
        seed: of what the synthesis draws.
        save_to: folder for the impressions that each experience is trained with: ``experience_001.safetensors`` with
            ``images`` ``(N, C, H, W)``, ``targets`` and ``task_labels`` ``(N,)``, and for images of one or three
            channels a picture ``experience_001.png``, a row for each class with its mean in front. Default: not saved.
        options: of the synthesis, see :class:`clpack.synthesis.SynthesisOptions`: ``iterations``, ``learning_rate``,
            ``batch_size``, ``jitter``, ``flip``, ``l2``, ``statistics``, ``patience``, ...

    Attributes:
        classes: task label and label of each class seen, in the order in which they appeared.
        counts: how many samples each had, int64 of shape ``(classes,)``.
        class_means: their mean images, float32 of shape ``(classes, C, H, W)``; None before the first experience.
        statistics: the moments of their groups, a row for each; None for networks without continual normalization.
        impressions: what the present or the last experience was trained with, ``(N, C, H, W)``; None if nothing.
        impression_classes: int64 tensor of shape ``(N,)``, their positions in ``classes``.

    Raises:
        ValueError: if an argument is out of range; in training, if a sequence is not as long as the stream asks for,
            the model has no normalization to take statistics from or too few outputs, the data are not images or not in
            ``pixel_range``, a class has fewer than two samples or would have no impression, or there is a memory
            besides ``synthetic_fraction``.
        TypeError: if there is no such option.
    """

    def __init__(
        self,
        *,
        images_per_class: int | None = None,
        num_batches: int | Sequence[int] | None = None,
        init: Start = "mean",
        draw: Draw | None = None,
        eight_bit: bool | None = None,
        synthetic_fraction: float | Sequence[float] | None = None,
        tv_l2: float | Sequence[float] | None = None,
        preset: Preset = "default",
        seed: int = 0,
        save_to: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if images_per_class is not None and num_batches is not None:
            raise ValueError(f"give images_per_class or num_batches, got both: {images_per_class} and {num_batches}")
        for name, value in (("images_per_class", images_per_class), ("num_batches", num_batches)):
            if value is not None:
                check_numbers(name, value, integer=True)
                if any(number < 1 for number in entries(value)):
                    raise ValueError(f"{name} must be positive, got {value}")
        for name, weights in (("synthetic_fraction", synthetic_fraction), ("tv_l2", tv_l2)):
            if weights is not None:
                check_numbers(name, weights)
        if init not in ("mean", "noise"):
            raise ValueError(f"init must be 'mean' or 'noise', got {init!r}")
        for fraction in () if synthetic_fraction is None else entries(synthetic_fraction):
            sampling_weights(1, 1, synthetic_fraction=fraction)  # complains at once
        self.options = SynthesisOptions.preset(preset, from_mean=init == "mean", **options)
        self.tv_l2 = self.options.tv_l2 if tv_l2 is None else tv_l2
        for weight in entries(self.tv_l2):
            self.options = replace(self.options, tv_l2=weight)  # complains at once
        if images_per_class is not None and self.options.statistics_form == "batch":
            raise ValueError(
                "statistics_form='batch' needs whole batches: give num_batches instead of images_per_class"
            )
        self.images_per_class = images_per_class
        self.num_batches = num_batches
        self.draw: Draw = draw or ("uniform" if preset == "released" else "balanced")
        impression_targets(1, 1, draw=self.draw)  # complains at once
        self.eight_bit = preset == "released" if eight_bit is None else eight_bit
        self.synthetic_fraction = synthetic_fraction
        self.seed = seed
        self.save_to = save_to
        self.classes: list[tuple[int, int]] = []
        self.counts = torch.zeros(0, dtype=torch.int64)
        self.class_means: Tensor | None = None
        self.statistics: GroupStatistics | None = None
        self.impressions: Tensor | None = None
        self.impression_classes = torch.zeros(0, dtype=torch.int64)
        self._moments: BatchMoments | None = None

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Checks the model."""
        if sum(isinstance(plugin, ClassImpressionPlugin) for plugin in strategy.plugins) > 1:
            raise ValueError("the strategy has more than one ClassImpressionPlugin; drop yours, CCSI brings one")
        if self.synthetic_fraction is not None and any(isinstance(each, ReplayPlugin) for each in strategy.plugins):
            raise ValueError(
                "synthetic_fraction, which CCSI sets, draws from new samples and impressions alone, but ReplayPlugin "
                "mixes a memory in; leave one of them out"
            )
        if self.options.statistics > 0 and not has_statistics(strategy.model):
            raise ValueError(
                f"{type(strategy.model).__name__} has no normalization layer with running statistics: take CCSIResNet, "
                "use replace_batch_norm on a network with BatchNorm2d, or leave the statistics out with statistics=0"
            )
        if self._follows_batches(strategy.model) and self.options.batch_size != strategy.train_mb_size:
            raise ValueError(
                "statistics_form='batch' needs as many impressions in a batch as there are samples in one of training, "
                f"got batch_size={self.options.batch_size} and train_mb_size={strategy.train_mb_size}"
            )

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Checks the data, and synthesizes impressions of the classes seen before."""
        check_data(strategy.experience, self.options)
        check_entries(
            strategy.experience,
            num_batches=self.num_batches,
            synthetic_fraction=self.synthetic_fraction,
            tv_l2=self.tv_l2,
        )
        self._check_number(strategy.experience)
        if self.synthetic_fraction is not None:
            attach_sample_ids(strategy)
        self.impressions = None
        if self.classes:
            self._synthesize(strategy)
            if self.save_to is not None:
                self._save(Path(self.save_to), strategy.experience.current_experience)

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Adds the impressions to the training data."""
        if self.impressions is None:
            return
        data = strategy.adapted_dataset
        tasks, labels = zip(*(self.classes[row] for row in self.impression_classes.tolist()), strict=True)
        task_labels = tasks if has_task_labels(data) else None
        add_samples(strategy, synthetic_dataset(data, self.impressions.cpu(), labels, task_labels), **kwargs)

    def before_training_exp(
        self, strategy: Any, *, num_workers: int = 0, drop_last: bool = False, pin_memory: bool = False, **kwargs: Any
    ) -> None:
        """Checks the outputs of the model, which has grown by now, and draws so many impressions as are wanted."""
        check_outputs(strategy)
        if self._moments is not None:  # of a training that was interrupted
            self._moments.remove()
        if self._follows_batches(strategy.model):
            self._moments = BatchMoments(Outputs(strategy.model, 0))
        if self.synthetic_fraction is None:
            return
        data = strategy.adapted_dataset
        is_synthetic = dataset_field(data, SAMPLE_ID) < 0
        num_synthetic = int(is_synthetic.sum())
        weight, num_draws = 1.0, len(data)
        if 0 < num_synthetic < len(data):
            fraction = entry_of(self.synthetic_fraction, strategy.experience)
            weight, num_draws = sampling_weights(len(data) - num_synthetic, num_synthetic, synthetic_fraction=fraction)
        weights = torch.where(is_synthetic, weight, 1.0).tolist()
        strategy.dataloader = DataLoader(
            data,
            batch_size=strategy.train_mb_size,
            sampler=WeightedRandomSampler(weights, num_draws),  # draws as torch's shuffling does
            collate_fn=data.collate_fn,
            num_workers=num_workers,
            drop_last=drop_last,
            pin_memory=pin_memory,
        )

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Takes what is kept from the data of the experience; for a class that returns, means of all that was."""
        data = strategy.experience.dataset
        keys, rows = class_keys(data)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            parts = evaluation_batches(data, strategy.eval_mb_size)
            for (images, _), labels in zip(parts, rows.split(strategy.eval_mb_size), strict=True):
                yield images, labels

        means = class_means(batches(), range(len(keys)), eight_bit=self.eight_bit)
        self.classes += [key for key in keys if key not in self.classes]
        places = torch.tensor([self.classes.index(key) for key in keys])
        found, before = rows.bincount(minlength=len(keys)), self.counts
        self.counts = torch.zeros(len(self.classes), dtype=torch.int64)
        self.counts[: len(before)] = before
        self.counts[places] += found
        shares = found / self.counts[places]
        self.class_means = merged(self.class_means, means, places, shares)
        if self._moments is not None:
            self._moments.remove()
            self.statistics, self._moments = self._moments.statistics, None
        elif self.options.statistics > 0 and has_layer(strategy.model, ContinualNorm2d):
            model = Outputs(strategy.model, keys[0][0])  # the layers are those of all tasks
            new = class_statistics(model, batches(), range(len(keys)))
            old = GroupStatistics({}, {}) if self.statistics is None else self.statistics
            self.statistics = GroupStatistics(
                {name: merged(old.mean.get(name), table, places, shares) for name, table in new.mean.items()},
                {name: merged(old.var.get(name), table, places, shares) for name, table in new.var.items()},
            )

    def checkpoint_state(self) -> dict[str, Any]:
        """Returns what is kept of the classes; the arguments are those of the plugin built anew."""
        state = {name: getattr(self, name) for name in _STATE}
        return state | {"moments": None if self._moments is None else self._moments.statistics}

    def load_checkpoint_state(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state."""
        for name in _STATE:
            setattr(self, name, state[name])
        if self._moments is not None and state["moments"] is not None:
            self._moments.statistics = state["moments"]

    def _follows_batches(self, model: nn.Module) -> bool:
        """Whether the moments are those of training batches, as in the released code."""
        from_batches = self.options.statistics > 0 and self.options.statistics_form == "batch"
        return from_batches and has_layer(model, ContinualNorm2d)

    def _synthesize(self, strategy: Any) -> None:
        assert self.class_means is not None
        generator = generator_for(self.seed, "impressions", strategy.clock.train_exp_counter)
        num_images = self._num_images(strategy)
        self.options = replace(self.options, tv_l2=entry_of(self.tv_l2, strategy.experience))
        chosen = impression_targets(num_images, len(self.classes), draw=self.draw, generator=generator)
        groups: dict[int, list[int]] = {}  # classes whose outputs are side by side
        for place, (task, _) in enumerate(self.classes):
            groups.setdefault(task if is_multi_task_module(strategy.model) else 0, []).append(place)
        means = self.class_means.to(next(strategy.model.parameters()).dtype)
        images = means.new_empty((num_images, *means.shape[1:]))
        for task, places in groups.items():
            place_in_group = torch.zeros(len(self.classes), dtype=torch.int64)
            place_in_group[places] = torch.arange(len(places))
            where = torch.isin(chosen, torch.tensor(places)).nonzero().flatten()
            if len(where):
                images[where] = synthesize_impressions(
                    Outputs(strategy.model, task, [self.classes[place][1] for place in places]),
                    means[places],
                    place_in_group[chosen[where]],
                    statistics=self._statistics_of(places),
                    options=self.options,
                    generator=generator,
                ).to(images)
        self.impressions, self.impression_classes = images, chosen

    def _check_number(self, experience: Any) -> None:
        """Complains if there would be fewer impressions in an experience than classes before it."""
        if self.num_batches is None:
            return
        self._check_enough(experience, len(self.classes))
        stream, seen = getattr(experience, "origin_stream", ()), set[Group]()
        for each in stream if hasattr(stream, "__len__") else ():
            self._check_enough(each, len(seen))
            seen |= groups_of(each.dataset).keys()

    def _check_enough(self, experience: Any, num_classes: int) -> None:
        assert self.num_batches is not None
        num_batches = entry_of(self.num_batches, experience) if num_classes else 0
        if num_batches * self.options.batch_size < num_classes:
            raise ValueError(
                f"num_batches={num_batches} batches of {self.options.batch_size} impressions are too few for the "
                f"{num_classes} classes before experience {experience.current_experience}; take more, or give "
                "images_per_class"
            )

    def _num_images(self, strategy: Any) -> int:
        if self.images_per_class is not None:
            return self.images_per_class * len(self.classes)
        batch_size = self.options.batch_size
        if self.num_batches is not None:
            return entry_of(self.num_batches, strategy.experience) * batch_size
        num_experiences: int = strategy.clock.train_exp_counter
        samples = int(self.counts[min(num_experiences, len(self.classes)) - 1])
        return max(samples * num_experiences // (2 * batch_size), -(-len(self.classes) // batch_size)) * batch_size

    def _statistics_of(self, places: list[int]) -> GroupStatistics | None:
        if self.statistics is None or self.options.statistics_form == "batch":
            return self.statistics
        tables = (self.statistics.mean, self.statistics.var)
        return GroupStatistics(*({name: table[places] for name, table in each.items()} for each in tables))

    def _save(self, folder: Path, experience: int) -> None:
        assert self.impressions is not None
        assert self.class_means is not None
        images, chosen = self.impressions, self.impression_classes
        task_labels, targets = torch.tensor(self.classes)[chosen].T
        with atomic_path(folder / f"experience_{experience:03d}.safetensors") as partial:
            save_file({"images": images, "targets": targets.clone(), "task_labels": task_labels.clone()}, partial)
        if images.shape[1] not in (1, 3):
            return
        picture = []
        for place, mean in enumerate(self.class_means):
            row = torch.cat((mean[None], images[chosen == place][:_COLUMNS]))
            blank = images.max().expand(_COLUMNS + 1 - len(row), *mean.shape)
            picture.append(torch.cat((row, blank)))
        grid = make_grid(torch.cat(picture), nrow=_COLUMNS + 1, padding=1, normalize=True, pad_value=1.0)
        pixels = (255 * grid.permute(1, 2, 0)).round().to(torch.uint8).numpy()
        with atomic_path(folder / f"experience_{experience:03d}.png") as partial:
            Image.fromarray(pixels).save(partial, format="png")

    def __str__(self) -> str:
        return "ClassImpression"


_STATE = ("classes", "counts", "class_means", "statistics", "impressions", "impression_classes")
