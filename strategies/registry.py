"""The strategies by name, so that a configuration file or a command line can build them from plain values.

In Python the classes do the same; see their documentation for the options. Only :func:`check` and :func:`get` import
torch and Avalanche. An optimizer is named ``"SGD"``, ``"RMSprop"``, ``"Adagrad"`` or ``"Adam"`` (torch's defaults apart
from ``lr``), or ``"TAG-RMSprop"``, ``"TAG-Adagrad"`` or ``"TAG-Adam"``, which turns any baseline into its TAG hybrid.

Names joined with ``+`` are one strategy with the plugins of all, in the order of the names: ``"Pruning+Replay"``. They
share the option ``seed``. EpochLoss is ``"Pruning+Subnetworks+Adversarial+Plateau"``, in this order.
"""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from clpack.names import unknown_name

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

_TEMPLATE = "clpack.strategies.templates:Template"
_OPTIMIZER = "SGD"
_TAG = "P. Malviya et al., TAG: Task-based Accumulated Gradients for Lifelong learning, CoLLAs 2022, arXiv:2105.05155"
_EPOCHLOSS = (
    "J. Andle et al., Minimizing Data, Maximizing Performance: Generative Examples for Continual Task Learning "
    "(EpochLoss)"
)


@dataclass(frozen=True)
class Option:
    """An option of a strategy.

    Attributes:
        default: its value if it is not given.
        minimum: the smallest number allowed; None if there is none.
        choices: the texts allowed.
        kind: what else is allowed: ``bool``, ``int``, ``float`` (any real number), ``str``, ``Sequence``, ``Mapping``
            or ``object`` (anything). Default: that of the default; a real number, if the default is None and there are
            no choices.
    """

    default: Any
    minimum: float | None = None
    choices: tuple[str, ...] = ()
    kind: type | None = None

    def check(self, name: str, value: Any) -> None:
        """Raises unless ``value`` is possible; that is always so for the default."""
        kind = self.kind
        if kind is None and not self.choices:
            kind = float if self.default is None else type(self.default)
        is_default = value == self.default and isinstance(value, bool) == isinstance(self.default, bool)
        if is_default or value in self.choices:
            return
        if self.choices and (kind is None or isinstance(value, str)):
            number = " or an integer" if kind is int else ""
            raise ValueError(f"{name} must be one of {', '.join(map(repr, self.choices))}{number}, got {value!r}")
        if kind in (int, float):
            _check_number(name, value, integer=kind is int, minimum=self.minimum)
        elif kind is not None and not isinstance(value, kind):
            expected = {bool: "true or false", str: "text", Sequence: "a list"}.get(kind, "a mapping")
            raise TypeError(f"{name} must be {expected}, got {value!r}")


_IMPRESSION_OPTIONS = {
    "images_per_class": Option(None, minimum=1, kind=int),
    "num_batches": Option(None, minimum=1, kind=int),
    "init": Option("mean", choices=("mean", "noise")),
    "draw": Option(None, choices=("balanced", "uniform")),
    "eight_bit": Option(None, kind=bool),
    "preset": Option("default", choices=("default", "released")),
    "iterations": Option(None, minimum=1, kind=int),
    "learning_rate": Option(None, minimum=0),
    "batch_size": Option(None, minimum=1, kind=int),
    "jitter": Option(None, minimum=0, kind=int),
    "flip": Option(None, kind=bool),
    "cross_entropy": Option(None, minimum=0),
    "tv_l1": Option(None, minimum=0),
    "tv_l2": Option(None, minimum=0),
    "l2": Option(None, minimum=0),
    "statistics": Option(None, minimum=0),
    "first_layer_weight": Option(None, minimum=0),
    "pixel_range": Option(None, kind=Sequence),
    "patience": Option(None, minimum=1, kind=int),
    "seed": Option(0),
}


