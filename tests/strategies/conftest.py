"""Small streams and models for the strategy tests."""

from __future__ import annotations

import warnings

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

warnings.filterwarnings("ignore", message="no QP solver found")

from avalanche.benchmarks import nc_benchmark  # noqa: E402 - its import warns

from clpack.data import TensorImages  # noqa: E402


@pytest.fixture(scope="session")
def digits():
    """Training and test part of the digits, small enough for a run in a second."""
    images, targets = load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    return TensorImages(images[:600], targets[:600]), TensorImages(images[600:800], targets[600:800])


@pytest.fixture
def make_stream(digits):
    """Builds a stream of the digits: ``make_stream(n_experiences, task_labels)``, classes in order."""

    def make(n_experiences=5, task_labels=False, **options):
        return nc_benchmark(*digits, n_experiences, task_labels, shuffle=False, **options)

    return make


@pytest.fixture
def make_model():
    """Builds a network with ``features``, ``num_features`` and ``linear``, always with the same weights."""
    from clpack.models import MLP

    def make(num_classes=10, dtype=torch.float32, **options) -> nn.Module:
        torch.manual_seed(5)
        return MLP(num_classes, input_size=64, hidden_sizes=(16,), **options).to(dtype)

    return make
