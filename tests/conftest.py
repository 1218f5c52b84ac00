"""Fixtures shared by all tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parent / "golden"


class Recording(dict[str, torch.Tensor]):
    """The arrays of one recorded file as tensors, and its ``meta`` data."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as arrays:
            super().__init__({name: torch.from_numpy(arrays[name]) for name in arrays.files if name != "meta"})
            self.meta: dict[str, Any] = json.loads(str(arrays["meta"])) if "meta" in arrays.files else {}

    def below(self, prefix: str) -> dict[str, torch.Tensor]:
        """The arrays whose name starts with ``prefix``, without it."""
        return {name.removeprefix(prefix): array for name, array in self.items() if name.startswith(prefix)}


@pytest.fixture(scope="session")
def golden():
    """Opens a recording: ``golden("tag/rms_b5")``."""
    return lambda name: Recording(GOLDEN / f"{name}.npz")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # results of reductions depend on the number of threads


@pytest.fixture(autouse=True)
def _fixed_random_state():
    torch.manual_seed(0)
