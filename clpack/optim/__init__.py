"""Optimizers for continual learning, and rules for the learning rate."""

from .plateau import Plateau, multistep_milestones
from .tag import TAG

__all__ = ["TAG", "Plateau", "multistep_milestones"]
