"""What a cell gets from the cells that it builds on, and its own records of single samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.training.storage_policy import ExemplarsBuffer
from numpy.typing import NDArray

from clpack.condensation import CondensedSet
from clpack.pruning import Trace, aggregate_runs, get_score
from clpack.strategies import (
    ClassImpressionPlugin,
    CondensedBuffer,
    CondensedReplayPlugin,
    PretrainingPlugin,
    PruningPlugin,
    TracePlugin,
    dataset_field,
)
from clpack.strategies.pretraining import WEIGHTS_FILE

from .build import feeds_stream, kind_of_sources, score_name
from .config import RunConfig
from .store import ResultStore

__all__ = [
    "memory_metrics",
    "sample_metrics",
    "sample_records",
    "save_galleries",
    "save_into",
    "source_scores",
    "strategy_options_of_sources",
]

_GALLERY_CLASSES = 20  # at most: each is a row of the picture
_FOLDERS: dict[Any, str] = {
    TracePlugin: "traces",
    PruningPlugin: "pruning",
    CondensedReplayPlugin: "condensed",
    ClassImpressionPlugin: "impressions",
    PretrainingPlugin: "pretrained",
}


def strategy_options_of_sources(config: RunConfig, store: ResultStore, data: dict[str, Any]) -> dict[str, Any]:
    """Returns the options that the strategy of a cell gets from its sources, if it gets any.

    They are ``"scores"`` (see :func:`source_scores`), ``"condensed"``, a :class:`clpack.condensation.CondensedSet`, or
    ``"pretrained_path"``, a file of weights.

    Args:
        config: the cell.
        store: where the folders of its sources lie.
        data: the fingerprint of its stream.

    Raises:
        ValueError: if a source is not finished, or gives scores or condensed images of other data.
        FileNotFoundError: if a file of a source is missing.
    """
    kind = kind_of_sources(config)
    if kind is None or feeds_stream(config):
        return {}
    if kind == "Trace":
        return {"scores": source_scores(config, store, data)}
    (source,) = config.sources
    who, result = _finished(source, store)
    if kind == "Pretraining":
        folder = store.folder(source.key()) / _FOLDERS[PretrainingPlugin]
        return {"pretrained_path": str(_there(folder / WEIGHTS_FILE))}
    condensed, own = (
        (stream, sum(found["n_train"]), found.get("description"))
        for stream, found in ((source.stream.name, result["data"]), (config.stream.name, data))
    )
    if condensed != own:
        raise ValueError(
            f"{who} condensed other data (stream, samples, description) than this cell has: {condensed}, not {own}"
        )
    folder = store.folder(source.key()) / _FOLDERS[CondensedReplayPlugin]
    return {"condensed": CondensedSet.load(_there(folder / "experience_000.safetensors"))}


def source_scores(
    config: RunConfig, store: ResultStore, data: dict[str, Any] | None = None
) -> dict[int, NDArray[np.float64]]:
    """Returns the scores of each experience of the sources of a cell, from their traces.

    Each trace is scored with the ``score`` and the ``score_options`` of the cell, and the runs are combined as
    :data:`clpack.pruning.SCORES` says.

    Args:
        config: a cell with sources.
        store: where their folders lie.
        data: the fingerprint of the stream that they must have been trained on. Default: None, not checked.

    Returns:
        Float64 arrays of shape ``(N,)``, by the index of the experience.

    Raises:
        ValueError: if a source is not finished, or was trained on other data.
        FileNotFoundError: if a trace is missing.
    """
    name = score_name(config)
    options = {} if feeds_stream(config) else config.strategy.options.get("score_options") or {}
    runs = []
    for source in config.sources:
        who, result = _finished(source, store)
        trained_on = result["data"]
        if data is not None and trained_on != data:
            raise ValueError(
                f"{who} was trained on other data than this cell; give both streams the same seed and the same "
                "options, augmentation aside"
            )
        folder = store.folder(source.key())
        traces = [
            Trace.load(_there(folder / _FOLDERS[TracePlugin] / f"experience_{index:03d}.npz"))
            for index in range(len(trained_on["n_train"]))
        ]
        runs.append([trace.score(name, **options) for trace in traces])
    how = get_score(name).aggregate
    return {index: aggregate_runs(scores, how) for index, scores in enumerate(zip(*runs, strict=True))}


def save_into(folder: Path, strategy: Any) -> None:
    """Lets plugins that record samples save into a folder, unless they have one already."""
    for plugin in strategy.plugins:
        for kind, name in _FOLDERS.items():
            if isinstance(plugin, kind) and plugin.save_to is None:
                plugin.save_to = folder / name


def save_galleries(folder: Path, strategy: Any, benchmark: Any) -> None:
    """Draws samples beside the results of plugins, for streams of at most 20 classes of grey or color images.

    They are, for a pruning plugin, which samples were removed first and last, one PNG per experience; and for class
    impressions, the last ones beside samples of their classes.
    """
    from .gallery import removal_gallery, save_gallery  # matplotlib takes a second

    for plugin in strategy.plugins:
        if isinstance(plugin, ClassImpressionPlugin) and plugin.impressions is not None:
            _save_impressions(folder, plugin, benchmark)
        if not isinstance(plugin, PruningPlugin):
            continue
        for experience in benchmark.train_stream:
            index, dataset = experience.current_experience, experience.dataset
            scores, shape = plugin.scores[index], dataset.eval()[0][0].shape
            few_classes = len(experience.classes_in_this_experience) <= _GALLERY_CLASSES
            if few_classes and len(shape) == 3 and shape[0] in (1, 3) and not np.isnan(scores).all():
                figure = removal_gallery(dataset, scores, remove=plugin.remove, title=plugin.score)
                save_gallery(figure, folder / _FOLDERS[PruningPlugin] / f"experience_{index:03d}.png")


def _save_impressions(folder: Path, plugin: ClassImpressionPlugin, benchmark: Any) -> None:
    from .gallery import impression_gallery, save_gallery

    assert plugin.impressions is not None
    assert plugin.class_means is not None
    impressions, means = plugin.impressions.cpu(), plugin.class_means.cpu()
    chosen = plugin.impression_classes.cpu()
    places = chosen.unique().tolist()
    if len(places) > _GALLERY_CLASSES or impressions.shape[1] not in (1, 3):
        return
    figure = impression_gallery(
        [_first_samples(benchmark, *plugin.classes[place]) for place in places],
        [means[place].numpy() for place in places],
        [impressions[chosen == place].numpy() for place in places],
        [str(plugin.classes[place][1]) for place in places],
    )
    save_gallery(figure, folder / _FOLDERS[ClassImpressionPlugin] / "gallery.png")


def _first_samples(benchmark: Any, task: int, label: int, count: int = 8) -> NDArray[np.float32]:
    """Returns the first training images of a class, as evaluation sees them."""
    for experience in benchmark.train_stream:
        if task in experience.task_labels and label in experience.classes_in_this_experience:
            rows = (dataset_field(experience.dataset, "targets") == label).nonzero().flatten()[:count]
            data = experience.dataset.eval()
            return np.stack([np.asarray(data[row][0], dtype=np.float32) for row in rows.tolist()])
    raise ValueError(f"no experience has the class {label} of task {task}")


def sample_records(strategy: Any, benchmark: Any) -> dict[str, list[dict[str, Any]]]:
    """Returns what the plugins of a trained strategy say of the samples, one entry for each experience.

    Returns:
        Under ``"pruning"``, if there was any, the numbers ``kept`` and ``removed`` by class and, for streams with the
        data attribute ``is_changed``, under ``changed`` their number ``n``, how many were ``removed``, and how well
        they were found: ``recall`` and ``precision`` of the removal, and the ``auroc`` of the score.

        Under ``"trace"``, if one was recorded, the shares of samples that were never forgotten (``unforgettable``) and
        ``never_learned``, and the mean number of forgetting events (``events``) of all that were learned.
    """
    records: dict[str, list[dict[str, Any]]] = {}
    for plugin in strategy.plugins:
        if isinstance(plugin, PruningPlugin):
            records["pruning"] = [_pruning_record(plugin, exp) for exp in benchmark.train_stream]
        elif isinstance(plugin, TracePlugin) and plugin.score is None:
            records["trace"] = [_trace_record(plugin.traces[index]) for index in range(len(benchmark.train_stream))]
    return records


def sample_metrics(records: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Returns the metrics that follow from :func:`sample_records`; those that are defined."""
    metrics = {}
    changed = [record["changed"] for record in records.get("pruning", ()) if "changed" in record]
    if n_changed := sum(part["n"] for part in changed):
        metrics["noise_found"] = sum(part["removed"] for part in changed) / n_changed
    for name, field in (("unforgettable", "unforgettable"), ("forgetting_events", "events")):
        values = [record[field] for record in records.get("trace", ()) if record[field] is not None]
        if values:
            metrics[name] = sum(values) / len(values)
    return metrics


