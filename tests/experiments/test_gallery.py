"""The gallery shows what the scores say, and looks the same every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from avalanche.benchmarks.utils import as_classification_dataset

from clpack.data import TensorImages
from clpack.experiments.gallery import impression_gallery, removal_gallery, save_gallery

TARGETS = [0, 1, 0, 1, 0, 0]
SCORES = np.array([3.0, 0.0, 1.0, np.nan, 2.0, 1.0])


def make_dataset(images, transform=None):
    groups = {"train": (lambda image: image * 0, None), "eval": (transform, None)}
    return as_classification_dataset(TensorImages(images, torch.tensor(TARGETS)), transform_groups=groups)


@pytest.fixture
def dataset():
    """Image k is uniform, with the value 10 * k; training would see nothing but black."""
    return make_dataset(10.0 * torch.arange(6).view(6, 1, 1, 1).expand(6, 1, 4, 4).clone())


def shown(axes):
    """The values of the 4x4 images of a block, in units of their row number; white is no image."""
    picture = axes.images[0].get_array()
    assert (picture == picture[..., :1]).all()
    blocks = [
        picture[top + 1, left + 1, 0] for top in range(0, len(picture), 5) for left in range(0, picture.shape[1], 5)
    ]
    return [round(float(value), 3) for value in blocks]


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_first_and_last_of_each_class(dataset):
    figure = removal_gallery(dataset, SCORES, remove="lowest", title="mli", per_class=2)
    assert figure.get_suptitle() == "mli"
    assert titles(figure) == [
        "0, removed first (1 to 1)",
        "0, removed last (2 to 3)",
        "1, removed first (0 to 0)",
        "1, removed last: none",
    ]
    # Rows 1, 2, 5, 4, 0 are drawn, and 0 and 5 are the darkest and the brightest; row 3 has no score.
    assert [shown(axes) for axes in figure.axes] == [[0.4, 1.0], [0.8, 0.0], [0.2, 1.0], [1.0, 1.0]]


def test_other_end_with_names(dataset):
    figure = removal_gallery(dataset, SCORES, remove="highest", per_class=16, classes={0: "cat"})
    assert titles(figure) == ["cat, removed first (3 to 2)", "cat, removed last (1 to 1)"]
    first, last = map(shown, figure.axes)
    assert (first[:2], last[:2]) == ([0.0, 0.8], [0.4, 1.0])
    assert len(first) == 16


def test_evaluation_transform_and_colors():
    images = torch.rand(6, 3, 4, 4)
    images[0], images[4] = 0.0, 1.0
    dataset = make_dataset(images, lambda image: (image - 0.5) / 0.2)
    figure = removal_gallery(dataset, np.arange(6.0), remove="lowest", per_class=4, classes={0: "0"})
    picture = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(picture[:4, 5:9], images[2].permute(1, 2, 0), atol=1e-6)


def test_saved_file_is_small_and_always_the_same(dataset, tmp_path):
    for name in ("a.png", "b.png"):
        save_gallery(removal_gallery(dataset, SCORES, remove="lowest"), tmp_path / "new" / name)
    content = (tmp_path / "new" / "a.png").read_bytes()
    assert content == (tmp_path / "new" / "b.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) < 50_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": SCORES[:5]}, r"scores must hold one for each of the 6 samples.*got shape \(5,\)"),
        ({"scores": np.full(6, np.nan)}, "scores is NaN for all samples"),
        ({"remove": "worst"}, "remove must be 'highest' or 'lowest'"),
        ({"per_class": 0}, "per_class must be at least 1, got 0"),
        ({"classes": {7: "dog"}}, r"classes must name some of the classes of dataset, \[0, 1\], got \[7\]"),
        ({"classes": {}}, "classes must name some"),
    ],
)
def test_bad_arguments(dataset, options, message):
    arguments = {"scores": SCORES, "remove": "lowest", **options}
    with pytest.raises(ValueError, match=message):
        removal_gallery(dataset, **arguments)


def test_flat_images_are_refused():
    with pytest.raises(ValueError, match=r"images must be of one shape.*got \(16,\)"):
        removal_gallery(make_dataset(torch.rand(6, 16)), SCORES, remove="lowest")


def test_impressions_beside_samples_of_their_class():
    real = [np.full((3, 1, 4, 4), value, np.float32) for value in (0.0, 10.0)]
    means = [np.full((1, 4, 4), value, np.float32) for value in (5.0, 20.0)]  # brighter than any sample is white
    impressions = [np.full((1, 1, 4, 4), value, np.float32) for value in (2.5, 7.5)]
    figure = impression_gallery(real, means, impressions, ["cat", "dog"], per_class=2)
    assert [axes.get_title() for axes in figure.axes] == ["samples", "mean", "impressions"]
    assert [shown(axes) for axes in figure.axes] == [[0.0, 0.0, 1.0, 1.0], [0.5, 1.0], [0.25, 1.0, 0.75, 1.0]]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["cat", "dog"]
    for arguments, options, message in (
        ((real, means, impressions, ["cat"]), {}, "of the same classes, got 2, 2, 2 and 1"),
        ((real, means, impressions, ["cat", "dog"]), {"per_class": 0}, "at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            impression_gallery(*arguments, **options)
