"""Fixtures shared by all tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clpack.models import CCSIResNet
from clpack.synthesis import GroupStatistics

GOLDEN = Path(__file__).parent / "golden"
CCSI_NAMES = {"conv.": "conv1.", "bn.": "bn1.", "fc.": "linear.", "downsample.": "shortcut."}


class Recording(dict[str, torch.Tensor]):
    """The arrays of one recorded file as tensors, and its ``meta`` data."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as arrays:
            super().__init__({name: torch.from_numpy(arrays[name]) for name in arrays.files if name != "meta"})
            self.meta: dict[str, Any] = json.loads(str(arrays["meta"])) if "meta" in arrays.files else {}

    def below(self, prefix: str) -> dict[str, torch.Tensor]:
        """The arrays whose name starts with ``prefix``, without it."""
        return {name.removeprefix(prefix): array for name, array in self.items() if name.startswith(prefix)}


def our_name(name):
    """The name that a layer or parameter of the original network of CCSI has here."""
    parts = (name + ".").replace(".downsample.", ".shortcut.")
    for theirs, ours in CCSI_NAMES.items():
        if parts.startswith(theirs):
            parts = ours + parts.removeprefix(theirs)
    for number in (1, 2, 3):
        parts = parts.replace(f"layer{number}.0.", f"blocks.{number - 1}.")
    return parts.removesuffix(".")


class CCSIRecording(dict):
    """A recording of CCSI in float64, with the small network."""

    def __init__(self, recording):
        super().__init__({n: array.double() if array.is_floating_point() else array for n, array in recording.items()})
        self.meta = recording.meta
        self.our_name = our_name

    def below(self, prefix):
        return {our_name(n.removeprefix(prefix)): array for n, array in self.items() if n.startswith(prefix)}

    def network(self, *prefixes, **options):
        """The network in evaluation mode; later prefixes go first."""
        state = {}
        for prefix in prefixes:
            state.update(self.below(prefix))
        model = CCSIResNet(len(state["linear.weight"]), **options).double()
        counters = {name: value for name, value in model.state_dict().items() if "num_batches" in name}
        model.load_state_dict({**counters, **state})
        return model.eval()

    def statistics(self, prefix="group"):
        return GroupStatistics(self.below(f"{prefix}_mean."), self.below(f"{prefix}_var."))

    def close(self, ours, name, rtol=1e-5):
        """Compares with a recorded array, of which the first images may be all there is."""
        expected = self[name]
        ours = ours[: len(expected)] if expected.dim() else ours
        torch.testing.assert_close(ours, expected, rtol=rtol, atol=1e-6 * expected.abs().max().item())


@pytest.fixture(scope="session")
def golden():
    """Opens a recording: ``golden("tag/rms_b5")``."""
    return lambda name: Recording(GOLDEN / f"{name}.npz")


@pytest.fixture
def recorded(golden):
    """Opens a recording of CCSI: ``recorded("feature_stats")``."""
    return lambda name: CCSIRecording(golden(f"ccsi/{name}"))


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # results of reductions depend on the number of threads


@pytest.fixture(autouse=True)
def _fixed_random_state():
    torch.manual_seed(0)
