"""Optimizers for continual learning."""
