"""Recording training dynamics in any strategy; for where to put the plugin see :mod:`clpack.strategies.pruning`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from avalanche.core import SupervisedPlugin

from clpack.pruning import OnlineTrace, Trace

from ._rows import check_ids, experience_file, num_rows, rows_in_batch
from .data import attach_sample_ids

__all__ = ["TracePlugin"]


class TracePlugin(SupervisedPlugin):
    """Records loss, correctness and margin of every training sample at every presentation.

    They are those of the forward pass that the update is made from, with the labels trained on. Samples are told apart
    by their ids, so shuffling, workers, oversampling and pruning change nothing.

    Args:
        score: record only what this score of :data:`clpack.pruning.SCORES` needs, in memory that does not grow with
            the number of epochs. Default: None, everything.
        score_options: options of the score, while training.
        replayed: also record samples of earlier experiences when they are replayed: they continue the trace of their
            own experience. Default: False, they are ignored. Synthetic samples always are.
        save_to: folder for the traces, ``experience_000.npz`` and so on; needs ``score=None``. Default: None, not
            saved.

    Attributes:
        traces: the :class:`~clpack.pruning.Trace` of each experience (or its
            :class:`~clpack.pruning.OnlineTrace`, if a ``score`` is given); row numbers are those of the experience's
            original dataset. An experience that comes again continues its trace, so take a new plugin for a new run.
            What a :class:`~clpack.strategies.PruningPlugin` takes back, the scoring phase, is taken back here too.

    Raises:
        ValueError: if there is no such score, it needs more than a trace, or a trace of one score is to be saved; in
            training, if an experience has another number of samples than the trace that it would continue.
    """

    def __init__(
        self,
        score: str | None = None,
        *,
        score_options: Mapping[str, Any] | None = None,
        replayed: bool = False,
        save_to: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        if score is None and score_options:
            raise ValueError(f"score_options is {dict(score_options)}, but no score is given; name one or leave it out")
        if score is not None:
            OnlineTrace(1, score, **(score_options or {}))  # complains at once
            if save_to is not None:
                raise ValueError("save_to needs a whole trace, score=None; the scores are in traces[...].score()")
        self.score = score
        self.score_options = dict(score_options or {})
        self.replayed = replayed
        self.save_to = save_to
        self.traces: dict[int, Any] = {}

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Attaches sample ids, and begins the trace of the experience."""
        attach_sample_ids(strategy)
        current, num_samples = strategy.experience.current_experience, num_rows(strategy)
        if current in self.traces and self.traces[current].num_samples != num_samples:
            raise ValueError(
                f"experience {current} has {num_samples} samples, but the trace of this plugin is one of "
                f"{self.traces[current].num_samples}; take a new TracePlugin for another stream"
            )
        if current not in self.traces:
            if self.score is None:
                self.traces[current] = Trace(num_samples, num_presentations_hint=strategy.train_epochs)
            else:
                self.traces[current] = OnlineTrace(num_samples, self.score, **self.score_options)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Checks that the samples of the training data have ids."""
        check_ids(strategy)

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Records the mini-batch."""
        current = strategy.experience.current_experience
        for experience in self.traces if self.replayed else (current,):
            self.traces[experience].record(rows_in_batch(strategy, experience), strategy.mb_output, strategy.mb_y)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Saves the trace."""
        current = strategy.experience.current_experience
        if self.save_to is not None:
            self.traces[current].metadata = {"experience": current, "epochs": strategy.train_epochs}
            self.traces[current].save(experience_file(self.save_to, current))

    def checkpoint_state(self) -> dict[str, Any]:
        """Returns the traces."""
        return {"traces": self.traces}

    def load_checkpoint_state(self, state: dict[str, Any]) -> None:
        """Goes on with saved traces."""
        self.traces = state["traces"]
