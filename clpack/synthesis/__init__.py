"""Class impressions: a frozen classifier inverted into images of its classes, for learning without past data.

``statistics`` gathers what is kept of the data, ``impressions`` synthesizes images from it, and ``losses`` are those
with which the next classes are learned. Nothing here knows of Avalanche.
"""

from .impressions import (
    IMAGENET_RANGE,
    ImpressionBatch,
    SynthesisOptions,
    impression_targets,
    synthesis_learning_rate,
    synthesize_impressions,
)
from .losses import (
    balanced_class_weights,
    cosine_cross_entropy,
    intra_domain_loss,
    less_forget_loss,
    less_forget_weight,
    margin_ranking_loss,
    sampling_weights,
)
from .priors import l2_prior, total_variation
from .statistics import BatchMoments, GroupStatistics, StatisticsLoss, class_means, class_statistics

__all__ = [
    "IMAGENET_RANGE",
    "BatchMoments",
    "GroupStatistics",
    "ImpressionBatch",
    "StatisticsLoss",
    "SynthesisOptions",
    "balanced_class_weights",
    "class_means",
    "class_statistics",
    "cosine_cross_entropy",
    "impression_targets",
    "intra_domain_loss",
    "l2_prior",
    "less_forget_loss",
    "less_forget_weight",
    "margin_ranking_loss",
    "sampling_weights",
    "synthesis_learning_rate",
    "synthesize_impressions",
    "total_variation",
]
