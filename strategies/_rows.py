"""Which samples of an experience are in a mini-batch or a dataset, by the rows of its original dataset."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .data import SAMPLE_ID, batch_field, dataset_field, decode_sample_ids

__all__ = ["check_ids", "experience_file", "keeping", "num_rows", "own_rows", "rows_in_batch"]


def check_ids(strategy: Any) -> None:
    if SAMPLE_ID not in strategy.adapted_dataset._data_attributes:
        raise ValueError(
            f"{type(strategy).__name__} trains on other data than those of the experience, which have no sample ids: "
            "joint training and the like cannot be traced or pruned"
        )


def rows_in_batch(strategy: Any, experience: int) -> Tensor:
    """Returns the rows of an experience that are in the mini-batch, -1 for all other samples."""
    ids = batch_field(strategy, SAMPLE_ID)
    return torch.where(ids >> 32 == experience, ids & 0xFFFFFFFF, -1)


def num_rows(strategy: Any) -> int:
    """Returns the size of the original dataset of the current experience, as far as ids tell."""
    experiences, rows = decode_sample_ids(dataset_field(strategy.experience.dataset, SAMPLE_ID))
    return int(rows[experiences == strategy.experience.current_experience].max()) + 1


def own_rows(strategy: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the rows of the current experience that are in the training data, ascending, and their labels."""
    data = strategy.adapted_dataset
    experiences, rows = decode_sample_ids(dataset_field(data, SAMPLE_ID))
    own = (experiences == strategy.experience.current_experience).nonzero().flatten()
    unique, first = np.unique(rows[own].numpy(), return_index=True)
    return unique, dataset_field(data, "targets")[own].numpy()[first]


def keeping(experience: int, kept: Tensor) -> Callable[[Any], Any]:
    """Returns a function that leaves of a dataset the ``kept`` ids of the experience, and all that is not of it."""

    def narrow(dataset: Any) -> Any:
        ids = dataset_field(dataset, SAMPLE_ID)
        own = decode_sample_ids(ids)[0] == experience
        if not own.any():
            return dataset
        return dataset.subset((~own | torch.isin(ids, kept)).nonzero().flatten().tolist())

    return narrow


def experience_file(folder: str | os.PathLike[str], experience: int) -> Path:
    return Path(folder) / f"experience_{experience:03d}.npz"
