"""What Avalanche's own baselines need to run here."""

from __future__ import annotations

import functools
import random
from typing import Any

import torch
from avalanche.training.plugins import AGEMPlugin as AvalancheAGEMPlugin
from avalanche.training.plugins import ReplayPlugin
from avalanche.training.storage_policy import ClassBalancedBuffer, ExperienceBalancedBuffer, ReservoirSamplingBuffer
from torch import Tensor

from ._entries import check_number

__all__ = ["AGEMPlugin", "replay"]

_POLICIES: dict[str, Any] = {
    "experience_balanced": ExperienceBalancedBuffer,
    "class_balanced": ClassBalancedBuffer,
    "reservoir": ReservoirSamplingBuffer,
}


def replay(mem_size: int, batch_size_mem: int | None = None, policy: str = "experience_balanced") -> ReplayPlugin:
    """Returns Avalanche's replay with one of its storage policies.

    Args:
        mem_size: samples stored.
        batch_size_mem: stored samples in a mini-batch. Default: as many as new ones.
        policy: ``"experience_balanced"``, Avalanche's default, ``"class_balanced"`` or ``"reservoir"``.

    Raises:
        ValueError: if a number is not positive, or there is no such policy.
        TypeError: if a number is not an integer.
    """
    check_number("mem_size", mem_size, integer=True, minimum=1)
    if batch_size_mem is not None:
        check_number("batch_size_mem", batch_size_mem, integer=True, minimum=1)
    if policy not in _POLICIES:
        raise ValueError(f"policy must be one of {', '.join(map(repr, _POLICIES))}, got {policy!r}")
    return ReplayPlugin(mem_size, batch_size_mem=batch_size_mem, storage_policy=_POLICIES[policy](mem_size))


class AGEMPlugin(AvalancheAGEMPlugin):
    """Avalanche's A-GEM with a memory that can be sampled after any number of experiences, and resumed.

    The original keeps an open iterator, which no checkpoint can hold, and draws ``sample_size // experiences`` samples
    from each buffer, which fails once that is 0. Here ``sample_size`` samples are drawn at each step without
    replacement from the joint memory (all of it, if it is smaller).

    Args:
        patterns_per_experience: samples stored per experience.
        sample_size: samples in the batch that gives the reference gradient.

    Raises:
        ValueError: if either is not positive.
        TypeError: if either is not an integer.
    """

    def __init__(self, patterns_per_experience: int, sample_size: int) -> None:
        check_number("patterns_per_experience", patterns_per_experience, integer=True, minimum=1)
        check_number("sample_size", sample_size, integer=True, minimum=1)
        super().__init__(patterns_per_experience, sample_size)

    def update_memory(self, dataset: Any, **kwargs: Any) -> None:
        """Stores a random part of the experience."""
        if len(dataset) > self.patterns_per_experience:
            dataset = dataset.subset(random.sample(range(len(dataset)), self.patterns_per_experience))
        self.buffers.append(dataset)

    def sample_from_memory(self) -> list[Tensor]:
        """Draws the batch for the reference gradient."""
        memory = functools.reduce(lambda joint, buffer: joint.concat(buffer), self.buffers)
        chosen = torch.randperm(len(memory))[: self.sample_size].tolist()
        batch: list[Tensor] = memory.collate_fn([memory[index] for index in chosen])
        return batch
