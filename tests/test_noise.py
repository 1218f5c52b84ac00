"""Label and pixel noise: how much, where, and how it is distributed."""

from __future__ import annotations

import pytest
import torch

from clpack.noise import label_noise, pixel_noise
from clpack.randomness import generator_for


def _generator(seed=0):
    return generator_for(seed, "test")


@pytest.mark.parametrize(("percent", "count"), [(0, 0), (20, 201), (0.05, 0), (33.3, 335), (100, 1009)])
def test_label_noise_changes_the_stated_number_of_labels(percent, count):
    targets = torch.arange(1009) % 7
    noisy, changed = label_noise(targets, percent, num_classes=7, generator=_generator())
    assert changed.tolist() == (noisy != targets).nonzero().flatten().tolist()
    assert len(changed) == count
    assert noisy.dtype == changed.dtype == torch.int64
    assert set(noisy.tolist()) == set(range(7))
    assert torch.equal(targets, torch.arange(1009) % 7)


def test_label_noise_takes_samples_and_other_classes_evenly():
    targets = torch.zeros(40_000, dtype=torch.int64) + 2
    noisy, changed = label_noise(targets, 50, num_classes=5, generator=_generator())
    counts = noisy.bincount(minlength=5).tolist()
    assert counts[2] == 20_000
    assert all(abs(count - 5_000) < 5 * 61 for count in counts[:2] + counts[3:])  # 5 standard deviations
    assert abs(int((changed < 20_000).sum()) - 10_000) < 5 * 50


def test_the_generator_decides():
    targets, images = torch.arange(100) % 10, torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    state = torch.get_rng_state()
    for draw in (
        lambda seed: label_noise(targets, 30, num_classes=10, generator=_generator(seed))[0],
        lambda seed: pixel_noise(images, std=10, generator=_generator(seed))[0],
    ):
        assert torch.equal(draw(1), draw(1))
        assert not torch.equal(draw(1), draw(2))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("percent", "count"), [(0, 0), (10, 3), (99, 34), (100, 35)])
def test_pixel_noise_reaches_one_channel_of_the_stated_number_of_positions(percent, count):
    images = torch.randint(100, (5000, 3, 5, 7), dtype=torch.uint8)
    before = images.clone()
    noisy, changed = pixel_noise(images, std=0, percent=percent, generator=_generator())
    assert noisy.dtype == torch.uint8
    assert changed.flatten(1).sum(1).unique().tolist() == [count]
    difference = noisy.long() - before.long()
    assert torch.equal(difference.count_nonzero(1), changed.long())
    assert torch.equal(difference.sum(1), 120 * changed)
    assert torch.equal(images, before)
    if count:
        shares = (difference != 0).float().mean((0, 2, 3)) * 35 / count
        torch.testing.assert_close(shares, torch.full((3,), 1 / 3), atol=0.02, rtol=0)
        shares = changed.float().mean(0) * 35 / count
        torch.testing.assert_close(shares, torch.ones(5, 7), atol=0.25, rtol=0)


def test_pixel_noise_is_gaussian_around_its_mean():
    noise = pixel_noise(torch.zeros(400, 1, 16, 16, dtype=torch.uint8), std=10, generator=_generator()).images.double()
    assert abs(float(noise.mean()) - 119.5) < 0.2  # fractions are cut off: half a level below 120
    assert abs(float(noise.std()) - 10) < 0.2
    assert float(((noise - 119.5).abs() > 20).double().mean()) == pytest.approx(0.0455, abs=0.005)


def test_levels_out_of_range_are_clipped_or_wrapped():
    images = torch.tensor([0, 134, 135, 136, 255], dtype=torch.uint8).view(1, 1, 1, 5)
    options = {"std": 0, "generator": _generator()}
    assert pixel_noise(images, **options).images.flatten().tolist() == [120, 254, 255, 255, 255]
    assert pixel_noise(images, wrap=True, **options).images.flatten().tolist() == [120, 254, 255, 0, 119]
    assert pixel_noise(images, mean=-200, **options).images.flatten().tolist() == [0, 0, 0, 0, 55]
    assert pixel_noise(images, mean=-200, wrap=True, **options).images.flatten().tolist() == [56, 190, 191, 192, 55]


def test_images_need_not_be_contiguous():
    images = torch.randint(256, (4, 6, 6, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    noisy = pixel_noise(images, std=5, percent=40, generator=_generator()).images
    assert torch.equal(noisy, pixel_noise(images.contiguous(), std=5, percent=40, generator=_generator()).images)


_LABELS, _IMAGES = torch.arange(4), torch.zeros(2, 1, 4, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda g: label_noise(_LABELS.int(), 1, num_classes=4, generator=g),
            TypeError,
            "int64 tensor, got torch.int3",
        ),
        (lambda g: label_noise([0, 1], 1, num_classes=4, generator=g), TypeError, "int64 tensor, got list"),
        (
            lambda g: label_noise(_LABELS[None], 1, num_classes=4, generator=g),
            ValueError,
            r"\(N,\), got shape \(1, 4\)",
        ),
        (lambda g: label_noise(_LABELS, 101, num_classes=4, generator=g), ValueError, r"in \[0, 100\], got 101"),
        (lambda g: label_noise(_LABELS, float("nan"), num_classes=4, generator=g), ValueError, "got nan"),
        (lambda g: label_noise(_LABELS, 1, num_classes=1, generator=g), ValueError, "at least 2, .* got 1"),
        (lambda g: label_noise(_LABELS, 1, num_classes=3, generator=g), ValueError, r"in 0\.\.2, got 0 to 3"),
        (lambda g: pixel_noise(_IMAGES.float(), std=1, generator=g), TypeError, "uint8 tensor, got torch.float32"),
        (lambda g: pixel_noise(_IMAGES[0], std=1, generator=g), ValueError, r"\(N, C, H, W\), got shape \(1, 4, 4\)"),
        (lambda g: pixel_noise(_IMAGES, std=-1, generator=g), ValueError, "std must be .* at least 0, got -1"),
        (lambda g: pixel_noise(_IMAGES, std=1, percent=-0.1, generator=g), ValueError, r"in \[0, 100\], got -0.1"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(_generator())
