"""Data pruning in Avalanche: score the samples of an experience, remove some, train on the rest.

This plugin, :class:`~clpack.strategies.TracePlugin` and :class:`~clpack.strategies.InfoBatchPlugin` each work in any
strategy, alone or beside replay, EWC, LwF, TAG, multi-head models and checkpoints. They attach sample ids to the data
(see :mod:`clpack.strategies.data`), so put them before plugins that read the data, such as replay, and after
:class:`~clpack.strategies.CheckpointPlugin` and :class:`~clpack.strategies.RandomStreamsPlugin`.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metric_results import MetricValue
from avalanche.training.plugins import EarlyStoppingPlugin
from avalanche.training.templates.base_sgd import PeriodicEval
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from clpack.files import atomic_path
from clpack.pruning import (
    ClassCounts,
    Selection,
    get_score,
    keep_slice,
    removal_order,
    select,
)
from clpack.pruning.selection import cap_of_class, number_to_remove
from clpack.randomness import generator_for

from ._rows import check_ids, experience_file, keeping, num_rows, own_rows, rows_in_batch
from ._scoring import check_layers, check_options, make_recorder, model_scores
from ._snapshot import Snapshot
from .data import (
    attach_sample_ids,
    encode_sample_ids,
    set_experience_data,
)
from .loader import RandomStreamsPlugin, inner_loader, narrowed_loader, replace_inner_loader

__all__ = ["PruningPlugin", "is_scoring"]

Values = NDArray[Any] | Tensor
Phase = Literal["idle", "scoring", "training"]

_FEW_PRESENTATIONS = 5  # below, forgetting counts are nearly all equal
_QUANTILES = (0, 25, 50, 75, 100)


def is_scoring(strategy: Any) -> bool:
    """Whether the strategy trains only to score its samples, in the first phase of a :class:`PruningPlugin`.

    Plugins that change the training data, as adversarial training does, leave it alone then.
    """
    return any(plugin.is_scoring for plugin in strategy.plugins if isinstance(plugin, PruningPlugin))


class PruningPlugin(SupervisedPlugin):
    r"""Scores the samples of each experience, removes some, and trains on the rest.

    At the start of an experience the strategy trains on all of its samples for ``scoring_epochs``, as it always does:
    with its other plugins and, if there is one, with its memory. The samples are scored, the selected ones removed,
    and then, with ``reset``, everything goes back to where it was at the start of the experience: model, optimizer,
    schedulers, the state of the other plugins, the clock and the random generators. ``train_epochs`` on the samples
    kept follow. If nothing is removed, the result is bit for bit that without this plugin.

    Nothing of the scoring phase reaches metrics, loggers or periodic evaluation. After it, these values are logged,
    all named ``.../train_phase/ExpEEE``: ``Pruning_Kept_Fraction``; ``Pruning_Kept`` and ``Pruning_Removed`` of each
    class (``.../ClassCCC``); quantiles of the scores, ``Pruning_Score`` (``.../QQQQ``, in percent);
    ``Pruning_Undefined``, samples without a score, which are kept; with forgetting, ``Pruning_Unforgettable`` and
    ``Pruning_Never_Learned`` samples; ``Pruning_Scoring_Seconds``; and ``Pruning_Presentations_Saved``, by how many
    presentations the experience is shorter than without pruning, scoring included.

    Samples that were removed do not come back with the data of later experiences (``Cumulative``). A request to stop
    while scoring ends the scoring; Avalanche's early stopping waits until it is over.

    Args:
        score: a name in :data:`clpack.pruning.SCORES`. Scores of gradients and EL2N are taken from the model as it is
            after the scoring epochs, on images without training augmentation; the others from the scoring epochs.
            With ``"random"`` no scoring epochs are run.
        remove_fraction: of the samples of each experience, in [0, 1). Default: 0.4, unless a count is given.
        remove_count: how many samples of each experience are removed, instead of a fraction.
        skip_count: how many that would be removed first stay; as many after them are removed, as by the sliding window
            of the paper of forgetting. Not together with what concerns classes. Default: 0.
        scoring_epochs: epochs of the scoring phase.
        reset: whether to go back to the start of the experience. If False, the scoring epochs are the first of the
            ``train_epochs`` and are logged as such; the rest of them is trained on the samples kept, with the state of
            the optimizer (such as its momentum) as it was at the start of the experience.
        scores: the scores of each experience, of shape ``(N,)`` by the index of the experience, if they are known.
            Then there is no scoring phase, and ``score`` only says which end is removed.
        score_options: further arguments of the function of the score. EL2N takes ``source="training"`` for the mean
            over the scoring epochs, as in the code of CCS, instead of ``"checkpoint"``.
        remove: ``"highest"`` or ``"lowest"``. Default: that of the score.
        class_cap: see :func:`clpack.pruning.select`.
        min_per_class: how many samples of each class are kept at least; 0 lets whole classes go. Default: None, it is
            an error if a whole class would be removed.
        tie_break: ``"index"`` or ``"random"``, see :func:`clpack.pruning.select`.
        selection: another way to select, called as ``selection(scores, targets=targets)``, both of shape ``(N,)``,
            and returning a :class:`clpack.pruning.Selection`; e.g. ``functools.partial(coverage_centric,
            keep_fraction=0.3, cutoff_fraction=0.1)``. Default: None, :func:`clpack.pruning.select` with the above.
        buffer_source: what storage policies, and importances such as those of EWC, see after training: the
            ``"pruned"`` samples or the ``"full"`` experience.
        seed: of random scores and random ties.
        save_to: folder for the results, one ``experience_000.npz`` per experience with the arrays ``scores`` (float64,
            NaN where undefined) and ``targets`` (int64), both ``(N,)``, the rows ``kept`` and ``removed``, the
            ``sample_ids`` of both (``kept_ids``, ``removed_ids``), and a JSON ``header``. Default: None, not saved.

    Attributes:
        scores: of each pruned experience, float64 of shape ``(N,)``; rows are those of its original dataset.
        selections: the rows kept and removed, and their numbers by class, of each pruned experience.

    Raises:
        ValueError: if an argument is out of range or there is no such score; in training, if a layer of
            ``score_options`` is not one of the model, a whole class would go, everything would go, or known scores are
            missing or of another length.
        TypeError: if ``selection`` cannot be called, or the score has no such option; in training, if the strategy
            holds something that cannot be put back, such as an open iterator.
        RuntimeError: in training, if a plugin after this one stops it while scoring.
    """

    def __init__(
        self,
        score: str = "epoch_loss",
        *,
        remove_fraction: float | None = None,
        remove_count: int | None = None,
        skip_count: int = 0,
        scoring_epochs: int = 10,
        reset: bool = True,
        scores: Mapping[int, Values] | None = None,
        score_options: Mapping[str, Any] | None = None,
        remove: Literal["highest", "lowest"] | None = None,
        class_cap: int | Literal["balanced"] | None = None,
        min_per_class: int | None = None,
        tie_break: Literal["index", "random"] = "index",
        selection: Callable[..., Selection] | None = None,
        buffer_source: Literal["pruned", "full"] = "pruned",
        seed: int = 0,
        save_to: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        entry = get_score(score)
        if remove_fraction is None and remove_count is None and selection is None:
            remove_fraction = 0.4
        if isinstance(scoring_epochs, bool) or not isinstance(scoring_epochs, int) or scoring_epochs < 0:
            raise ValueError(f"scoring_epochs must be a number of epochs, at least 0, got {scoring_epochs!r}")
        if tie_break not in ("index", "random"):
            raise ValueError(f"tie_break must be 'index' or 'random', got {tie_break!r}")
        if buffer_source not in ("pruned", "full"):
            raise ValueError(f"buffer_source must be 'pruned' or 'full', got {buffer_source!r}")
        if remove not in (None, "highest", "lowest"):
            raise ValueError(f"remove must be 'highest', 'lowest' or None for that of the score, got {remove!r}")
        if selection is not None and not callable(selection):
            raise TypeError(f"selection must be a function of scores and targets, got {selection!r}")
        if selection is not None and {remove_fraction, remove_count, remove, class_cap, min_per_class} - {None, 0}:
            raise ValueError("give either selection or how much and what to remove, got both; bind it to the function")
        if selection is None:
            number_to_remove(2**31, remove_fraction, remove_count)
            cap_of_class(0 if class_cap is None else class_cap, 0, 1)
        if isinstance(min_per_class, bool) or not isinstance(min_per_class, int | None) or (min_per_class or 0) < 0:
            raise ValueError(f"min_per_class must not be negative, but a number or None, got {min_per_class!r}")
        if isinstance(skip_count, bool) or not isinstance(skip_count, int) or skip_count < 0:
            raise ValueError(f"skip_count must be a number of samples, at least 0, got {skip_count!r}")
        if skip_count and (selection is not None or class_cap is not None or min_per_class):
            raise ValueError("skip_count goes neither with selection nor with class_cap or min_per_class, got both")
        check_options(score, score_options or {}, known=scores is not None)
        in_training = entry.running is not None or (score_options or {}).get("source") == "training"
        needs_training = scores is None and in_training
        if needs_training and scoring_epochs == 0:
            raise ValueError(f"score {score!r} is taken from the scoring epochs, got scoring_epochs=0; give at least 1")
        if score == "forgetting" and needs_training and scoring_epochs < _FEW_PRESENTATIONS:
            warnings.warn(
                f"{scoring_epochs} scoring epochs leave nearly all forgetting counts equal; take more epochs, or a "
                "score such as 'mli', 'aum' or 'el2n'",
                stacklevel=2,
            )
        self.score = score
        self.remove_fraction = remove_fraction
        self.remove_count = None if remove_count is None else int(remove_count)
        self.skip_count = skip_count
        self.scoring_epochs = 0 if scores is not None or score == "random" else scoring_epochs
        self.reset = reset
        self.known_scores = None if scores is None else {key: _as_array(value) for key, value in scores.items()}
        self.score_options = dict(score_options or {})
        self.remove = entry.remove if remove is None else remove
        self.class_cap = class_cap
        self.min_per_class = min_per_class
        self.tie_break = tie_break
        self.selection = selection
        self.buffer_source = buffer_source
        self.seed = seed
        self.save_to = save_to
        self.scores: dict[int, NDArray[np.float64]] = {}
        self.selections: dict[int, Selection] = {}
        self._phase: Phase = "idle"
        self._scored_epochs = 0
        self._trained_epochs = 0
        self._seconds = 0.0
        self._started_at = 0.0
        self._train_epochs: int | None = None
        self._recorder = make_recorder(1, self.score, self.score_options) if needs_training else None
        self._needs_training = needs_training
        self._start: Snapshot | None = None
        self._optimizer_state: dict[Any, Any] = {}
        self._evaluator_was_active = True
        self._eval_streams: Any = None

    @property
    def is_scoring(self) -> bool:
        """Whether the strategy is in the scoring phase of an experience."""
        return self._phase == "scoring" and self.scoring_epochs > 0

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Checks what goes together, and forgets a training that was interrupted."""
        if self._phase != "idle":
            self._abandon(strategy)
        check_layers(strategy.model, self.score_options)
        plugins = list(strategy.plugins)
        if any(isinstance(plugin, RandomStreamsPlugin) for plugin in plugins[plugins.index(self) :]):
            raise ValueError("RandomStreamsPlugin must come before PruningPlugin; put it first in the plugin list")
        if sum(isinstance(plugin, PruningPlugin) for plugin in strategy.plugins) > 1:
            raise ValueError("the strategy has more than one PruningPlugin; give a selection that does what both do")
        if not self.reset and self.scoring_epochs >= strategy.train_epochs:
            raise ValueError(
                f"with reset=False the {self.scoring_epochs} scoring epochs are the first of train_epochs, which must "
                f"be more, got {strategy.train_epochs}"
            )

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Attaches sample ids, and checks what is known already."""
        attach_sample_ids(strategy)
        current, num_samples = strategy.experience.current_experience, num_rows(strategy)
        if self.remove_count is not None and self.remove_count >= num_samples:
            raise ValueError(
                f"remove_count must leave at least one of the {num_samples} samples of experience {current}, "
                f"got {self.remove_count}"
            )
        if self.known_scores is not None:
            if current not in self.known_scores:
                raise ValueError(f"scores has no entry for experience {current}, only for {sorted(self.known_scores)}")
            found = tuple(self.known_scores[current].shape)
            if found != (num_samples,):
                raise ValueError(
                    f"scores[{current}] must hold one score for each of the {num_samples} samples of the experience, "
                    f"got shape {found}"
                )

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Leaves out what was removed in earlier experiences, if their data come again."""
        for experience, selection in self.selections.items():
            if experience != strategy.experience.current_experience:
                kept = encode_sample_ids(experience, torch.from_numpy(selection.kept))
                strategy.adapted_dataset = keeping(experience, kept)(strategy.adapted_dataset)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Plans the scoring epochs: with ``reset`` they come before the others."""
        check_ids(strategy)
        self._phase = "scoring"
        self._train_epochs = strategy.train_epochs
        strategy._stop_training = False  # Avalanche leaves a request made in the last epoch of an experience standing
        self._scored_epochs = self._trained_epochs = 0
        self._seconds = 0.0
        if self._needs_training:
            self._recorder = make_recorder(num_rows(strategy), self.score, self.score_options)
        if self.reset:
            strategy.train_epochs += self.scoring_epochs

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Begins the scoring phase, or ends it and prunes."""
        if self._phase == "training":
            if self.reset and self._trained_epochs >= strategy.train_epochs:  # scoring was stopped before its time
                strategy.stop_training()
            return
        if self._scored_epochs == 0 and not strategy._stop_training:
            self._begin_scoring(strategy)
        if self._scored_epochs == self.scoring_epochs or strategy._stop_training:
            strategy._stop_training = False
            self._prune(strategy)

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Records the mini-batch in the scoring phase."""
        if self._phase == "scoring" and self._recorder is not None:
            rows = rows_in_batch(strategy, strategy.experience.current_experience)
            self._recorder.record(rows, strategy.mb_output, strategy.mb_y)

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Counts."""
        if self._phase == "scoring":
            self._scored_epochs += 1
        else:
            self._trained_epochs += 1

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Ends the work on the experience."""
        if self._phase == "scoring":
            self._abandon(strategy)
            raise RuntimeError(
                f"a plugin stopped the training on experience {strategy.experience.current_experience} while its "
                "samples were being scored, so nothing was learned of it; put that plugin before PruningPlugin"
            )
        self._phase = "idle"

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Lets metrics hear again, after a training that was interrupted while scoring."""
        if self.is_scoring and self._start is not None:
            strategy.evaluator.active = self._evaluator_was_active

    def on_resume(self, strategy: Any) -> None:
        """Narrows the data again, after a checkpoint inside an experience was loaded."""
        if self._phase == "training":
            self._restore_evaluation(strategy)
            self._narrow(strategy)

    def checkpoint_state(self) -> dict[str, Any]:
        """Returns how far the work is; the arguments are those of the plugin built anew."""
        elapsed = time.perf_counter() - self._started_at if self.is_scoring else 0.0
        return {name: getattr(self, name) for name in _STATE} | {"_seconds": self._seconds + elapsed}

    def load_checkpoint_state(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state."""
        for name in _STATE:
            setattr(self, name, state[name])
        self._started_at = time.perf_counter()

    def _begin_scoring(self, strategy: Any) -> None:
        """Remembers where everything is, and puts metrics and evaluation aside."""
        self._started_at = time.perf_counter()
        self._evaluator_was_active, self._eval_streams = strategy.evaluator.active, strategy._eval_streams
        if self.scoring_epochs == 0:
            return
        if not self.reset:
            self._optimizer_state = copy.deepcopy(strategy.optimizer.state_dict()["state"])
            return
        strategy.train_epochs -= self.scoring_epochs  # the loop has counted them, the others need not
        for plugin in strategy.plugins:
            if isinstance(plugin, PeriodicEval):
                plugin.before_training_exp(strategy)
        self._start = Snapshot(strategy, without=self)
        strategy.evaluator.active = False
        strategy._eval_streams = []
        for plugin in strategy.plugins:
            if isinstance(plugin, EarlyStoppingPlugin):  # it would wait in vain for an evaluation
                plugin.patience = math.inf

    def _abandon(self, strategy: Any) -> None:
        """Gives up an experience: what the scoring phase changed or put aside comes back."""
        if self._phase == "scoring" and self._start is not None:
            self._start.restore(strategy, without=self)
            strategy.evaluator.active = self._evaluator_was_active
        if self._train_epochs is not None:
            strategy.train_epochs = self._train_epochs
        self._start, self._optimizer_state, self._recorder = None, {}, None
        self._phase = "idle"

    def _prune(self, strategy: Any) -> None:
        current = strategy.experience.current_experience
        rows, targets = own_rows(strategy)
        scores = self._scores(strategy)
        self._end_scoring(strategy)
        selection = self._selected(scores[rows], targets, current)
        self.scores[current] = scores
        self.selections[current] = Selection(rows[selection.kept], rows[selection.removed], selection.counts)
        self._narrow(strategy)
        _check_loader(strategy)
        self._publish(strategy)
        if self.save_to is not None:
            self._save(current, rows, targets, self.save_to)

    def _scores(self, strategy: Any) -> NDArray[np.float64]:
        current, num_samples = strategy.experience.current_experience, num_rows(strategy)
        if self.known_scores is not None:
            return self.known_scores[current]
        if self._recorder is not None:
            scores: NDArray[np.float64] = self._recorder.score()
            return scores
        entry = get_score(self.score)
        if self.score == "random":
            return entry.function(num_samples, generator=generator_for(self.seed, "random scores", current))
        return model_scores(strategy, self.score, self.score_options, num_samples)

    def _selected(self, scores: NDArray[np.float64], targets: NDArray[np.int64], experience: int) -> Selection:
        """Returns the positions to keep, of which there is at least one, and of each class unless told otherwise."""
        generator = generator_for(self.seed, "ties", experience)
        if self.selection is not None:
            selection = self.selection(scores, targets=targets)
        elif self.skip_count:
            count = number_to_remove(len(scores), self.remove_fraction, self.remove_count)
            order = removal_order(scores, remove=self.remove, tie_break=self.tie_break, generator=generator)
            selection = keep_slice(order, len(scores), remove_n=count, keep_lowest_n=self.skip_count)
        else:
            selection = select(
                scores,
                remove_fraction=self.remove_fraction,
                remove_count=self.remove_count,
                remove=self.remove,
                targets=targets,
                class_cap=self.class_cap,
                min_per_class=self.min_per_class or 0,
                tie_break=self.tie_break,
                generator=generator,
            )
        if len(selection.kept) == 0:
            raise ValueError(f"nothing would be left of experience {experience}; remove fewer samples")
        classes, index = np.unique(targets, return_inverse=True)
        kept = np.bincount(index[selection.kept], minlength=len(classes))
        if self.min_per_class is None and (kept == 0).any():
            raise ValueError(
                f"all samples of class {', '.join(map(str, classes[kept == 0]))} of experience {experience} would be "
                "removed; remove fewer, keep some of each with min_per_class or class_cap='balanced', or give "
                "min_per_class=0 to let whole classes go"
            )
        removed = np.bincount(index, minlength=len(classes)) - kept
        counts = zip(classes.tolist(), kept.tolist(), removed.tolist(), strict=True)
        return Selection(
            selection.kept, selection.removed, {label: ClassCounts(stay, go) for label, stay, go in counts}
        )

    def _end_scoring(self, strategy: Any) -> None:
        self._seconds += time.perf_counter() - self._started_at
        if self._start is not None:
            self._start.restore(strategy, without=self)
        elif self.scoring_epochs and not self.reset:
            groups = strategy.optimizer.state_dict()["param_groups"]
            strategy.optimizer.load_state_dict({"state": self._optimizer_state, "param_groups": groups})
        self._restore_evaluation(strategy)
        self._start, self._optimizer_state, self._recorder = None, {}, None
        self._phase = "training"

    def _restore_evaluation(self, strategy: Any) -> None:
        strategy.evaluator.active = self._evaluator_was_active
        strategy._eval_streams = self._eval_streams

    def _narrow(self, strategy: Any) -> None:
        """Lets the strategy train on the samples kept, from this epoch on."""
        current = strategy.experience.current_experience
        narrow = keeping(current, encode_sample_ids(current, torch.from_numpy(self.selections[current].kept)))
        loader = narrowed_loader(inner_loader(strategy), len(strategy.adapted_dataset), narrow)
        replace_inner_loader(strategy, loader)
        strategy.adapted_dataset = narrow(strategy.adapted_dataset)
        if self.buffer_source == "pruned":
            set_experience_data(strategy, narrow(strategy.experience.dataset))

    def _publish(self, strategy: Any) -> None:
        current = strategy.experience.current_experience
        scores, selection = self.scores[current], self.selections[current]
        rows = np.concatenate((selection.kept, selection.removed))
        defined = scores[rows][~np.isnan(scores[rows])]
        values: dict[str, float] = {
            "Pruning_Kept_Fraction": len(selection.kept) / len(rows),
            "Pruning_Undefined": len(rows) - len(defined),
            "Pruning_Scoring_Seconds": self._seconds,
            "Pruning_Presentations_Saved": self._presentations_saved(strategy, selection),
        }
        if self.score == "forgetting":
            values |= {
                "Pruning_Unforgettable": int((defined == 0).sum()),
                "Pruning_Never_Learned": int(np.isinf(defined).sum()),
            }
        for label, (kept, removed) in selection.counts.items():
            values[f"Pruning_Kept/Class{label:03d}"] = kept
            values[f"Pruning_Removed/Class{label:03d}"] = removed
        finite = defined[np.isfinite(defined)]
        for percent in _QUANTILES if len(finite) else ():
            values[f"Pruning_Score/Q{percent:03d}"] = float(np.percentile(finite, percent))
        for name, value in values.items():
            head, _, tail = name.partition("/")
            full_name = "/".join(filter(None, (head, f"train_phase/Exp{current:03d}", tail)))
            step = strategy.clock.train_iterations
            strategy.evaluator.publish_metric_value(MetricValue(self, full_name, float(value), step))

    def _presentations_saved(self, strategy: Any, selection: Selection) -> int:
        spent = 0 if not self.reset else self._scored_epochs * (len(selection.kept) + len(selection.removed))
        epochs = strategy.train_epochs - (0 if self.reset else self._scored_epochs)
        return int(epochs * len(selection.removed) - spent)

    def _save(self, current: int, rows: NDArray[np.int64], targets: NDArray[np.int64], folder: Any) -> None:
        scores, selection = self.scores[current], self.selections[current]
        labels = np.full(len(scores), -1, dtype=np.int64)
        labels[rows] = targets
        header = {
            "format": "clpack pruning",
            "version": 1,
            "experience": current,
            "score": self.score,
            "score_options": self.score_options,
            "scoring_epochs": self.scoring_epochs,
            "remove": self.remove,
            "remove_fraction": self.remove_fraction,
            "remove_count": self.remove_count,
            "skip_count": self.skip_count,
        }
        with atomic_path(experience_file(folder, current)) as partial, partial.open("wb") as file:
            np.savez_compressed(
                file,
                header=np.array(json.dumps(header, default=repr)),
                scores=scores,
                targets=labels,
                kept=selection.kept,
                removed=selection.removed,
                kept_ids=encode_sample_ids(current, torch.from_numpy(selection.kept)).numpy(),
                removed_ids=encode_sample_ids(current, torch.from_numpy(selection.removed)).numpy(),
            )

    def __str__(self) -> str:
        return "Pruning"


_STATE = (
    *("scores", "selections", "_phase", "_scored_epochs", "_trained_epochs", "_seconds"),
    *("_recorder", "_start", "_optimizer_state", "_evaluator_was_active", "_train_epochs"),
)


def _check_loader(strategy: Any) -> None:
    """Complains if too little is left for a mini-batch."""
    loader, kept = strategy.dataloader, len(strategy.adapted_dataset)
    if len(loader) == 0:
        raise ValueError(f"the {kept} samples kept are fewer than a mini-batch, and drop_last=True drops it")
    normalizes = any(isinstance(module, _BatchNorm) for module in strategy.model.modules())
    dropped = getattr(inner_loader(strategy), "loader_kwargs", {}).get("drop_last", False)
    if normalizes and kept % strategy.train_mb_size == 1 and not dropped:
        warnings.warn(
            f"of the {kept} samples kept one is left over for the last mini-batch, from which BatchNorm may not be "
            "able to take statistics; call train(..., drop_last=True) or remove one sample more or less",
            stacklevel=2,
        )


def _as_array(scores: Any) -> NDArray[np.float64]:
    return np.asarray(scores.detach().cpu() if isinstance(scores, Tensor) else scores, dtype=np.float64)
