"""The strategies by name, so that a configuration file or a command line can build them from plain values.

In Python the classes do the same; see their documentation for the options. Only :func:`check` and :func:`get` import
torch and Avalanche. An optimizer is named ``"SGD"``, ``"RMSprop"``, ``"Adagrad"`` or ``"Adam"`` (torch's defaults apart
from ``lr``), or ``"TAG-RMSprop"``, ``"TAG-Adagrad"`` or ``"TAG-Adam"``, which turns any baseline into its TAG hybrid.

Names joined with ``+`` are one strategy with the plugins of all, in the order of the names: ``"Pruning+Replay"``. They
share the option ``seed``. EpochLoss is ``"Pruning+Subnetworks+Adversarial+Plateau"``, in this order.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from clpack.names import unknown_name

from ._entries import OPTIMIZER, STRATEGIES, TEMPLATE, Option, StrategyInfo, check_number

__all__ = ["Option", "StrategyInfo", "check", "describe", "get", "names"]

_OPTIMIZERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "SGD": ("torch.optim:SGD", {}),
    "RMSprop": ("torch.optim:RMSprop", {}),
    "Adagrad": ("torch.optim:Adagrad", {}),
    "Adam": ("torch.optim:Adam", {}),
    "TAG-RMSprop": ("clpack.optim:TAG", {"base": "rmsprop"}),
    "TAG-Adagrad": ("clpack.optim:TAG", {"base": "adagrad"}),
    "TAG-Adam": ("clpack.optim:TAG", {"base": "adam"}),
}


def names() -> list[str]:
    """Returns the names of all strategies, without those that join several."""
    return list(STRATEGIES)


def describe(name: str) -> StrategyInfo:
    """Returns the description of a strategy, or of several joined with ``+``; ``print`` shows it in full.

    Raises:
        ValueError: if there is no strategy of this name, or those joined do not go together: one comes twice, two have
            an option of the same name other than ``seed``, two have a template, an optimizer or a choice of samples of
            their own, or one excludes another.
    """
    parts = []
    for part in name.split("+"):
        if part not in STRATEGIES:
            raise ValueError(unknown_name("strategy", part, STRATEGIES))
        parts.append(STRATEGIES[part])
    return parts[0] if len(parts) == 1 else _join(name, tuple(parts))


def has_option(name: str, option: str) -> bool:
    """Returns whether an option may be given to a strategy: False for one that only others have.

    Raises:
        ValueError: as :func:`describe`.
    """
    return option in describe(name).options or not any(option in info.options for info in STRATEGIES.values())


def check(
    name: str,
    *,
    lr: float,
    optimizer: str | None = None,
    lr_milestones: Sequence[int] = (),
    lr_gamma: float = 0.1,
    train_mb_size: int = 1,
    train_epochs: int = 1,
    eval_mb_size: int | None = None,
    autocast: str | None = None,
    **options: Any,
) -> None:
    """Raises what :func:`get` would raise for these arguments, without a model.

    Raises:
        ValueError: if a name is unknown or a value is out of range.
        TypeError: if there is no such option, or a value is not a number.
    """
    info = describe(name)
    optimizer_class, fixed = _optimizer(info, optimizer)
    own, theirs = _split(info, optimizer_class, fixed, options)
    check_number("lr", lr)
    if not lr > 0.0:
        raise ValueError(f"lr must be positive, got {lr}")
    _check_milestones(lr_milestones)
    check_number("lr_gamma", lr_gamma, minimum=0)
    for key, count in (
        ("train_mb_size", train_mb_size),
        ("train_epochs", train_epochs),
        ("eval_mb_size", eval_mb_size),
    ):
        if count is not None:
            check_number(key, count, integer=True, minimum=1)
    if autocast not in (None, "bfloat16"):
        raise ValueError(f"autocast must be 'bfloat16' or None, got {autocast!r}; float16 would need its losses scaled")
    for key, value in own.items():
        info.options[key].check(key, value)
    _methods(info, own)
    optimizer_class([_load("torch:zeros")(1, requires_grad=True)], lr=lr, **fixed, **theirs)


def get(
    name: str,
    *,
    model: Any,
    lr: float,
    optimizer: str | None = None,
    lr_milestones: Sequence[int] = (),
    lr_gamma: float = 0.1,
    train_mb_size: int = 1,
    train_epochs: int = 1,
    eval_mb_size: int | None = None,
    device: Any = "cpu",
    autocast: str | None = None,
    plugins: Sequence[Any] = (),
    evaluator: Any = None,
    **options: Any,
) -> Any:
    """Builds a strategy.

    Args:
        name: one of :func:`names`, or several joined with ``+``.
        model: the network, a torch module.
        lr: learning rate, positive.
        optimizer: name of the optimizer, ``None`` for that of the strategy.
        lr_milestones: after so many epochs of an experience the learning rate is multiplied by ``lr_gamma``; the next
            experience starts from ``lr`` again. Default: it stays as it is.
        lr_gamma: see above.
        train_mb_size: samples per training batch.
        train_epochs: epochs per experience.
        eval_mb_size: samples per evaluation batch, ``None`` for ``train_mb_size``.
        device: where the model is trained.
        autocast: ``"bfloat16"`` for mixed precision, ``None`` for full precision.
        plugins: further plugins, placed before that of the method.
        evaluator: an Avalanche ``EvaluationPlugin``; ``None`` for one without metrics.
        **options: the options of the strategy (see :func:`describe`) and of the optimizer (``momentum``, ``b``, ...).

    Returns:
        An Avalanche ``SupervisedTemplate``.

    Raises:
        ValueError: if a name is unknown or a value is out of range.
        TypeError: if there is no such option, or a value is not a number.
    """
    check(
        name,
        lr=lr,
        optimizer=optimizer,
        lr_milestones=lr_milestones,
        lr_gamma=lr_gamma,
        train_mb_size=train_mb_size,
        train_epochs=train_epochs,
        eval_mb_size=eval_mb_size,
        autocast=autocast,
        **options,
    )
    info = describe(name)
    optimizer_class, fixed = _optimizer(info, optimizer)
    own, theirs = _split(info, optimizer_class, fixed, options)
    built = optimizer_class(model.parameters(), lr=lr, **fixed, **theirs)
    methods = [_load("clpack.strategies.tag:TAGPlugin")()] if fixed else []  # only TAG has something fixed: its base
    plugins_of_parts, arguments = _methods(info, own)
    methods += plugins_of_parts
    if lr_milestones:
        scheduler = _load("torch.optim.lr_scheduler:MultiStepLR")(built, list(lr_milestones), lr_gamma)
        methods.append(_load("avalanche.training.plugins:LRSchedulerPlugin")(scheduler))
    return _load(info.template)(
        model=model,
        optimizer=built,
        criterion=_load("torch.nn:CrossEntropyLoss")(),
        device=device,
        autocast=None if autocast is None else _load(f"torch:{autocast}"),
        plugins=[*plugins, *methods],
        evaluator=evaluator,
        train_mb_size=train_mb_size,
        train_epochs=train_epochs,
        eval_mb_size=eval_mb_size,
        **arguments,
    )


def _join(name: str, parts: tuple[StrategyInfo, ...]) -> StrategyInfo:
    """Returns the description of several strategies in one."""
    owners: dict[str, str] = {}
    for part in parts:
        claims = [f"the name {part.name}", *(f"the option {option}" for option in part.options if option != "seed")]
        claims += ["a template of its own"] * (part.template != TEMPLATE)
        claims += ["an optimizer of its own"] * (part.optimizer != OPTIMIZER)
        claims += ["a choice of samples of its own"] * part.prunes
        for claim in claims:
            if claim in owners:
                raise ValueError(f"{name}: both {owners[claim]} and {part.name} have {claim}; take one of them")
            owners[claim] = part.name
    for part in parts:
        for other in parts:
            if other.name in part.excludes:
                raise ValueError(f"{name}: {part.name} cannot be joined with {other.name}; take one of them")
    return StrategyInfo(
        name,
        "; ".join(part.summary for part in parts),
        "; ".join(part.reference for part in parts if part.reference != "-"),
        {option: value for part in parts for option, value in part.options.items()},
        template=next((part.template for part in parts if part.template != TEMPLATE), TEMPLATE),
        optimizer=next((part.optimizer for part in parts if part.optimizer != OPTIMIZER), OPTIMIZER),
        prunes=any(part.prunes for part in parts),
        parts=parts,
    )


def _methods(info: StrategyInfo, options: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Builds the plugins of a strategy from the values of all its options, and what its template takes of them."""
    plugins: list[Any] = []
    arguments: dict[str, Any] = {}
    for part in info.parts or (info,):
        given = {key.removeprefix(part.prefix): options[key] for key in part.options if options[key] is not None}
        if part.plugin is None:
            arguments |= given
            continue
        if part.mapping:
            ours, theirs = (inspect.signature(_load(path)).parameters for path in (part.template, part.plugin))
            arguments |= {key: value for key, value in given.items() if key in ours}
            arguments[part.mapping] = {key: value for key, value in given.items() if key not in ours}
            given = {key: value for key, value in given.items() if key not in ours or key in theirs}
        plugin = _load(part.plugin)(**given)  # complains at once
        if not part.mapping:
            plugins.append(plugin)
    return plugins, arguments


