"""Image priors: the recordings, a case by hand, and errors."""

from __future__ import annotations

import math

import pytest
import torch

from clpack.synthesis import l2_prior, total_variation

EXACT = {"rtol": 1e-9, "atol": 1e-12}


def test_recorded_priors(golden):
    recording = golden("ccsi/image_priors")
    images = recording["x"].clone().requires_grad_()
    values = {
        "tv_l1": total_variation(images, norm="l1"),
        "tv_l2": total_variation(images),
        "l2": l2_prior(images),
    }
    for name, value in values.items():
        torch.testing.assert_close(value, recording[name], **EXACT)
        torch.testing.assert_close(torch.autograd.grad(value, images)[0], recording[f"g_{name}"], **EXACT)


def test_total_variation_by_hand():
    image = torch.tensor([[[[0.0, 1.0], [3.0, 3.0]]]])  # differences: -1, 0; -3, -2; 3 - 1; 0 - 3
    assert total_variation(image).item() == pytest.approx(1 + math.sqrt(13) + 2 + 3)
    assert total_variation(image, norm="l1").item() == pytest.approx(0.5 + 2.5 + 2 + 3)
    assert l2_prior(torch.cat((image, 0 * image))).item() == pytest.approx(math.sqrt(19) / 2)


def test_constant_images_have_no_variation_and_no_gradient():
    images = torch.full((2, 3, 4, 4), 0.5, requires_grad=True)
    value = total_variation(images)
    assert value.item() == 0.0
    assert not torch.autograd.grad(value, images)[0].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: total_variation(torch.zeros(1, 3, 4, 4), norm="L2"), "norm must be 'l2' or 'l1', got 'L2'"),
        (lambda: total_variation(torch.zeros(3, 4, 4)), "images must have shape"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
