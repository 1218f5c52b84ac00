"""Optimizers for continual learning."""

from .tag import TAG

__all__ = ["TAG"]