def memory_metrics(strategy: Any) -> dict[str, float]:
    """Returns what a replay memory holds, if the strategy has one: samples count as 8-bit images with a label."""
    for plugin in strategy.plugins:
        memory = getattr(plugin, "storage_policy", None)
        if isinstance(memory, CondensedBuffer):
            return {"memory_images": len(memory), "memory_numbers": memory.numel, "memory_bytes": memory.nbytes}
        if isinstance(memory, ExemplarsBuffer):
            count = len(memory.buffer)
            numbers = count * memory.buffer.eval()[0][0].numel() if count else 0
            return {
                "memory_images": count,
                "memory_numbers": numbers,
                "memory_bytes": numbers + count * torch.int64.itemsize,
            }
    return {}


def _finished(source: RunConfig, store: ResultStore) -> tuple[str, dict[str, Any]]:
    """Returns the name of a source for people, and its result."""
    who = f"source {source.key()} ({source.label()})"
    content = store.result(source.key())
    if content is None:
        raise ValueError(f"{who} is not finished; compute it first")
    return who, content["result"]


def _there(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; remove {path.parents[1]} to compute it again")
    return path


def _pruning_record(plugin: Any, experience: Any) -> dict[str, Any]:
    index = experience.current_experience
    selection = plugin.selections[index]
    record: dict[str, Any] = {
        "kept": {str(label): counts.kept for label, counts in selection.counts.items()},
        "removed": {str(label): counts.removed for label, counts in selection.counts.items()},
    }
    if "is_changed" in experience.dataset._data_attributes:
        changed = dataset_field(experience.dataset, "is_changed").numpy().astype(bool)
        suspicion = plugin.scores[index] * (1 if plugin.remove == "highest" else -1)
        found = int(changed[selection.removed].sum())
        record["changed"] = {
            "n": int(changed.sum()),
            "removed": found,
            "recall": _share(found, changed.sum()),
            "precision": _share(found, len(selection.removed)),
            "auroc": _auroc(suspicion[changed], suspicion[~changed]),
        }
    return record


def _trace_record(trace: Trace) -> dict[str, float | None]:
    events = trace.score("forgetting")
    learned = np.isfinite(events)
    return {
        "unforgettable": float((events == 0).mean()),
        "never_learned": float(np.isinf(events).mean()),
        "events": float(events[learned].mean()) if learned.any() else None,
    }


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _auroc(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float | None:
    """Returns the chance that a positive score is above a negative one, ties counting half; scores may be infinite."""
    positive, negative = positive[~np.isnan(positive)], np.sort(negative[~np.isnan(negative)])
    if len(positive) == 0 or len(negative) == 0:
        return None
    below = (np.searchsorted(negative, positive, side) for side in ("left", "right"))
    return float(sum(count.sum() for count in below) / (2 * len(positive) * len(negative)))
