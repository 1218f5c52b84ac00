"""What the strategies are called, and what options they have: the entries of the registry, as plain values."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["OPTIMIZER", "STRATEGIES", "TEMPLATE", "Option", "StrategyInfo", "check_number"]

TEMPLATE = "clpack.strategies.templates:Template"
OPTIMIZER = "SGD"
_TAG = "P. Malviya et al., TAG: Task-based Accumulated Gradients for Lifelong learning, CoLLAs 2022, arXiv:2105.05155"
_EPOCHLOSS = (
    "J. Andle et al., Minimizing Data, Maximizing Performance: Generative Examples for Continual Task Learning "
    "(EpochLoss)"
)


def check_number(
    name: str, value: Any, *, integer: bool = False, minimum: float | None = None, interval: str | None = None
) -> None:
    """Raises unless ``value`` is a finite number, or an integer, of at least ``minimum`` and in ``interval``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral if integer else numbers.Real):
        raise TypeError(f"{name} must be {'an integer' if integer else 'a number'}, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    if minimum is not None and value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    if interval is not None and not _is_in(interval, value):
        raise ValueError(f"{name} must be in {interval}, got {value}")


def _is_in(interval: str, value: Any) -> bool:
    low, high = map(float, interval[1:-1].split(","))
    return low < value < high or (value == low and interval[0] == "[") or (value == high and interval[-1] == "]")


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
        interval: the interval that a number must be in, such as ``"(0, 1]"``; None if there is none.
        by_experience: whether it may be a list of such numbers, one for each experience after the first.
    """

    default: Any
    minimum: float | None = None
    choices: tuple[str, ...] = ()
    kind: type | None = None
    interval: str | None = None
    by_experience: bool = False

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
            listed = self.by_experience and isinstance(value, Sequence) and not isinstance(value, str)
            for number in value if listed else (value,):
                given = f"each of {name}" if listed else name
                check_number(given, number, integer=kind is int, minimum=self.minimum, interval=self.interval)
        elif kind is not None and not isinstance(value, kind):
            expected = {bool: "true or false", str: "text", Sequence: "a list"}.get(kind, "a mapping")
            raise TypeError(f"{name} must be {expected}, got {value!r}")


_IMPRESSION_OPTIONS = {
    "images_per_class": Option(None, minimum=1, kind=int),
    "num_batches": Option(None, minimum=1, kind=int, by_experience=True),
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
    "tv_l2": Option(None, minimum=0, by_experience=True),
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
        excludes: names of strategies that it cannot be joined with.
        parts: the strategies that this one joins; empty for one that stands alone.
    """

    name: str
    summary: str
    reference: str
    options: Mapping[str, Option] = field(default_factory=dict)
    template: str = TEMPLATE
    plugin: str | None = None
    prefix: str = ""
    mapping: str = ""
    optimizer: str = OPTIMIZER
    prunes: bool = False
    excludes: tuple[str, ...] = ()
    parts: tuple[StrategyInfo, ...] = ()

    def __str__(self) -> str:
        options = ", ".join(f"{name}={option.default!r}" for name, option in self.options.items())
        return (
            f"{self.name}: {self.summary}\n"
            f"  options    {options or '-'}\n"
            f"  optimizer  {self.optimizer} by default\n"
            f"  reference  {self.reference}"
        )


STRATEGIES = {
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
            {"gamma": Option(0.9, interval="(0, 1]"), "min_lr": Option(5e-5, minimum=0)},
            plugin="clpack.strategies.stable_sgd:StableSGDPlugin",
        ),
        StrategyInfo(
            "RunningEWC",
            "EWC with one anchor and one running Fisher matrix, which is estimated from a batch after each experience",
            f"J. Kirkpatrick et al., PNAS 2017, arXiv:1612.00796; as in {_TAG}",
            {
                "ewc_lambda": Option(1.0, minimum=0),
                "fisher_samples": Option(200, minimum=1),
                "max_norm": Option(100.0, interval="(0, inf)"),
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
                "pretrained_path": Option(None, kind=str),
            },
            plugin="clpack.strategies.subnetworks:SubnetworkPlugin",
        ),
        StrategyInfo(
            "Pretraining",
            "training that keeps the weights in a file, for other runs to start from",
            "-",
            {},
            plugin="clpack.strategies.pretraining:PretrainingPlugin",
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
                "method": Option("dm", choices=("dc", "dsa", "dm", "mtt", "random", "herding")),
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
                "syn_steps": Option(None, minimum=1, kind=int),
                "expert_epochs": Option(None, minimum=1, kind=int),
                "max_start_epoch": Option(None, minimum=1, kind=int),
                "batch_syn": Option(None, minimum=1, kind=int),
                "lr_teacher": Option(None, minimum=0),
                "lr_lr": Option(None, minimum=0),
                "num_experts": Option(100, minimum=1),
                "expert_lr": Option(0.01, minimum=0),
                "expert_batch_size": Option(256, minimum=1),
                "seed": Option(0),
            },
            plugin="clpack.strategies.condensation:CondensedReplayPlugin",
        ),
        StrategyInfo(
            "ClassImpressions",
            "replays images that the network itself is inverted into, without storing any",
            "S. Ayromlou et al., Class Impression for Data-free Incremental Learning, MICCAI 2022, arXiv:2207.00005; "
            "from noise: H. Yin et al., DeepInversion, CVPR 2020, arXiv:1912.08795",
            {**_IMPRESSION_OPTIONS, "synthetic_fraction": Option(None, interval="(0, 1)", by_experience=True)},
            plugin="clpack.strategies.impressions:ClassImpressionPlugin",
        ),
        StrategyInfo(
            "CCSI",
            "learns new classes beside impressions of the old ones, with a cosine head and losses against forgetting",
            "S. Ayromlou et al., CCSI: Continual Class-Specific Impression for Data-free Class Incremental Learning, "
            "arXiv:2406.05631",
            {
                **_IMPRESSION_OPTIONS,
                "synthetic_fraction": Option(0.66, interval="(0, 1)", by_experience=True),
                "cosine": Option(True),
                "margin": Option(0.3, minimum=0),
                "num_negatives": Option(1, minimum=1),
                "margin_weight": Option(1.0, minimum=0),
                "less_forget": Option(5.0, minimum=0),
                "adapt_less_forget": Option(True),
                "idc_weight": Option(1.0, minimum=0),
                "rho": Option(0.9, interval="[0, 1]", by_experience=True),
                "temperature": Option(1.0, interval="(0, inf)", by_experience=True),
                "idc_target": Option(None, kind=str),
                "target_updates_statistics": Option(None, kind=bool),
                "selection": Option(None, kind=str),
                "validation_fraction": Option(0.1, interval="(0, 1)"),
                "plateau_mode": Option(None, choices=("max", "min")),
                "cn_momentum": Option(None, interval="(0, 1]"),
            },
            template="clpack.strategies.ccsi:CCSI",
            plugin="clpack.strategies.impressions:ClassImpressionPlugin",
            mapping="impressions",
            excludes=("RunningEWC", "RingAGEM", "ReservoirER"),  # they want the loss on batches of their own
        ),
    )
}
