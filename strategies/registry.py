"""The strategies by name, so that a configuration file or a command line can build them from plain values.

In Python the classes do the same; see their documentation for the options. Only :func:`get` imports torch and
Avalanche. An optimizer is named ``"SGD"``, ``"RMSprop"``, ``"Adagrad"`` or ``"Adam"`` (torch's defaults apart from
``lr``), or ``"TAG-RMSprop"``, ``"TAG-Adagrad"`` or ``"TAG-Adam"``, which turns any baseline into its TAG hybrid.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from clpack.names import unknown_name

__all__ = ["StrategyInfo", "describe", "get", "names"]

_OPTIMIZERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "SGD": ("torch.optim:SGD", {}),
    "RMSprop": ("torch.optim:RMSprop", {}),
    "Adagrad": ("torch.optim:Adagrad", {}),
    "Adam": ("torch.optim:Adam", {}),
    "TAG-RMSprop": ("clpack.optim:TAG", {"base": "rmsprop"}),
    "TAG-Adagrad": ("clpack.optim:TAG", {"base": "adagrad"}),
    "TAG-Adam": ("clpack.optim:TAG", {"base": "adam"}),
}


@dataclass(frozen=True)
class StrategyInfo:
    """What there is to know about a strategy before building it.

    Attributes:
        name: its name.
        summary: what it does, in one line.
        reference: where it was introduced.
        options: its options with their defaults, besides ``lr``, ``optimizer`` and the options of the optimizer.
        template: the Avalanche strategy, ``"module:attribute"``.
        plugin: the plugin that makes the method, if it is one; it takes the options.
        optimizer: the default optimizer.
    """

    name: str
    summary: str
    reference: str
    options: Mapping[str, Any] = field(default_factory=dict)
    template: str = "avalanche.training.supervised:Naive"
    plugin: str | None = None
    optimizer: str = "SGD"

    def __str__(self) -> str:
        options = ", ".join(f"{option}={default!r}" for option, default in self.options.items())
        return (
            f"{self.name}: {self.summary}\n"
            f"  options    {options or '-'}\n"
            f"  optimizer  {self.optimizer} by default\n"
            f"  reference  {self.reference}"
        )


_STRATEGIES = {
    info.name: info
    for info in (
        StrategyInfo(
            "Naive",
            "trains on each experience in turn, without any measure against forgetting",
            "-",
        ),
        StrategyInfo(
            "Cumulative",
            "joint training on all data seen so far, the upper bound",
            "-",
            template="avalanche.training.supervised:Cumulative",
        ),
        StrategyInfo(
            "Replay",
            "mixes in samples from a buffer that is balanced over experiences",
            "A. Chaudhry et al., On Tiny Episodic Memories in Continual Learning, 2019, arXiv:1902.10486",
            {"mem_size": 200, "batch_size_mem": None},
            plugin="avalanche.training.plugins:ReplayPlugin",
        ),
        StrategyInfo(
            "EWC",
            "keeps weights near those that mattered to earlier experiences",
            "J. Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS 2017, arXiv:1612.00796",
            {"ewc_lambda": 1.0, "mode": "separate", "decay_factor": None},
            plugin="avalanche.training.plugins:EWCPlugin",
        ),
        StrategyInfo(
            "AGEM",
            "projects gradients so that they do not disagree with those on stored samples",
            "A. Chaudhry et al., Efficient Lifelong Learning with A-GEM, ICLR 2019, arXiv:1812.00420",
            {"patterns_per_experience": 20, "sample_size": 64},
            plugin="clpack.strategies.baselines:AGEMPlugin",
        ),
        StrategyInfo(
            "LwF",
            "distills the previous model on the new data, without storing any",
            "Z. Li, D. Hoiem, Learning without Forgetting, ECCV 2016, arXiv:1606.09282",
            {"alpha": 1.0, "temperature": 2.0},
            plugin="avalanche.training.plugins:LwFPlugin",
        ),
        StrategyInfo(
            "TAG",
            "an optimizer that weighs its steps by the agreement with earlier tasks",
            "P. Malviya et al., TAG: Task-based Accumulated Gradients for Lifelong learning, CoLLAs 2022, "
            "arXiv:2105.05155",
            optimizer="TAG-RMSprop",
        ),
    )
}


def names() -> list[str]:
    """Returns the names of all strategies."""
    return list(_STRATEGIES)


def describe(name: str) -> StrategyInfo:
    """Returns the description of a strategy; ``print`` shows it in full.

    Raises:
        ValueError: if there is no strategy of this name.
    """
    if name not in _STRATEGIES:
        raise ValueError(unknown_name("strategy", name, _STRATEGIES))
    return _STRATEGIES[name]


def get(
    name: str,
    *,
    model: Any,
    lr: float,
    optimizer: str | None = None,
    train_mb_size: int = 1,
    train_epochs: int = 1,
    eval_mb_size: int | None = None,
    device: Any = "cpu",
    plugins: Sequence[Any] = (),
    evaluator: Any = None,
    **options: Any,
) -> Any:
    """Builds a strategy.

    Args:
        name: one of :func:`names`.
        model: the network, a torch module.
        lr: learning rate, positive.
        optimizer: name of the optimizer, ``None`` for that of the strategy.
        train_mb_size: samples per training batch.
        train_epochs: epochs per experience.
        eval_mb_size: samples per evaluation batch, ``None`` for ``train_mb_size``.
        device: where the model is trained.
        plugins: further plugins, placed before that of the method.
        evaluator: an Avalanche ``EvaluationPlugin``; ``None`` for one without metrics.
        **options: the options of the strategy (see :func:`describe`) and of the optimizer (``momentum``, ``b``, ...).

    Returns:
        An Avalanche ``SupervisedTemplate``.

    Raises:
        ValueError: if a name is unknown or a value is out of range.
        TypeError: if there is no such option.
    """
    info = describe(name)
    optimizer = info.optimizer if optimizer is None else optimizer
    if optimizer not in _OPTIMIZERS:
        raise ValueError(unknown_name("optimizer", optimizer, _OPTIMIZERS))
    if not lr > 0.0:
        raise ValueError(f"lr must be positive, got {lr}")
    path, fixed = _OPTIMIZERS[optimizer]
    optimizer_class = _load(path)
    optimizer_options = [key for key in inspect.signature(optimizer_class).parameters if key not in ("params", "lr")]
    for option in options:
        if option not in (*info.options, *optimizer_options):
            raise TypeError(unknown_name(f"{name} option", option, (*info.options, *optimizer_options)))
    own = {option: options.pop(option, default) for option, default in info.options.items()}
    built = optimizer_class(model.parameters(), lr=lr, **fixed, **options)

    methods = [_load("clpack.strategies.tag:TAGPlugin")()] if path == "clpack.optim:TAG" else []
    if info.plugin:
        methods.append(_load(info.plugin)(**own))
    return _load(info.template)(
        model=model,
        optimizer=built,
        criterion=_load("torch.nn:CrossEntropyLoss")(),
        train_mb_size=train_mb_size,
        train_epochs=train_epochs,
        eval_mb_size=eval_mb_size,
        device=device,
        plugins=[*plugins, *methods],
        evaluator=evaluator,
    )


def _load(path: str) -> Any:
    module, attribute = path.split(":")
    return getattr(import_module(module), attribute)
