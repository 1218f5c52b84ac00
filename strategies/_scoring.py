"""Scores for :class:`clpack.strategies.PruningPlugin`: recorded while training, or taken from the model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from avalanche.models import MultiTaskModule
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from clpack.modes import evaluation_mode
from clpack.names import unknown_name
from clpack.pruning import OnlineTrace, Trace, get_score
from clpack.pruning.caper import check_options as check_caper_options

from .data import SAMPLE_ID, dataset_field, decode_sample_ids

__all__ = ["check_layers", "check_options", "make_recorder", "model_scores"]


class _TrainingErrors:
    """The mean over presentations of EL2N's error norm, recorded like a trace."""

    def __init__(self, num_samples: int) -> None:
        self._num_samples = num_samples
        self._sums = torch.empty(0)

    def record(self, rows: Tensor, logits: Tensor, targets: Tensor) -> None:
        if len(self._sums) == 0:
            self._sums = torch.zeros(2, self._num_samples + 1, dtype=torch.float64, device=logits.device)
        errors = logits.detach().double().softmax(dim=1) - F.one_hot(targets, logits.shape[1])
        norms = torch.linalg.vector_norm(errors, dim=1)
        index = torch.where(rows < 0, self._num_samples, rows)
        self._sums.index_add_(1, index, torch.stack((norms, torch.ones_like(norms))))

    def score(self) -> NDArray[np.float64]:
        sums, counts = self._sums[:, :-1].cpu()
        scores: NDArray[np.float64] = (sums / counts).numpy()
        return scores


class _WholeTrace:
    """A score with options that need the whole trace, recorded like a trace of one score."""

    def __init__(self, num_samples: int, score: str, options: Mapping[str, Any]) -> None:
        self._trace = Trace(num_samples)
        self._score = score
        self._options = dict(options)

    def record(self, rows: Tensor, logits: Tensor, targets: Tensor) -> None:
        self._trace.record(rows, logits, targets)

    def score(self) -> NDArray[np.float64]:
        return self._trace.score(self._score, **self._options)


class _ForTask(nn.Module):
    """A model on the samples of one task, as a function of the images alone."""

    def __init__(self, model: nn.Module, task_label: int) -> None:
        super().__init__()
        self.model = model
        self.task_label = task_label

    def forward(self, images: Tensor) -> Any:
        return self.model(images, self.task_label) if isinstance(self.model, MultiTaskModule) else self.model(images)


_FROM_DATA = ("model", "images", "targets")  # arguments of model scores that are no options
_OF_ALL_SAMPLES = ("caper",)  # model scores that compare the samples with each other


def check_options(score: str, options: Mapping[str, Any], *, known: bool) -> None:
    """Raises unless the score takes the options, and they are what they have to be as far as that can be known yet.

    Those of trace scores are checked where they are recorded.
    """
    entry = get_score(score)
    if score == "el2n":
        allowed = ["source"]
    elif known or score == "random":
        allowed = []
    elif entry.running is not None:
        return
    else:
        allowed = [name for name in inspect.signature(entry.function).parameters if name not in _FROM_DATA]
    for name in options:
        if name not in allowed:
            what = "known scores" if known else f"score {score!r}"
            raise TypeError(unknown_name(f"option of {what}", name, allowed))
    source = options.get("source", "checkpoint")
    if source not in ("checkpoint", "training"):
        raise ValueError(f"score_options['source'] of el2n must be 'checkpoint' or 'training', got {source!r}")
    check_caper_options(options)  # the gradient scores have two of them, batch_size and head


def check_layers(model: nn.Module, options: Mapping[str, Any]) -> None:
    """Raises unless the layers that options name are layers of the model."""
    for name in ("layer", "head"):
        if options.get(name) is not None and all(module is not options[name] for module in model.modules()):
            raise ValueError(
                f"score_options[{name!r}] must be a layer of the model that is trained, got another "
                f"{type(options[name]).__name__}; take it from strategy.model"
            )


def make_recorder(num_samples: int, score: str, options: Mapping[str, Any]) -> Any:
    if score == "el2n":
        return _TrainingErrors(num_samples)
    if {"window", "interval"} & options.keys():
        Trace(1).score(score, **options)  # complains at once
        return _WholeTrace(num_samples, score, options)
    return OnlineTrace(num_samples, score, **options)


def model_scores(strategy: Any, name: str, options: Mapping[str, Any], num_samples: int) -> NDArray[np.float64]:
    """Scores from the model as it is, on the images as evaluation sees them."""
    current = strategy.experience.current_experience
    data = strategy.experience.dataset.eval()
    experiences, rows = decode_sample_ids(dataset_field(data, SAMPLE_ID))
    labels = "targets_task_labels"
    tasks = dataset_field(data, labels) if labels in data._data_attributes else torch.zeros_like(rows)
    scores = np.full(num_samples, np.nan)
    for task in tasks[experiences == current].unique().tolist():
        places = ((experiences == current) & (tasks == task)).nonzero().flatten()
        model = _ForTask(strategy.model, task)
        at_once = len(places) if name in _OF_ALL_SAMPLES else 1024
        loader = DataLoader(data.subset(places.tolist()), batch_size=at_once, collate_fn=data.collate_fn)
        with torch.random.fork_rng(devices=[]):  # a loader draws a seed
            parts = [_scores_of(model, name, batch[0], batch[1], options, strategy.device) for batch in loader]
        scores[rows[places].numpy()] = np.concatenate(parts)
    return scores


def _scores_of(
    model: nn.Module, name: str, images: Tensor, targets: Tensor, options: Mapping[str, Any], device: torch.device
) -> NDArray[np.float64]:
    entry = get_score(name)
    if name != "el2n":
        return entry.function(model, images, targets, **options)
    with evaluation_mode(model), torch.no_grad():
        return entry.function(model(images.to(device)).double().softmax(dim=1), targets)