@dataclass(frozen=True)
class StrategyInfo:
    """What there is to know about a strategy before building it.

    Attributes:
        name: its name.
        summary: what it does, in one line.
        reference: where it was introduced.
        options: its options, besides ``lr``, ``lr_milestones``, ``lr_gamma``, ``optimizer`` and the options of the
            optimizer.
        template: the Avalanche strategy, ``"module:attribute"``; it takes the options if there is no plugin.
        plugin: the plugin that makes the method, if it is one; it takes the options, but for those that are None, which
            it has defaults for.
        prefix: what the names of options have before those of the plugin's arguments, so that they differ from those of
            the optimizer (``eps``).
        mapping: the argument of a template that makes the plugin itself and takes those options in it that it has no
            arguments for.
        optimizer: the default optimizer.
        prunes: whether it chooses the samples to train on, which only one of several joined may do.
        parts: the strategies that this one joins; empty for one that stands alone.
    """

    name: str
    summary: str
    reference: str
    options: Mapping[str, Option] = field(default_factory=dict)
    template: str = _TEMPLATE
    plugin: str | None = None
    prefix: str = ""
    mapping: str = ""
    optimizer: str = _OPTIMIZER
    prunes: bool = False
    parts: tuple[StrategyInfo, ...] = ()

    def __str__(self) -> str:
        options = ", ".join(f"{name}={option.default!r}" for name, option in self.options.items())
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
            template="clpack.strategies.templates:Cumulative",
        ),
        StrategyInfo(
            "Replay",
            "mixes in samples from a buffer",
            "A. Chaudhry et al., On Tiny Episodic Memories in Continual Learning, 2019, arXiv:1902.10486",
            {
                "mem_size": Option(200, minimum=1),
                "batch_size_mem": Option(None, minimum=1),
                "policy": Option("experience_balanced", choices=("experience_balanced", "class_balanced", "reservoir")),
            },
            plugin="clpack.strategies.baselines:replay",
        ),
        StrategyInfo(
            "EWC",
            "keeps weights near those that mattered to earlier experiences",
            "J. Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS 2017, arXiv:1612.00796",
            {
                "ewc_lambda": Option(1.0, minimum=0),
                "mode": Option("separate", choices=("separate", "online")),
                "decay_factor": Option(None, minimum=0),
            },
            plugin="avalanche.training.plugins:EWCPlugin",
        ),
        StrategyInfo(
            "AGEM",
            "projects gradients so that they do not disagree with those on stored samples",
            "A. Chaudhry et al., Efficient Lifelong Learning with A-GEM, ICLR 2019, arXiv:1812.00420",
            {"patterns_per_experience": Option(20, minimum=1), "sample_size": Option(64, minimum=1)},
            plugin="clpack.strategies.baselines:AGEMPlugin",
        ),
        StrategyInfo(
            "iCaRL",
            "stores exemplars of each class, classifies by their nearest mean, and distills the previous model",
            "S. Rebuffi et al., iCaRL: Incremental Classifier and Representation Learning, CVPR 2017, arXiv:1611.07725",
            {"mem_size": Option(200, minimum=1), "flip": Option(True)},
            template="clpack.strategies.icarl:ICaRL",
        ),
        StrategyInfo(
            "LwF",
            "distills the previous model on the new data, without storing any",
            "Z. Li, D. Hoiem, Learning without Forgetting, ECCV 2016, arXiv:1606.09282",
            {"alpha": Option(1.0, minimum=0), "temperature": Option(2.0, minimum=0)},
            plugin="avalanche.training.plugins:LwFPlugin",
        ),
        StrategyInfo(
            "TAG",
            "an optimizer that weighs its steps by the agreement with earlier tasks",
            _TAG,
            optimizer="TAG-RMSprop",
        ),
        StrategyInfo(
            "StableSGD",
            "lowers the learning rate from experience to experience; for networks with dropout",
            "S. Mirzadeh et al., Understanding the Role of Training Regimes in Continual Learning, NeurIPS 2020, "
            f"arXiv:2006.06958; as in {_TAG}",
            {"gamma": Option(0.9, minimum=0), "min_lr": Option(5e-5, minimum=0)},
            plugin="clpack.strategies.stable_sgd:StableSGDPlugin",
        ),
        StrategyInfo(
            "RunningEWC",
            "EWC with one anchor and one running Fisher matrix, which is estimated from a batch after each experience",
            f"J. Kirkpatrick et al., PNAS 2017, arXiv:1612.00796; as in {_TAG}",
            {
                "ewc_lambda": Option(1.0, minimum=0),
                "fisher_samples": Option(200, minimum=1),
                "max_norm": Option(100.0, minimum=0),
                "seed": Option(0),
            },
            plugin="clpack.strategies.tag_baselines:RunningEWCPlugin",
        ),
        StrategyInfo(
            "RingAGEM",
            "A-GEM with a memory of the last samples of each class",
            f"A. Chaudhry et al., Efficient Lifelong Learning with A-GEM, ICLR 2019, arXiv:1812.00420; as in {_TAG}",
            {"examples_per_class": Option(1, minimum=1), "seed": Option(0)},
            plugin="clpack.strategies.tag_baselines:RingAGEMPlugin",
        ),
        StrategyInfo(
            "ReservoirER",
            "adds the loss on samples of a reservoir that is filled while training",
            "R. Aljundi et al., Online Continual Learning with Maximally Interfered Retrieval, NeurIPS 2019, "
            f"arXiv:1908.04742; as in {_TAG}",
            {"mem_size": Option(200, minimum=1), "seed": Option(0)},
            plugin="clpack.strategies.tag_baselines:ReservoirERPlugin",
        ),
        StrategyInfo(
            "Trace",
            "fine-tuning that records loss, correctness and margin of every sample at every presentation",
            "M. Toneva et al., An Empirical Study of Example Forgetting during Deep Neural Network Learning, "
            "ICLR 2019, arXiv:1812.05159",
            {"replayed": Option(False)},
            plugin="clpack.strategies.tracing:TracePlugin",
        ),
        StrategyInfo(
            "Pruning",
            "scores the samples of each experience, removes some, and trains on the rest",
            _EPOCHLOSS,
            {
                "score": Option("epoch_loss"),
                "score_options": Option(None, kind=Mapping),
                "remove_fraction": Option(None, minimum=0),
                "remove_count": Option(None, minimum=0, kind=int),
                "skip_count": Option(0, minimum=0),
                "remove": Option(None, choices=("highest", "lowest")),
                "scoring_epochs": Option(10, minimum=0),
                "reset": Option(True),
                "scores": Option(None, kind=Mapping),
                "class_cap": Option(None, minimum=0, choices=("balanced",), kind=int),
                "min_per_class": Option(None, minimum=0, kind=int),
                "tie_break": Option("index", choices=("index", "random")),
                "buffer_source": Option("pruned", choices=("pruned", "full")),
                "seed": Option(0),
            },
            plugin="clpack.strategies.pruning:PruningPlugin",
            prunes=True,
        ),
        StrategyInfo(
            "InfoBatch",
            "skips a random part of the samples with low loss in each epoch, and weighs up the rest of them",
            "Z. Qin et al., InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning, ICLR 2024, "
            "arXiv:2303.04947",
            {
                "prune_probability": Option(0.5, minimum=0),
                "delta": Option(0.875, minimum=0),
                "weight": Option("exact", choices=("exact", "nominal")),
                "seed": Option(0),
            },
            plugin="clpack.strategies.infobatch:InfoBatchPlugin",
            prunes=True,
        ),
        StrategyInfo(
            "Subnetworks",
            "gives every task a subnetwork of its own, which later tasks use but do not change",
            f"A. Mallya, S. Lazebnik, PackNet, CVPR 2018, arXiv:1711.05769; as in {_EPOCHLOSS}",
            {
                "prune_fraction": Option(0.65, minimum=0),
                "finetune_epochs": Option(150, minimum=0),
                "bn": Option("shared", choices=("shared", "per_task")),
            },
            plugin="clpack.strategies.subnetworks:SubnetworkPlugin",
        ),
        StrategyInfo(
            "Adversarial",
            "trains on attacked or corrupted images instead of clean ones",
            "A. Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018, "
            f"arXiv:1706.06083; as in {_EPOCHLOSS}",
            {
                "attack": Option("pgd"),
                "attack_eps": Option(None, minimum=0),
                "attack_step_size": Option(None, minimum=0),
                "attack_steps": Option(None, minimum=0, kind=int),
                "attack_random_start": Option(None, kind=bool),
                "attack_severity": Option(None, minimum=1, kind=int),
                "attack_channels": Option(None, choices=("HSV", "S")),
                "attack_center": Option(None, choices=("authors", "image")),
                "seed": Option(0),
            },
            plugin="clpack.strategies.adversarial:AdversarialTrainingPlugin",
            prefix="attack_",
        ),
        StrategyInfo(
            "Plateau",
            "lowers the learning rate when the validation accuracy no longer rises, stops, and keeps the best weights",
            _EPOCHLOSS,
            {
                "stream_name": Option("valid"),
                "factor": Option(0.1, minimum=0),
                "min_lr": Option(1e-4, minimum=0),
                "patience": Option(20, minimum=1),
                "interval": Option(5, minimum=1),
                "seed": Option(0),
            },
            plugin="clpack.strategies.plateau:PlateauPlugin",
        ),
        StrategyInfo(
            "CondensedReplay",
            "keeps condensed images of each experience instead of samples, and trains on them alone or as replay",
            "E. Yang et al., An Efficient Dataset Condensation Plugin and Its Application to Continual Learning, "
            "NeurIPS 2023",
            {
                "method": Option("dm", choices=("dc", "dsa", "dm", "random", "herding")),
                "rank": Option(2, minimum=0),
                "memory_bytes": Option(None, minimum=1, kind=int),
                "images_per_class": Option(None, minimum=1, kind=int),
                "precision": Option("float32", choices=("float32", "float16")),
                "condensed": Option(None, kind=object),
                "memory_only": Option(True),
                "batch_size_mem": Option(None, minimum=1, kind=int),
                "augmentation": Option(None, kind=str),
                "augmentation_family": Option("dsa", choices=("dsa", "dc")),
                "network": Option("ConvNet"),
                "mean": Option(None, kind=Sequence),
                "std": Option(None, kind=Sequence),
                "iterations": Option(None, minimum=1, kind=int),
                "lr_img": Option(None, minimum=0),
                "batch_real": Option(None, minimum=1, kind=int),
                "init": Option(None, choices=("noise", "real", "svd")),
                "matching_augmentation": Option(None, kind=str),
                "network_reuse": Option(None, minimum=1, kind=int),
                "seed": Option(0),
            },
            plugin="clpack.strategies.condensation:CondensedReplayPlugin",
        ),
        StrategyInfo(
            "ClassImpressions",
            "replays images that the network itself is inverted into, without storing any",
            "S. Ayromlou et al., Class Impression for Data-free Incremental Learning, MICCAI 2022, arXiv:2207.00005; "
            "from noise: H. Yin et al., DeepInversion, CVPR 2020, arXiv:1912.08795",
            {**_IMPRESSION_OPTIONS, "synthetic_fraction": Option(None, minimum=0)},
            plugin="clpack.strategies.impressions:ClassImpressionPlugin",
        ),
        StrategyInfo(
            "CCSI",
            "learns new classes beside impressions of the old ones, with a cosine head and losses against forgetting",
            "S. Ayromlou et al., CCSI: Continual Class-Specific Impression for Data-free Class Incremental Learning, "
            "arXiv:2406.05631",
            {
                **_IMPRESSION_OPTIONS,
                "synthetic_fraction": Option(0.66, minimum=0),
                "margin": Option(0.3, minimum=0),
                "num_negatives": Option(1, minimum=1),
                "margin_weight": Option(1.0, minimum=0),
                "less_forget": Option(5.0, minimum=0),
                "adapt_less_forget": Option(True),
                "idc_weight": Option(1.0, minimum=0),
                "rho": Option(0.9, minimum=0),
                "temperature": Option(1.0, minimum=0),
                "idc_target": Option(None, kind=str),
                "target_updates_statistics": Option(None, kind=bool),
                "selection": Option(None, kind=str),
                "validation_fraction": Option(0.1, minimum=0),
                "plateau_mode": Option(None, choices=("max", "min")),
                "cn_momentum": Option(None, minimum=0),
            },
            template="clpack.strategies.ccsi:CCSI",
            plugin="clpack.strategies.impressions:ClassImpressionPlugin",
            mapping="impressions",
        ),
    )
}


