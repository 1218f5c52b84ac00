"""What to run: the resolved configuration of one cell, and the tables (experiments) that cells come from.

This module imports neither torch nor Avalanche, so tables can be listed and hashed at once.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from clpack import benchmarks
from clpack.names import unknown_name
from clpack.strategies import registry

from .metrics import METRICS

__all__ = ["Column", "Component", "Experiment", "Reference", "Row", "RunConfig", "Sources", "source_kind"]

_COMPONENTS = ("stream", "model", "strategy")
_LABELS = ("table", "row", "column")
_SOURCES = {"Trace": "Scoring run", "CondensedReplay": "Condensation", "Pretraining": "Pre-training"}
_SOURCE = "source."  # begins settings of sources in presets
_NUMBER, _LIST = "a number", "a list or mapping"  # some options take either: one for all experiences, or one for each
_OWN_OF_CONDENSATION = ("train_epochs", "stream.n_experiences", "stream.fixed_class_order", "stream.seed")
_COUNTS = ("train_epochs", "train_mb_size", "eval_mb_size", "num_threads", "cycles")
_UNLESS_DEFAULT = ("measure_train", "drop_last", "cycles", "val_fraction", "samples_per_class")


@dataclass(frozen=True)
class Component:
    """A stream, a model or a strategy: its registry name and its options.

    Args:
        name: registry name, e.g. ``"SplitDigits"``.
        options: keyword arguments by name; anything JSON can hold (tuples become lists).

    Raises:
        TypeError: if an option cannot be written as JSON.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            canonical = json.loads(json.dumps(self.options, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"options of {self.name!r} must be plain JSON values (numbers, text, lists, mappings), "
                f"got {self.options!r}: {error}"
            ) from error
        object.__setattr__(self, "options", canonical)


def source_kind(strategy: Component) -> str | None:
    """Returns what cells of a strategy are to those that build on them.

    It is ``"Trace"``, ``"CondensedReplay"``, ``"Pretraining"`` or None.
    """
    return next((kind for kind in _SOURCES if kind in strategy.name.split("+")), None)


@dataclass(frozen=True)
class RunConfig:
    """One cell of a table, fully resolved: everything that its result depends on.

    Args:
        stream: the benchmark.
        model: the network.
        strategy: the training strategy, with its optimizer.
        train_epochs: epochs per experience; default 1.
        train_mb_size: samples per training minibatch; default 10.
        eval_mb_size: samples per evaluation minibatch; default 128.
        seed: the seed that every random stream of the run is derived from; default 1.
        device: torch device; default ``"cpu"``.
        num_threads: torch threads, fixed because they change the order of additions; default 1.
        table: name of the table, a label.
        row: label of the row.
        column: label of the column.
        sources: the cells that this one builds on; they have none themselves. Those of the strategy ``"Trace"`` give
            it scores, to its stream if that takes scores, else to its strategy; one of ``"CondensedReplay"`` gives its
            strategy the condensed images, one of ``"Pretraining"`` the weights to start from. Default: none.
        measure_train: whether the accuracy on the training samples of each experience is measured after each epoch, as
            the metrics that begin with ``train_`` need it. Default: False.
        drop_last: whether an epoch leaves out the last minibatch if it is not full. Default: False.
        cycles: how often the sequence of experiences is trained. The metrics of a cell with several cycles are the
            average accuracy alone, since the others are defined for experiences that come once. Default: 1.
        val_fraction: the part of the training samples of each class that takes the place of the test samples, in
            [0, 1), to choose settings by. Default: 0, the test samples are used.
        samples_per_class: so many samples of each class at most are used, the first ones, of all streams. Default:
            None, all.

    Raises:
        TypeError, ValueError: if a number is not what it has to be.
    """

    stream: Component
    model: Component
    strategy: Component
    train_epochs: int = 1
    train_mb_size: int = 10
    eval_mb_size: int = 128
    seed: int = 1
    device: str = "cpu"
    num_threads: int = 1
    table: str = ""
    row: str = ""
    column: str = ""
    sources: tuple[RunConfig, ...] = ()
    measure_train: bool = False
    drop_last: bool = False
    cycles: int = 1
    val_fraction: float = 0.0
    samples_per_class: int | None = None

    def __post_init__(self) -> None:
        for name in (*_COUNTS, "seed", "samples_per_class"):
            value = getattr(self, name)
            if name == "samples_per_class" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an integer, got {value!r}")
            if name != "seed" and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not isinstance(self.drop_last, bool):
            raise TypeError(f"drop_last must be true or false, got {self.drop_last!r}")
        if isinstance(self.val_fraction, bool) or not isinstance(self.val_fraction, int | float):
            raise TypeError(f"val_fraction must be a number, got {self.val_fraction!r}")
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"val_fraction must be at least 0 and less than 1, got {self.val_fraction}")
        for source in self.sources:
            if source.sources or source_kind(source.strategy) is None:
                raise ValueError(
                    f"a source must have one of the strategies {', '.join(_SOURCES)} and no sources itself, got "
                    f"{source.strategy.name!r} with {len(source.sources)} sources"
                )

    def settings(self) -> dict[str, Any]:
        """Returns all that influences the result, flat: ``"strategy"`` is its name, ``"strategy.lr"`` an option.

        The labels (table, row, column) are not in it. ``"sources"``, where there are any, are their keys.
        ``measure_train`` and the fields after it are in it where they are not at their defaults.
        """
        settings: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in _COMPONENTS:
                settings[item.name] = value.name
                settings.update({f"{item.name}.{option}": value.options[option] for option in value.options})
            elif item.name == "sources":
                settings.update({"sources": [source.key() for source in value]} if value else {})
            elif item.name not in _LABELS and not (item.name in _UNLESS_DEFAULT and value == item.default):
                settings[item.name] = value
        return settings

    def key(self) -> str:
        """Returns the identity of the cell: 16 hexadecimal digits, the hash of :meth:`settings`."""
        text = json.dumps(self.settings(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def label(self) -> str:
        """Returns the name of the cell for people."""
        return f"{self.row} on {self.column}, seed {self.seed}"

    def with_settings(self, settings: Mapping[str, Any]) -> RunConfig:
        """Returns a copy with some of :meth:`settings` replaced or, for options of a component, added.

        The sources stay as they are.

        Raises:
            ValueError: for a key that is no setting.
        """
        config = self
        for key, value in settings.items():
            head, _, option = key.partition(".")
            if head in _COMPONENTS:
                component = getattr(config, head)
                if option:
                    component = replace(component, options={**component.options, option: value})
                else:
                    component = replace(component, name=value)
                config = replace(config, **{head: component})
            elif key in (*self.settings(), *_UNLESS_DEFAULT) and key != "sources":
                config = replace(config, **{key: value})
            else:
                raise ValueError(unknown_name("setting", key, self.settings()))
        return config


@dataclass(frozen=True)
class Column:
    """A stream of a table, with the model and the settings that go with it.

    Args:
        label: the head of the column.
        stream: the benchmark.
        model: the network.
        settings: further settings of its cells, e.g. ``{"train_mb_size": 10}``. An option that only other strategies
            have (``{"strategy.remove_count": 100}`` for fine-tuning) is left out.
        x: a number that the metrics are drawn against; columns of one stream make one curve. Default: None, none.
    """

    label: str
    stream: Component
    model: Component
    settings: Mapping[str, Any] = field(default_factory=dict)
    x: float | None = None


@dataclass(frozen=True)
class Sources:
    """Runs that the cells of a row build on: they record traces, condense data, or train weights to start from.

    Stream, model and settings are those of the column. A stream that takes scores shows them all of its training data.
    Rows with equal sources share them.

    Args:
        strategy: ``"Trace"``, ``"CondensedReplay"`` or ``"Pretraining"`` with its options.
        seeds: their seeds. The scores of all traces are combined; condensed images and weights are those of one run for
            each cell: with n seeds, the cell of seed s takes run s mod n.
        settings: further settings, e.g. ``{"model.dropout": False}``.
        settings_by_column: settings for single columns, by column label; they win over ``settings``.
        model: their network. Default: that of the column.
        stream: their stream, for pre-training. Settings of streams in presets and overrides are not for it, but those
            after ``source.`` are. Default: that of the column.
    """

    strategy: Component
    seeds: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    settings_by_column: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    model: Component | None = None
    stream: Component | None = None


@dataclass(frozen=True)
class Row:
    """A method of a table.

    Args:
        label: the head of the row.
        strategy: the strategy with the options that hold for every column.
        settings: further settings of its cells; they win over those of the column.
        settings_by_column: settings for single columns, by column label, e.g.
            ``{"Split-CUB": {"strategy.lr": 0.001}}``; they win over ``settings``.
        grid: values to try, by setting, e.g. ``{"strategy.lr": [0.1, 0.01]}``; each point is a row of its own.
        upper_bound: whether the row is there to compare with, and never the best of its column. Default: False.
        sources: where its scores come from. Default: None, not from other runs.
        columns: labels of the columns that it is for. Default: none, all of them.
    """

    label: str
    strategy: Component
    settings: Mapping[str, Any] = field(default_factory=dict)
    settings_by_column: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    upper_bound: bool = False
    sources: Sources | None = None
    columns: tuple[str, ...] = ()

    def points(self) -> Iterable[tuple[str, dict[str, Any]]]:
        """Yields label and settings of each point of the grid; without a grid, the row itself."""
        for values in itertools.product(*self.grid.values()):
            point = dict(zip(self.grid, values, strict=True))
            text = ", ".join(f"{key.removeprefix('strategy.')}={value}" for key, value in point.items())
            yield (f"{self.label} ({text})" if text else self.label), point


@dataclass(frozen=True)
class Reference:
    """A value to compare with, as printed: in the unit of the metric (see :mod:`clpack.experiments.metrics`).

    Args:
        row: label of the row.
        column: label of the column.
        metric: a name in :data:`clpack.experiments.metrics.METRICS`.
        mean: its mean.
        std: its standard deviation; None if there is none.
        source: where it comes from.
        by_experience: mean and standard deviation of each experience, for a metric that is a mean over experiences: a
            learning accuracy.

    Raises:
        ValueError: if another metric has values by experience.
    """

    row: str
    column: str
    metric: str
    mean: float
    std: float | None = None
    source: str = ""
    by_experience: tuple[tuple[float, float | None], ...] = ()

    def __post_init__(self) -> None:
        if self.by_experience and not self.metric.endswith("learning_accuracy"):
            raise ValueError(f"by_experience is for learning accuracies, got it for {self.metric}; leave it out")


@dataclass(frozen=True)
class Experiment:
    """A table: rows times columns times seeds.

    Args:
        name: ``"system/table"``, the path of its module below ``experiments/``.
        title: one line for people.
        paper: the publication the table belongs to.
        rows: the methods.
        columns: the streams.
        seeds: seeds of the repeats; default 1 to 5.
        references: values to compare with.
        presets: replacements of settings by preset name, as in :attr:`Column.settings`, in cells and sources, or, after
            ``source.``, in sources only; the keys ``"seeds"`` and ``"source_seeds"`` replace the seeds, ``"rows"`` and
            ``"columns"`` name those that are left. The preset ``"paper"`` is the table as it stands.
        metrics: names in :data:`clpack.experiments.metrics.METRICS`, in the order of printing.
        x_label: what ``x`` of the columns is. Default: nothing.

    Raises:
        ValueError: if labels repeat, or a metric, column or reference does not exist.
    """

    name: str
    title: str
    paper: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    references: tuple[Reference, ...] = ()
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    metrics: tuple[str, ...] = ("average_accuracy", "forgetting", "learning_accuracy")
    x_label: str = ""

    def __post_init__(self) -> None:
        columns = [column.label for column in self.columns]
        rows = [label for row in self.rows for label, _ in row.points()]
        for name, labels in (("rows", rows), ("columns", columns), ("seeds", list(self.seeds))):
            if not labels or len(set(labels)) < len(labels):
                raise ValueError(f"{name} of {self.name} must be there and differ from each other, got {labels}")
        named_metrics = [*self.metrics, *(reference.metric for reference in self.references)]
        by_column = [part.settings_by_column for row in self.rows for part in (row, row.sources) if part is not None]
        named_columns = [label for settings in by_column for label in settings]
        named_columns += [label for row in self.rows for label in row.columns]
        named_columns += [reference.column for reference in self.references]
        named_columns += [label for preset in self.presets.values() for label in preset.get("columns", ())]
        named_rows = [reference.row for reference in self.references]
        named_rows += [label for preset in self.presets.values() for label in preset.get("rows", ())]
        for kind, named, known in (
            ("metric", named_metrics, METRICS),
            ("column", named_columns, columns),
            ("row", named_rows, rows),
        ):
            for name in named:
                if name not in known:
                    raise ValueError(f"{self.name}: {unknown_name(kind, name, known)}")

    def cells(
        self,
        *,
        preset: str = "paper",
        seeds: Sequence[int] | None = None,
        rows: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> list[RunConfig]:
        """Returns the cells of the table, row by row.

        What wins, weakest first: column, row, row for one column, point of the grid, preset, ``overrides``.

        Args:
            preset: ``"paper"`` or one of ``presets``.
            seeds: seeds instead of those of the preset or the table.
            rows: labels of rows instead of those of the preset or the table.
            columns: labels of columns, likewise.
            overrides: settings for every cell. An option of a component (``"strategy.lr"``) is replaced in the
                cells that have it.

        Raises:
            ValueError: for an unknown preset, row, column or setting, repeated or missing seeds, or if no cell is left.
            TypeError: for a value of another kind than the one it replaces.
        """
        presets = {"paper": {}, **self.presets}
        if preset not in presets:
            raise ValueError(f"{self.name}: {unknown_name('preset', preset, presets)}")
        chosen = dict(presets[preset])
        preset_seeds = chosen.pop("seeds", self.seeds)
        source_seeds = chosen.pop("source_seeds", None)
        row_labels, labels = (
            _chosen(kind, given, chosen.pop(f"{kind}s", every), every)
            for kind, given, every in (
                ("row", rows, [label for row in self.rows for label, _ in row.points()]),
                ("column", columns, [column.label for column in self.columns]),
            )
        )
        source_settings = {
            key.removeprefix(_SOURCE): chosen.pop(key) for key in list(chosen) if key.startswith(_SOURCE)
        }
        seeds = list(preset_seeds if seeds is None else seeds)
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must be a list of different integers such as 1,2,3, got {seeds}")

        cells = []
        for row in self.rows:
            for label, point in (point for point in row.points() if point[0] in row_labels):
                for column in (column for column in self.columns if column.label in labels):
                    if row.columns and column.label not in row.columns:
                        continue
                    by_column = row.settings_by_column.get(column.label, {})
                    cell = _resolve(column, row.strategy, (row.settings, by_column, point), chosen)
                    cell = replace(cell, table=self.name, row=label, column=column.label)
                    cell = replace(cell, measure_train=any(name.startswith("train_") for name in self.metrics))
                    sources = _sources(column, row.sources, source_seeds, chosen, source_settings, self.name)
                    cells += [replace(cell, seed=seed, sources=_sources_of(seed, sources)) for seed in seeds]
        if not cells:
            raise ValueError(f"{self.name} has no cells in the rows {list(row_labels)} and columns {list(labels)}")
        return _override(cells, overrides or {})


def _chosen(kind: str, given: Sequence[str] | None, default: Sequence[str], every: Sequence[str]) -> Sequence[str]:
    for label in given or ():
        if label not in every:
            raise ValueError(unknown_name(kind, label, every))
    return given or default


def _resolve(
    column: Column, strategy: Component, settings: Iterable[Mapping[str, Any]], preset: Mapping[str, Any]
) -> RunConfig:
    config = RunConfig(column.stream, column.model, strategy)
    for changes in (_fitting(strategy, column.settings), *settings, _fitting(strategy, preset)):
        config = config.with_settings(changes)
    return config


def _sources(
    column: Column,
    sources: Sources | None,
    seeds: Sequence[int] | None,
    preset: Mapping[str, Any],
    preset_of_sources: Mapping[str, Any],
    table: str,
) -> tuple[RunConfig, ...]:
    if sources is None:
        return ()
    kind = source_kind(sources.strategy)
    assert kind is not None
    by_column = sources.settings_by_column.get(column.label, {})
    if sources.stream is not None:  # settings of streams mean that of the column
        preset, settings = (
            {key: value for key, value in given.items() if not _of_stream(key)} for given in (preset, column.settings)
        )
        column = replace(column, stream=sources.stream, settings=settings)
    column = replace(column, model=sources.model or column.model)
    config = _resolve(column, sources.strategy, (sources.settings, by_column), {**preset, **preset_of_sources})
    config = replace(config, table=table, row=_SOURCES[kind], column=config.stream.name)
    return tuple(replace(config, seed=seed) for seed in seeds or sources.seeds)


def _sources_of(seed: int, sources: tuple[RunConfig, ...]) -> tuple[RunConfig, ...]:
    if not sources or source_kind(sources[0].strategy) == "Trace":
        return sources
    return (sources[seed % len(sources)],)


def _of_stream(key: str) -> bool:
    return key.partition(".")[0] == "stream"


def _on_all_samples(source: RunConfig) -> RunConfig:
    """Returns a source; if its stream takes scores, with one experience that has all of the training data."""
    info = benchmarks.describe(source.stream.name)
    if not info.takes_scores:
        return source
    chosen = ("score", *info.selection_options)
    options = {name: value for name, value in source.stream.options.items() if name not in chosen}
    return replace(source, stream=Component(info.name, {**options, "n_experiences": 1}))


def _fitting(strategy: Component, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings without options that only other strategies have."""
    return {
        key: value
        for key, value in settings.items()
        if not key.startswith("strategy.") or registry.has_option(strategy.name, key.removeprefix("strategy."))
    }


def _override(cells: list[RunConfig], overrides: Mapping[str, Any]) -> list[RunConfig]:
    known = {
        key: value
        for cell in [*cells, *(source for cell in cells for source in cell.sources)]
        for key, value in cell.settings().items()
        if key not in ("seed", "sources") and not (_of_stream(key) and source_kind(cell.strategy) == "Pretraining")
    }
    for key, value in overrides.items():
        if key not in known:
            raise ValueError(unknown_name("setting", key, known))
        kinds = {_kind(value), _kind(known[key])}
        if len(kinds) > 1 and None not in (value, known[key]) and kinds != {_NUMBER, _LIST}:
            raise TypeError(f"{key} must be {_kind(known[key])} such as {known[key]!r}, got {value!r}")

    def change(cell: RunConfig, keys: Iterable[str] = overrides) -> RunConfig:
        changed = cell.with_settings({key: overrides[key] for key in keys if key in cell.settings()})
        return replace(changed, sources=tuple(_on_all_samples(change(each, _fit_for(each))) for each in cell.sources))

    def _fit_for(source: RunConfig) -> list[str]:
        kind = source_kind(source.strategy)
        if kind == "Pretraining":
            return [key for key in overrides if not _of_stream(key)]
        own = _OWN_OF_CONDENSATION if kind == "CondensedReplay" else ()
        return [key for key in overrides if key not in own]

    return [change(cell) for cell in cells]


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return _NUMBER
    return "text" if isinstance(value, str) else _LIST
