"""Corruptions: the recordings, cases worked by hand, and their errors."""

from __future__ import annotations

import colorsys

import pytest
import torch

from clpack.attacks import CORRUPTIONS, corrupt

CASES = [(64, 1), (64, 5), (32, 3)]


@pytest.fixture
def recording(golden):
    return golden("epochloss/corruptions")


@pytest.mark.parametrize(("size", "severity"), CASES)
@pytest.mark.parametrize("name", ["gaussian_blur", "saturate", "rotate"])
def test_recordings(recording, name, size, severity):
    key = f"{name}{size}_s{severity}"
    options = {"signs": recording[f"{key}_sign"]} if name == "rotate" else {}
    result = corrupt(recording[f"x{size}"], name, severity, **options)
    torch.testing.assert_close(result, recording[key], rtol=0, atol=2e-5)


def test_recorded_noise(recording):
    noise, expected = recording["gaussian_noise32_s3_noise"], recording["gaussian_noise32_s3"]
    assert torch.equal(corrupt(recording["x32"], "gaussian_noise", noise=noise), expected)


@pytest.mark.parametrize(("severity", "std"), list(enumerate([0.08, 0.12, 0.18, 0.26, 0.38], start=1)))
def test_noise_has_the_given_strength_and_is_not_clipped(severity, std):
    noise = corrupt(torch.zeros(2, 3, 64, 64), "gaussian_noise", severity)
    assert noise.std().item() == pytest.approx(std, rel=0.02)  # 4 standard errors
    assert noise.min() < 0


@pytest.mark.parametrize(("severity", "share"), list(enumerate([0.03, 0.06, 0.09, 0.17, 0.27], start=1)))
def test_impulses(severity, share):
    images = torch.full((4, 3, 64, 64), 0.5)
    result = corrupt(images, "impulse_noise", severity)
    shares = [(result == value).double().mean().item() for value in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([share / 2, 1 - share, share / 2], abs=0.01)  # more than 6 standard errors


def test_saturation_of_saturation_only():
    images = torch.rand(1, 3, 4, 4)
    images[0, :, 0, 0] = 0.4  # a gray
    images[0, :, 0, 1] = 0.0
    result = corrupt(images, "saturate", 4, channels="S")
    for pixel, found in zip(images[0].flatten(1).t().tolist(), result[0].flatten(1).t().tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        expected = colorsys.hsv_to_rgb(hue, min(5 * saturation + 0.1, 1.0), value)
        assert found == pytest.approx(expected, abs=1e-5)


def test_rotation_around_the_center_of_the_image():
    """A disc around the center stays; around the authors' center it is gone from an image of 16 pixels."""
    ramp = torch.arange(16.0) - 7.5
    disc = (ramp.square() + ramp.square()[:, None] < 30).float().expand(2, 1, 16, 16)
    result = corrupt(disc, "rotate", 3, center="image", signs=torch.tensor([1, -1]))
    inside = ramp.square() + ramp.square()[:, None] < 16
    torch.testing.assert_close(result[:, :, inside], disc[:, :, inside], rtol=0, atol=1e-5)
    torch.testing.assert_close(result[0].flip(2), result[1], rtol=0, atol=1e-5)
    moved = corrupt(disc, "rotate", 3, signs=torch.tensor([1, 1]))
    assert moved.sum() < disc.sum() / 2


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_shapes_generators_and_random_state(name):
    images = torch.rand(6, 3, 48, 40, dtype=torch.float64).transpose(2, 3)
    before, random_state = images.clone(), torch.get_rng_state()
    seeded = [corrupt(images, name, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(seeded[0], seeded[1])
    assert torch.equal(seeded[0], seeded[2]) == (name in ("gaussian_blur", "saturate"))
    assert torch.equal(corrupt(images, name), corrupt(images, name))
    assert seeded[0].dtype == torch.float64
    assert seeded[0].shape == images.shape
    assert not torch.equal(seeded[0], images)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("name", ["gaussian_blur", "saturate", "rotate"])
def test_images_of_a_batch_do_not_mix(name):
    images, signs = torch.rand(3, 3, 16, 16), torch.tensor([1, -1, 1])
    options = [{"signs": signs[k]} if name == "rotate" else {} for k in (slice(3), slice(1, 2))]
    together, alone = corrupt(images, name, **options[0])[1:2], corrupt(images[1:2], name, **options[1])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_bad_arguments():
    images = torch.rand(2, 3, 8, 8)
    for arguments, options, message in (
        ((images, "gausian_blur"), {}, "unknown corruption 'gausian_blur': did you mean 'gaussian_blur'"),
        ((images, "rotate", 0), {}, "severity must be an integer from 1 to 5, got 0"),
        ((images, "rotate", 3.0), {}, "severity must be an integer from 1 to 5, got 3.0"),
        ((images, "rotate", True), {}, "severity must be an integer from 1 to 5, got True"),
        ((images[0], "rotate"), {}, r"images must have shape \(B, C, H, W\), got shape \(3, 8, 8\)"),
        ((images[:, :1], "saturate"), {}, r"RGB images of shape \(B, 3, H, W\), got shape \(2, 1, 8, 8\)"),
        ((images, "saturate"), {"channels": "V"}, "channels must be 'HSV' or 'S', got 'V'"),
        ((images, "rotate"), {"center": "corner"}, "center must be 'authors' or 'image', got 'corner'"),
        ((images, "rotate"), {"signs": torch.ones(3)}, r"signs must have one value for each image, \(2,\), got \(3,\)"),
        ((images, "gaussian_noise"), {"noise": images[:1]}, r"noise must have the shape of images, \(2, 3, 8, 8\)"),
    ):
        with pytest.raises(ValueError, match=message):
            corrupt(*arguments, **options)
    with pytest.raises(TypeError, match="images must be a floating-point tensor .* got torch.uint8"):
        corrupt(images.byte(), "rotate")
    with pytest.raises(TypeError, match=r"signs must be a tensor with one value for each image, \(2,\), got list"):
        corrupt(images, "rotate", signs=[1, -1])
    with pytest.raises(TypeError, match="unexpected keyword argument 'channels'"):
        corrupt(images, "rotate", channels="S")
