"""Avalanche plugins, strategies, metrics, loaders and checkpoints."""
