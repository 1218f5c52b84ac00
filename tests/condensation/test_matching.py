"""Distances between gradients and between embeddings: the recordings, a case by hand, and errors."""

from __future__ import annotations

import pytest
import torch

from clpack.condensation import distribution_distance, gradient_distance


@pytest.mark.parametrize("metric", ["ours", "mse", "cos"])
@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_recorded_gradients(golden, case, metric):
    recording = golden("condensation/gradmatch").below(f"{case}_")
    count = int(recording["n"])
    real = [recording[f"real_{i}"] for i in range(count)]
    synthetic = [recording[f"syn_{i}"].requires_grad_() for i in range(count)]
    value = gradient_distance(synthetic, real, metric=metric)
    torch.testing.assert_close(value, recording[f"{metric}_value"], rtol=1e-4, atol=1e-5)
    value.backward()
    for i, gradient in enumerate(synthetic):
        found = torch.zeros_like(gradient) if gradient.grad is None else gradient.grad
        torch.testing.assert_close(found, recording[f"{metric}_dsyn_{i}"], rtol=2e-3, atol=1e-5)
        if metric == "ours":
            term = torch.zeros(()) if gradient.dim() == 1 else gradient_distance([gradient], [real[i]])
            torch.testing.assert_close(term.detach(), recording["ours_terms"][i].to(term), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["c0", "c1"])
def test_recorded_distributions(golden, case):
    recording = golden("condensation/dm_loss").below(f"{case}_")
    synthetic = recording["syn"].requires_grad_()
    values = distribution_distance(recording["real"], synthetic)
    torch.testing.assert_close(values, recording["per_class"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values.sum(), recording["loss_allclass"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(distribution_distance(recording["real"][0], synthetic[0]), values[0])
    values.sum().backward()
    torch.testing.assert_close(synthetic.grad, recording["dsyn"], rtol=2e-3, atol=1e-5)


def test_by_hand():
    real = [torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([5.0])]
    synthetic = [torch.tensor([[4.0, -3.0], [2.0, 0.0]]), torch.tensor([9.0])]
    assert gradient_distance(synthetic, real).item() == pytest.approx(1.0)  # a right angle, and the same direction
    assert gradient_distance(synthetic, real, metric="mse").item() == pytest.approx(1 + 49 + 1 + 16)
    assert gradient_distance(synthetic, real, metric="cos").item() == pytest.approx(1 - 47 / (51 * 110) ** 0.5)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"same shapes, got \[\(2, 3\)\] and \[\(3, 2\)\]"):
        gradient_distance([torch.zeros(2, 3)], [torch.zeros(3, 2)])
    with pytest.raises(ValueError, match="metric must be one of 'ours', 'mse', 'cos', got 'l2'"):
        gradient_distance([torch.zeros(2, 3)], [torch.zeros(2, 3)], metric="l2")
    with pytest.raises(ValueError, match=r"shapes \(..., B, D\) and"):
        distribution_distance(torch.zeros(2, 3, 4), torch.zeros(3, 3, 4))
    with pytest.raises(ValueError, match="same size, got 4 and 5"):
        distribution_distance(torch.zeros(3, 4), torch.zeros(3, 5))
