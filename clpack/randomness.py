"""Independent random streams derived from one seed.

A run has one seed. Data order, augmentation, initialization and replay each draw from a generator of
their own, named after what it is for, so that one more draw in one of them never shifts the others.
"""

from __future__ import annotations

import hashlib

import torch

__all__ = ["derive_seed", "generator_for"]


def derive_seed(seed: int, *names: str | int) -> int:
    """Returns the seed of the stream called ``names`` within the run of ``seed``.

    Args:
        seed: the seed of the run, any integer.
        names: what the stream is for, e.g. ``("data order", experience, epoch)``.

    Returns:
        An integer in ``[0, 2**63)``: the first eight bytes of the SHA-256 of the seed and the names, so the
        same on every machine, and statistically independent for different names.

    Raises:
        TypeError: if ``seed`` is not an integer.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an integer, got {seed!r} of type {type(seed).__name__}")
    text = "/".join(repr(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Returns a new generator at the start of the stream called ``names`` (see :func:`derive_seed`)."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))
