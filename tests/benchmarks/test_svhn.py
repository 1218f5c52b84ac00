"""Split SVHN from forged files."""

from __future__ import annotations

from pathlib import Path

import pytest
import scipy.io
import torch
from torchvision.transforms import Normalize

from clpack.benchmarks import SplitSVHN, check, describe
from clpack.condensation import NORMALIZATION
from clpack.strategies import ExperienceLoader

from .conftest import forge_svhn


@pytest.fixture
def svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    forge_svhn(monkeypatch, tmp_path)
    return tmp_path


@pytest.mark.parametrize("normalize", [False, True])
def test_images_and_labels(svhn: Path, normalize: bool) -> None:
    benchmark = SplitSVHN(fixed_class_order=range(10), normalize=normalize, dataset_root=svhn)
    transform = Normalize(*NORMALIZATION["svhn"]) if normalize else torch.nn.Identity()
    for name, part in (("train", "train"), ("test", "test")):
        content = scipy.io.loadmat(svhn / f"SVHN/{part}_32x32.mat")
        pixels, digits = torch.from_numpy(content["X"]).permute(3, 2, 0, 1), content["y"].flatten() % 10
        for task, experience in enumerate(benchmark.streams[name]):
            rows = [row for digit in (2 * task, 2 * task + 1) for row in range(len(digits)) if digits[row] == digit]
            assert [(label, where) for _, label, where in experience.dataset] == [(digits[row], 0) for row in rows]
            for (image, *_), row in zip(experience.dataset, rows, strict=True):
                assert image.shape == describe("SplitSVHN").image_shape
                torch.testing.assert_close(image, transform(pixels[row] / 255))
    dataset = benchmark.train_stream[0].dataset
    assert ExperienceLoader(torch.utils.data.DataLoader(dataset, collate_fn=dataset.collate_fn)).gathers
    assert benchmark.data_description == "SVHN"


def test_classes_are_shuffled_and_tasks_labeled(svhn: Path) -> None:
    benchmark = SplitSVHN(2, seed=1, return_task_id=True, class_ids_from_zero_in_each_exp=True, dataset_root=svhn)
    assert [set(experience.classes_in_this_experience) for experience in benchmark.train_stream] == [set(range(5))] * 2
    assert [experience.task_labels for experience in benchmark.test_stream] == [[0], [1]]
    orders = [
        [e.classes_in_this_experience for e in SplitSVHN(10, seed=seed, dataset_root=svhn).train_stream]
        for seed in (0, 1)
    ]
    assert orders[0] != orders[1]


def test_missing_files_and_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Get train_32x32.mat, test_32x32.mat from"):
        SplitSVHN(dataset_root=tmp_path)
    with pytest.raises(TypeError, match="normalize must be True or False, got 1"):
        check("SplitSVHN", normalize=1)
    with pytest.raises(ValueError, match="must divide the 10 classes evenly: got 3"):
        check("SplitSVHN", n_experiences=3)