def names() -> list[str]:
    """Returns the names of all strategies, without those that join several."""
    return list(_STRATEGIES)


def describe(name: str) -> StrategyInfo:
    """Returns the description of a strategy, or of several joined with ``+``; ``print`` shows it in full.

    Raises:
        ValueError: if there is no strategy of this name, or those joined do not go together: one comes twice, two have
            an option of the same name other than ``seed``, or two have a template, an optimizer or a choice of samples
            of their own.
    """
    parts = []
    for part in name.split("+"):
        if part not in _STRATEGIES:
            raise ValueError(unknown_name("strategy", part, _STRATEGIES))
        parts.append(_STRATEGIES[part])
    return parts[0] if len(parts) == 1 else _join(name, tuple(parts))


def has_option(name: str, option: str) -> bool:
    """Returns whether an option may be given to a strategy: False for one that only others have.

    Raises:
        ValueError: as :func:`describe`.
    """
    return option in describe(name).options or not any(option in info.options for info in _STRATEGIES.values())


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
    _check_number("lr", lr)
    if not lr > 0.0:
        raise ValueError(f"lr must be positive, got {lr}")
    _check_milestones(lr_milestones)
    _check_number("lr_gamma", lr_gamma, minimum=0)
    for key, count in (
        ("train_mb_size", train_mb_size),
        ("train_epochs", train_epochs),
        ("eval_mb_size", eval_mb_size),
    ):
        if count is not None:
            _check_number(key, count, integer=True, minimum=1)
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
        claims += ["a template of its own"] * (part.template != _TEMPLATE)
        claims += ["an optimizer of its own"] * (part.optimizer != _OPTIMIZER)
        claims += ["a choice of samples of its own"] * part.prunes
        for claim in claims:
            if claim in owners:
                raise ValueError(f"{name}: both {owners[claim]} and {part.name} have {claim}; take one of them")
            owners[claim] = part.name
    return StrategyInfo(
        name,
        "; ".join(part.summary for part in parts),
        "; ".join(part.reference for part in parts if part.reference != "-"),
        {option: value for part in parts for option, value in part.options.items()},
        template=next((part.template for part in parts if part.template != _TEMPLATE), _TEMPLATE),
        optimizer=next((part.optimizer for part in parts if part.optimizer != _OPTIMIZER), _OPTIMIZER),
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
            named = inspect.signature(_load(part.template)).parameters
            arguments |= {key: value for key, value in given.items() if key in named}
            given = {key: value for key, value in given.items() if key not in named}
            arguments[part.mapping] = given
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
        _check_number("each of lr_milestones", epoch, integer=True, minimum=1)


def _check_number(name: str, value: Any, *, integer: bool = False, minimum: float | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral if integer else numbers.Real):
        raise TypeError(f"{name} must be {'an integer' if integer else 'a number'}, got {value!r}")
    if not math.isfinite(value) or (minimum is not None and value < minimum):
        raise ValueError(f"{name} must be {'finite' if minimum is None else f'at least {minimum}'}, got {value}")


def _load(path: str) -> Any:
    module, attribute = path.split(":")
    return getattr(import_module(module), attribute)