def _optimizer(info: StrategyInfo, optimizer: str | None) -> tuple[Any, Mapping[str, Any]]:
    """Returns the class of an optimizer, and what its name fixes."""
    optimizer = info.optimizer if optimizer is None else optimizer
    if optimizer not in _OPTIMIZERS:
        raise ValueError(unknown_name("optimizer", optimizer, _OPTIMIZERS))
    path, fixed = _OPTIMIZERS[optimizer]
    return _load(path), fixed


def _split(
    info: StrategyInfo, optimizer_class: Any, fixed: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the options of the strategy, with its defaults, and those of the optimizer."""
    parameters = inspect.signature(optimizer_class).parameters
    theirs = [key for key in parameters if key not in ("params", "lr", *fixed)]
    for option in options:
        if option in fixed:
            raise TypeError(f"{option} goes by the name of the optimizer: {', '.join(_OPTIMIZERS)}")
        if option not in (*info.options, *theirs):
            raise TypeError(unknown_name(f"{info.name} option", option, (*info.options, *theirs)))
    own = {key: options.get(key, option.default) for key, option in info.options.items()}
    return own, {key: value for key, value in options.items() if key not in own}


def _check_milestones(milestones: Any) -> None:
    if isinstance(milestones, str) or not isinstance(milestones, Sequence):
        raise TypeError(f"lr_milestones must be a list of epochs such as [60, 120, 160], got {milestones!r}")
    for epoch in milestones:
        check_number("each of lr_milestones", epoch, integer=True, minimum=1)


def _load(path: str) -> Any:
    module, attribute = path.split(":")
    return getattr(import_module(module), attribute)
