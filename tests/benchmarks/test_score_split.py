"""Streams that share samples out by their scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clpack.benchmarks import NoisyDigits, ScoreSplitDigits, check, get
from clpack.strategies import dataset_field

N = 1437
SCORES = np.arange(N) % 4.0  # as if forgotten 0, 1, 2 or 3 times


def images(experience: Any) -> np.ndarray[Any, Any]:
    """The pixels of an experience, shape ``(N, 64)``, in [0, 255]."""
    data = experience.dataset.eval()
    return np.stack([(255 * data[index][0]).round().flatten().numpy() for index in range(len(data))]).astype(int)


def rows(experience: Any) -> list[int]:
    """Which training images an experience has; equal images count as the first of them."""
    first: dict[bytes, int] = {}
    for index, image in enumerate(WHOLE):
        first.setdefault(image.tobytes(), index)
    return [first[image.tobytes()] for image in images(experience)]


WHOLE = images(NoisyDigits(1, seed=0).train_stream[0])


def test_one_experience_is_all_of_the_training_data_in_their_order() -> None:
    benchmark = ScoreSplitDigits(1, seed=5)
    np.testing.assert_array_equal(images(benchmark.train_stream[0]), WHOLE)
    assert dataset_field(benchmark.train_stream[0].dataset, "targets").tolist() == (
        dataset_field(NoisyDigits(1, seed=0).train_stream[0].dataset, "targets").tolist()
    )


@pytest.mark.parametrize("easy_first", [True, False])
def test_experiences_have_the_scores_of_their_range(easy_first: bool) -> None:
    scores = SCORES.copy()
    scores[0], scores[1] = np.inf, np.nan
    ranges = [[None, 1], [1, None]] if easy_first else [[1, None], [None, 1]]
    benchmark = ScoreSplitDigits(2, seed=0, scores=scores, score_ranges=ranges)
    easy, hard = list(benchmark.train_stream)[:: 1 if easy_first else -1]
    assert rows(easy) == [row for row in range(N) if scores[row] == 0]
    assert rows(hard) == [row for row in range(N) if scores[row] >= 1]  # infinity is a score, NaN is none
    assert [len(experience.dataset) for experience in benchmark.test_stream] == [360, 360]


def test_a_number_of_images_is_drawn() -> None:
    def drawn(seed: int) -> list[list[int]]:
        benchmark = ScoreSplitDigits(
            2, seed=seed, scores=torch.from_numpy(SCORES), score_ranges=[[0, 1], [2, 4]], images_per_experience=100
        )
        return [rows(experience) for experience in benchmark.train_stream]

    easy, hard = drawn(0)
    assert {SCORES[row] for row in easy} == {0}
    assert {SCORES[row] for row in hard} == {2, 3}
    assert len(set(easy)) == len(set(hard)) == 100
    assert drawn(0) == [easy, hard] != drawn(1)


def test_without_scores_samples_are_shared_out_at_random() -> None:
    state = torch.get_rng_state()
    shares = [rows(experience) for experience in ScoreSplitDigits(3).train_stream]
    assert torch.equal(torch.get_rng_state(), state)
    assert sorted(row for share in shares for row in share) == list(range(N))
    assert [len(share) for share in shares] == [479] * 3
    assert all(share == sorted(share) != list(range(share[0], share[0] + 479)) for share in shares)
    few = ScoreSplitDigits(3, images_per_experience=7, return_task_id=True)
    assert [len(set(rows(experience))) for experience in few.train_stream] == [7] * 3
    for stream in (few.train_stream, few.test_stream):
        assert [experience.task_labels for experience in stream] == [[0], [1], [2]]
        assert [experience.dataset[0][2] for experience in stream] == [0, 1, 2]


def test_image_data_sets(root: Path) -> None:
    scores = np.arange(30)  # 3 training images for each class
    for name, shape in (("ScoreSplitMNIST", (1, 28, 28)), ("ScoreSplitCIFAR10", (3, 32, 32))):
        benchmark = get(name, seed=0, scores=scores, score_ranges=[[0, 12], [12, None]], dataset_root=root)
        whole = get(name, n_experiences=1, dataset_root=root).train_stream[0].dataset
        first, second = (experience.dataset for experience in benchmark.train_stream)
        assert (len(first), len(second)) == (12, 18)
        assert first[0][0].shape == shape
        torch.testing.assert_close(second.eval()[0][0], whole.eval()[12][0])
    torch.manual_seed(0)
    crops = get("ScoreSplitCIFAR10", augmentation="crop_flip", dataset_root=root).train_stream[0].dataset
    assert not torch.equal(crops.train()[0][0], crops.eval()[0][0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scores": SCORES}, ValueError, "scores and score_ranges go together, but score_ranges is None; give both"),
        ({"score_ranges": [[0, 1], [1, 2]]}, ValueError, "go together, but scores is None"),
        ({"scores": SCORES, "score_ranges": [[0, 1]]}, ValueError, "one range for each of the 2 experiences, got"),
        ({"scores": SCORES, "score_ranges": [[0, 1], [1]]}, ValueError, r"must hold pairs \[low, high\], got"),
        ({"scores": SCORES, "score_ranges": [[0, 1], [1, "x"]]}, TypeError, "must hold numbers, or None for no bound"),
        ({"scores": SCORES, "score_ranges": [[0, 1], [2, 2]]}, ValueError, "with low < high, got"),
        ({"scores": SCORES, "score_ranges": [[2, None], [0, 3]]}, ValueError, "score_ranges must not overlap, got"),
        ({"images_per_experience": 0}, ValueError, "images_per_experience must be a positive integer or None, got 0"),
        ({"augmentation": "flip"}, ValueError, "augmentation must be one of none, crop_flip, cutout, got 'flip'"),
        ({"n_experiences": 0}, ValueError, "n_experiences must be at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed must not be negative"),
    ],
)
def test_bad_arguments_are_found_without_data(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    for open_stream in (lambda **options: check("ScoreSplitDigits", **options), ScoreSplitDigits):
        with pytest.raises(error, match=message):
            open_stream(**arguments)


def test_what_only_the_data_tell() -> None:
    with pytest.raises(ValueError, match=r"one for each of the 1437 training images, shape \(1437,\), got \(1436,\)"):
        ScoreSplitDigits(scores=SCORES[1:], score_ranges=[[0, 1], [1, None]])
    with pytest.raises(
        ValueError,
        match=r"experience 1 must have at least 360 samples with scores in \[3, 9\], but there are 359 of 1437; lower",
    ):
        ScoreSplitDigits(scores=SCORES, score_ranges=[[1, 3], [3, 9]], images_per_experience=360)
    with pytest.raises(ValueError, match="experience 0 must have at least 800 samples, but there are 719 of 1437"):
        ScoreSplitDigits(images_per_experience=800)
