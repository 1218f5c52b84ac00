"""Continual-learning streams as Avalanche benchmarks, and their registry."""
