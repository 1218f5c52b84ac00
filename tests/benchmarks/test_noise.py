"""The noisy streams: what is changed and what is not, and that the marks stay with their samples."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from avalanche.training.plugins import ReplayPlugin
from avalanche.training.supervised import Naive
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import Compose, Normalize, ToTensor

import clpack.benchmarks as benchmarks
from clpack.benchmarks import (
    NoisyCIFAR10,
    NoisyCIFAR100,
    NoisyDigits,
    NoisyFMNIST,
    NoisyMNIST,
    SplitCIFAR10,
    SplitCIFAR100,
    SplitDigits,
    SplitFMNIST,
    SplitMNIST,
    check,
    describe,
)
from clpack.models import MLP
from clpack.strategies import ExperienceLoader, TracePlugin, dataset_field, decode_sample_ids


def _content(dataset: Any) -> tuple[Tensor, Tensor]:
    """The images ``(N, C, H, W)`` and labels of a data set, read sample by sample."""
    samples = [dataset[i] for i in range(len(dataset))]
    return torch.stack([sample[0] for sample in samples]), torch.tensor([sample[1] for sample in samples])


def _experiences(benchmark: Any) -> list[Any]:
    return [*benchmark.train_stream, *benchmark.test_stream]


def _marks(dataset: Any) -> tuple[Tensor, Tensor, Tensor]:
    return (
        dataset_field(dataset, "targets"),
        dataset_field(dataset, "clean_targets"),
        dataset_field(dataset, "is_changed"),
    )


_CIFAR = Normalize([0.4913725, 0.4823529, 0.4466667], [0.2470588, 0.2435294, 0.2615686])


@pytest.mark.parametrize(
    ("noisy", "plain", "transform"),
    [
        (NoisyMNIST, SplitMNIST, Normalize((0.1307,), (0.3081,))),
        (NoisyFMNIST, SplitFMNIST, Compose([ToTensor(), Normalize((0.2860,), (0.3530,))])),
        (NoisyCIFAR10, SplitCIFAR10, Compose([ToTensor(), _CIFAR])),
        (NoisyCIFAR100, SplitCIFAR100, Compose([ToTensor(), _CIFAR])),
    ],
)
def test_without_noise_they_are_the_plain_streams(
    noisy: Callable[..., Any], plain: Callable[..., Any], transform: Any, root: Path
) -> None:
    options: dict[str, Any] = {"seed": 3, "return_task_id": True, "dataset_root": root}
    ours, theirs = noisy(5, **options), plain(5, **options, train_transform=transform, eval_transform=transform)
    assert ours.classes_order == theirs.classes_order
    for mine, other in zip(_experiences(ours), _experiences(theirs), strict=True):
        assert mine.task_labels == other.task_labels
        (images, labels), (expected, expected_labels) = _content(mine.dataset), _content(other.dataset)
        torch.testing.assert_close(images, expected, rtol=0, atol=2e-6)
        assert torch.equal(labels, expected_labels)
        assert set(mine.dataset._data_attributes) == {"targets", "targets_task_labels"}


def test_digits_are_those_of_the_split_stream_in_8_bits() -> None:
    ours, theirs = NoisyDigits(2, seed=1), SplitDigits(2, seed=1)
    for mine, other in zip(_experiences(ours), _experiences(theirs), strict=True):
        (images, labels), (expected, expected_labels) = _content(mine.dataset), _content(other.dataset)
        assert torch.equal(labels, expected_labels)
        assert float((images - expected).abs().max()) <= 0.5 / 255 + 1e-6
        assert torch.equal((255 * images).round() / 255, images)


@pytest.mark.parametrize("n_experiences", [1, 2, 5])
def test_label_noise_stays_within_the_experience_and_marks_what_it_changed(n_experiences: int) -> None:
    noisy, clean = (NoisyDigits(n_experiences, seed=4, label_noise=percent) for percent in (20, 0))
    images = {tuple(image.flatten().tolist()): label for e in clean.train_stream for image, label, _ in e.dataset}
    for experience, original in zip(noisy.train_stream, clean.train_stream, strict=True):
        dataset = experience.dataset
        targets, clean_targets, changed = _marks(dataset)
        assert len(dataset) == len(original.dataset)
        assert experience.classes_in_this_experience == original.classes_in_this_experience
        assert set(targets.tolist()) == set(clean_targets.tolist()) == set(experience.classes_in_this_experience)
        assert int(changed.sum()) == int(20 * len(dataset) / 100)
        assert torch.equal(changed, targets != clean_targets)
        assert [images[tuple(image.flatten().tolist())] for image, _, _ in dataset] == clean_targets.tolist()
        assert [label for _, label, _ in dataset] == targets.tolist()
    for experience, original in zip(noisy.test_stream, clean.test_stream, strict=True):
        assert all(map(torch.equal, _content(experience.dataset), _content(original.dataset)))
        assert "is_changed" not in experience.dataset._data_attributes


@pytest.mark.parametrize("option", ["class_ids_from_zero_in_each_exp", "class_ids_from_zero_from_first_exp"])
def test_clean_labels_are_numbered_as_the_labels(option: str) -> None:
    options: dict[str, Any] = {"fixed_class_order": [7, 2, 9, 4, 0, 5], "label_noise": 30}
    plain, renumbered = NoisyDigits(3, **options), NoisyDigits(3, **options, **{option: True})
    for first, one, other in zip((0, 2, 4), plain.train_stream, renumbered.train_stream, strict=True):
        start = 0 if option.endswith("each_exp") else first
        names = {label: start + i for i, label in enumerate(options["fixed_class_order"][first : first + 2])}
        targets, clean, changed = _marks(one.dataset)
        assert [names[label] for label in clean.tolist()] == dataset_field(other.dataset, "clean_targets").tolist()
        assert [names[label] for label in targets.tolist()] == _content(other.dataset)[1].tolist()
        assert torch.equal(changed, dataset_field(other.dataset, "is_changed"))


def test_the_noise_hangs_on_its_seed_alone() -> None:
    state = torch.get_rng_state()

    def content(**options: Any) -> list[Tensor]:
        dataset = NoisyDigits(label_noise=20, pixel_noise=5.0, **options).train_stream[0].dataset
        images, labels = _content(dataset)
        order = images.flatten(1).double() @ torch.linspace(1, 2, 64, dtype=torch.float64)  # rows come by label
        return [images[order.argsort()], labels[order.argsort()]]

    first = content(seed=1)
    assert all(map(torch.equal, first, content(seed=2)))
    assert not any(map(torch.equal, first, content(seed=1, noise_seed=1)))
    assert torch.equal(torch.get_rng_state(), state)


def test_pixel_noise_is_in_all_training_images_and_no_others(root: Path) -> None:
    options: dict[str, Any] = {"shuffle": False, "dataset_root": root}
    noisy, clean = NoisyMNIST(pixel_noise=0, pixel_noise_percent=10, **options), NoisyMNIST(**options)
    images = [_content(stream.train_stream[0].dataset)[0] for stream in (noisy, clean)]
    levels, before = ((255 * (part * 0.3081 + 0.1307)).round() for part in images)
    assert (levels != before).flatten(1).sum(1).max() == 78
    assert torch.equal(levels[levels != before], (before[levels != before] + 120).clamp(max=255))
    assert torch.equal(*(_content(stream.test_stream[0].dataset)[0] for stream in (noisy, clean)))
    assert set(noisy.train_stream[0].dataset._data_attributes) == {"targets", "targets_task_labels"}


def test_marks_survive_subsets_concatenation_replay_and_sample_ids() -> None:
    benchmark = NoisyDigits(2, seed=0, label_noise=20, return_task_id=True)
    first, second = (experience.dataset for experience in benchmark.train_stream)
    rows = torch.randperm(len(first))[:50]
    for mine, whole in zip(_marks(first.subset(rows.tolist())), _marks(first), strict=True):
        assert torch.equal(mine, whole[rows])
    for both, *parts in zip(*map(_marks, (first.concat(second), first, second)), strict=True):
        assert torch.equal(both, torch.cat(parts))

    trace = TracePlugin()
    replay = ReplayPlugin(mem_size=40)
    model = MLP(10, input_size=64, hidden_sizes=(16,))
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=64,
        plugins=[trace, replay],
        evaluator=None,
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
    assert trace.traces[1].loss.shape == (1, len(second))
    memory = replay.storage_policy.buffer
    experiences, rows = decode_sample_ids(dataset_field(memory, "sample_id"))
    assert set(experiences.tolist()) == {0, 1}
    for i, original in enumerate((first, second)):
        for kept, whole in zip(_marks(memory), _marks(original), strict=True):
            assert torch.equal(kept[experiences == i], whole[rows[experiences == i]])


@pytest.mark.parametrize(("augmentation", "gathers"), [("none", True), ("crop_flip", False), ("cutout", False)])
def test_batches_are_gathered_unless_images_are_augmented(augmentation: str, gathers: bool, root: Path) -> None:
    stream = NoisyCIFAR10(label_noise=20, pixel_noise=1, augmentation=augmentation, dataset_root=root).train_stream
    for dataset, expected in ((stream[0].dataset, gathers), (stream[0].dataset.eval(), True)):
        loader = ExperienceLoader(DataLoader(dataset, batch_size=8, collate_fn=dataset.collate_fn))
        assert loader.gathers == expected
        images, labels = _content(dataset.eval())
        if expected:
            assert torch.equal(torch.cat([batch[0] for batch in loader]), images)
        assert torch.equal(torch.cat([batch[1] for batch in loader]), labels)


def test_crops_are_shifted_and_half_of_them_flipped(root: Path) -> None:
    dataset = NoisyCIFAR10(augmentation="crop_flip", dataset_root=root).train_stream[0].dataset
    black = -torch.tensor([125.3, 123.0, 113.9]) / torch.tensor([63.0, 62.1, 66.7])
    padded = black.view(3, 1, 1).repeat(1, 40, 40)
    padded[:, 4:36, 4:36] = dataset.eval()[5][0]
    windows = {}
    for row in range(9):
        for column in range(9):
            window = padded[:, row : row + 32, column : column + 32]
            windows[row, column, False], windows[row, column, True] = window, window.flip(2)
    found = []
    for _ in range(60):
        image = dataset[5][0]
        found += [place for place, window in windows.items() if torch.allclose(image, window, atol=1e-6)]
    assert len(found) == 60
    assert 15 <= sum(flipped for _, _, flipped in found) <= 45
    assert {place[0] for place in found} == {place[1] for place in found} == set(range(9))


def test_cutout_sets_one_square_to_the_mean(root: Path) -> None:
    stream = NoisyMNIST(augmentation="cutout", dataset_root=root)
    dataset = stream.train_stream[0].dataset
    sides = set()
    for _ in range(200):
        hole = (dataset[3][0][0] == 0).nonzero()  # no 8-bit level is normalized to 0
        (top, left), (bottom, right) = hole.amin(0).tolist(), hole.amax(0).tolist()
        height, width = bottom - top + 1, right - left + 1
        assert len(hole) == height * width
        for first, last, side in ((top, bottom, height), (left, right, width)):
            assert side == 16 or (8 <= side < 16 and (first == 0 or last == 27))
        sides |= {height, width}
    assert sides == set(range(8, 17))
    torch.manual_seed(1)
    first = dataset[3][0]
    torch.manual_seed(1)
    assert torch.equal(dataset[3][0], first)
    image = stream.test_stream[0].dataset[0][0]
    assert image.count_nonzero() == image.numel()


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("NoisyDigits", {"label_noise": 101}, ValueError, r"label_noise must be in \[0, 100\], got 101"),
        ("NoisyDigits", {"label_noise": "20"}, TypeError, "label_noise must be a number, got '20' of type str"),
        ("NoisyDigits", {"label_noise": 20, "n_experiences": 10}, ValueError, "with 10 experiences each has one class"),
        (
            "NoisyCIFAR100",
            {"label_noise": 1, "n_experiences": 2, "fixed_class_order": [5, 50]},
            ValueError,
            "with 2 experiences each has one class",
        ),
        ("NoisyMNIST", {"pixel_noise": -1.0}, ValueError, r"pixel_noise must be in \[0, 255\], got -1"),
        ("NoisyMNIST", {"pixel_noise": True}, TypeError, "pixel_noise must be a number, got True"),
        ("NoisyMNIST", {"pixel_noise_percent": float("nan")}, ValueError, r"in \[0, 100\], got nan"),
        ("NoisyFMNIST", {"noise_seed": None}, TypeError, "noise_seed must be an integer, got None"),
        ("NoisyFMNIST", {"augmentation": "flip"}, ValueError, "one of none, crop_flip, cutout, got 'flip'"),
        ("NoisyDigits", {"augmentation": "cutout"}, ValueError, "NoisyDigits, 8 pixels wide; use 'crop_flip' or"),
        ("NoisyCIFAR10", {"n_experiences": 3}, ValueError, "must divide the 10 classes evenly: got 3"),
    ],
)
def test_refuses_before_looking_for_files(
    name: str, arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    for refuse in (lambda **given: check(name, **given), getattr(benchmarks, name)):
        with pytest.raises(error, match=message):
            refuse(**arguments, dataset_root=tmp_path)


@pytest.mark.parametrize("name", ["NoisyMNIST", "NoisyFMNIST", "NoisyCIFAR10", "NoisyCIFAR100"])
def test_missing_files_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"data set {describe(name).data_set} cannot be opened"):
        getattr(benchmarks, name)(dataset_root=tmp_path)


@pytest.mark.skipif(not os.environ.get("CLPACK_DATA"), reason="set CLPACK_DATA to the dataset root to use real data")
def test_real_mnist_is_normalized() -> None:
    benchmark = NoisyMNIST(label_noise=20)
    loader = ExperienceLoader(DataLoader(benchmark.train_stream[0].dataset, batch_size=10_000))
    images = torch.cat([batch[0] for batch in loader])
    assert abs(float(images.mean())) < 1e-3
    assert abs(float(images.std()) - 1) < 1e-3
    assert int(dataset_field(benchmark.train_stream[0].dataset, "is_changed").sum()) == 12_000
