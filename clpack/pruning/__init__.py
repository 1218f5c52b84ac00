"""Data pruning: which training samples matter, and which may go.

:class:`Trace` records training, the functions of ``scores``, ``gradients`` and ``caper`` rate the samples, those of
``selection`` choose, and :class:`InfoBatch` chooses anew in every epoch. Nothing here knows of Avalanche.
"""

from .caper import caper
from .dynamic import InfoBatch
from .gradients import gradient_loss, grand
from .scores import (
    SCORES,
    Score,
    aggregate_runs,
    area_under_margin,
    el2n,
    epoch_accuracy,
    epoch_loss,
    first_learned,
    forgetting_events,
    get_score,
    max_loss_increase,
    presentations_needed,
    random_scores,
)
from .selection import (
    ClassCounts,
    Selection,
    class_median_distance,
    coverage_centric,
    keep_slice,
    moderate,
    random_sets,
    removal_order,
    select,
)
from .trace import OnlineTrace, Trace

__all__ = [
    "SCORES",
    "ClassCounts",
    "InfoBatch",
    "OnlineTrace",
    "Score",
    "Selection",
    "Trace",
    "aggregate_runs",
    "area_under_margin",
    "caper",
    "class_median_distance",
    "coverage_centric",
    "el2n",
    "epoch_accuracy",
    "epoch_loss",
    "first_learned",
    "forgetting_events",
    "get_score",
    "gradient_loss",
    "grand",
    "keep_slice",
    "max_loss_increase",
    "moderate",
    "presentations_needed",
    "random_scores",
    "random_sets",
    "removal_order",
    "select",
]
