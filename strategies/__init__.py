"""Avalanche plugins, strategies, metrics, loaders and checkpoints.

Everything listed in ``__all__`` is imported when it is first used: Avalanche alone takes several seconds.
``names()``, ``describe(name)`` and ``get(name, ...)`` reach the strategies by name.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .registry import StrategyInfo, check, describe, get, names

if TYPE_CHECKING:
    from .adversarial import AdversarialTrainingPlugin, Attack, AttackedAccuracyMatrix, robust_accuracy_metrics
    from .baselines import AGEMPlugin
    from .ccsi import CCSI
    from .checkpoint import CheckpointPlugin, maybe_load_checkpoint, save_checkpoint
    from .condensation import CondensedReplay, CondensedReplayPlugin
    from .condensed_memory import CondensedBuffer, CondensedMemoryMetric
    from .data import (
        SAMPLE_ID,
        add_samples,
        attach_sample_ids,
        batch_field,
        dataset_field,
        decode_sample_ids,
        encode_sample_ids,
        keep_samples,
        replace_samples,
        synthetic_dataset,
    )
    from .epochloss import EpochLoss
    from .evaluation import AccuracyMatrix, ConfusionMatrix, PhaseCosts, average_accuracy_metrics, phase_cost_metrics
    from .heads import IncrementalCosineClassifier, MultiHeadModel, TaskMaskedModel, with_head
    from .icarl import ICaRL
    from .impressions import ClassImpressionPlugin
    from .infobatch import InfoBatchPlugin
    from .loader import ExperienceLoader, InMemoryLoaderPlugin, RandomStreamsPlugin
    from .logging import LogFile, MetricsCSVLogger
    from .plateau import PlateauPlugin
    from .pretraining import PretrainingPlugin
    from .pruning import PruningPlugin, is_scoring
    from .stable_sgd import StableSGD, StableSGDPlugin
    from .subnetworks import SubnetworkPlugin
    from .tag import TAG, TAGPlugin
    from .tag_baselines import ReservoirERPlugin, RingAGEMPlugin, RunningEWCPlugin
    from .tracing import TracePlugin

_MODULES = {
    "AGEMPlugin": "baselines",
    "AccuracyMatrix": "evaluation",
    "AdversarialTrainingPlugin": "adversarial",
    "Attack": "adversarial",
    "AttackedAccuracyMatrix": "adversarial",
    "CCSI": "ccsi",
    "CheckpointPlugin": "checkpoint",
    "ClassImpressionPlugin": "impressions",
    "CondensedBuffer": "condensed_memory",
    "CondensedMemoryMetric": "condensed_memory",
    "CondensedReplay": "condensation",
    "CondensedReplayPlugin": "condensation",
    "ConfusionMatrix": "evaluation",
    "EpochLoss": "epochloss",
    "ExperienceLoader": "loader",
    "ICaRL": "icarl",
    "InMemoryLoaderPlugin": "loader",
    "IncrementalCosineClassifier": "heads",
    "InfoBatchPlugin": "infobatch",
    "LogFile": "logging",
    "MetricsCSVLogger": "logging",
    "MultiHeadModel": "heads",
    "PhaseCosts": "evaluation",
    "PlateauPlugin": "plateau",
    "PretrainingPlugin": "pretraining",
    "PruningPlugin": "pruning",
    "RandomStreamsPlugin": "loader",
    "ReservoirERPlugin": "tag_baselines",
    "RingAGEMPlugin": "tag_baselines",
    "RunningEWCPlugin": "tag_baselines",
    "SAMPLE_ID": "data",
    "StableSGD": "stable_sgd",
    "StableSGDPlugin": "stable_sgd",
    "SubnetworkPlugin": "subnetworks",
    "TAG": "tag",
    "TAGPlugin": "tag",
    "TaskMaskedModel": "heads",
    "TracePlugin": "tracing",
    "add_samples": "data",
    "attach_sample_ids": "data",
    "average_accuracy_metrics": "evaluation",
    "batch_field": "data",
    "dataset_field": "data",
    "decode_sample_ids": "data",
    "encode_sample_ids": "data",
    "is_scoring": "pruning",
    "keep_samples": "data",
    "maybe_load_checkpoint": "checkpoint",
    "phase_cost_metrics": "evaluation",
    "replace_samples": "data",
    "robust_accuracy_metrics": "adversarial",
    "save_checkpoint": "checkpoint",
    "synthetic_dataset": "data",
    "with_head": "heads",
}

__all__ = [
    "CCSI",
    "SAMPLE_ID",
    "TAG",
    "AGEMPlugin",
    "AccuracyMatrix",
    "AdversarialTrainingPlugin",
    "Attack",
    "AttackedAccuracyMatrix",
    "CheckpointPlugin",
    "ClassImpressionPlugin",
    "CondensedBuffer",
    "CondensedMemoryMetric",
    "CondensedReplay",
    "CondensedReplayPlugin",
    "ConfusionMatrix",
    "EpochLoss",
    "ExperienceLoader",
    "ICaRL",
    "InMemoryLoaderPlugin",
    "IncrementalCosineClassifier",
    "InfoBatchPlugin",
    "LogFile",
    "MetricsCSVLogger",
    "MultiHeadModel",
    "PhaseCosts",
    "PlateauPlugin",
    "PretrainingPlugin",
    "PruningPlugin",
    "RandomStreamsPlugin",
    "ReservoirERPlugin",
    "RingAGEMPlugin",
    "RunningEWCPlugin",
    "StableSGD",
    "StableSGDPlugin",
    "StrategyInfo",
    "SubnetworkPlugin",
    "TAGPlugin",
    "TaskMaskedModel",
    "TracePlugin",
    "add_samples",
    "attach_sample_ids",
    "average_accuracy_metrics",
    "batch_field",
    "check",
    "dataset_field",
    "decode_sample_ids",
    "describe",
    "encode_sample_ids",
    "get",
    "is_scoring",
    "keep_samples",
    "maybe_load_checkpoint",
    "names",
    "phase_cost_metrics",
    "replace_samples",
    "robust_accuracy_metrics",
    "save_checkpoint",
    "synthetic_dataset",
    "with_head",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
