"""The registry of tables: every module below ``experiments/`` that defines ``EXPERIMENT``."""

from __future__ import annotations

import importlib
import pkgutil

import clpack.experiments
from clpack.names import unknown_name

from .config import Experiment

__all__ = ["get", "names"]


def names() -> list[str]:
    """Returns the names of all tables, such as ``"tag/digits"``, sorted."""
    return sorted(_tables())


def get(name: str) -> Experiment:
    """Returns the table called ``name``.

    Raises:
        ValueError: if there is none; the message lists all and names the closest.
    """
    tables = _tables()
    if name not in tables:
        raise ValueError(unknown_name("table", name, tables))
    return tables[name]


def _tables() -> dict[str, Experiment]:
    tables: dict[str, Experiment] = {}
    for package in pkgutil.iter_modules(clpack.experiments.__path__, "clpack.experiments."):
        if not package.ispkg or package.name == "clpack.experiments.bench":  # benches import torch and Avalanche
            continue
        for module in pkgutil.iter_modules(importlib.import_module(package.name).__path__, f"{package.name}."):
            experiment = getattr(importlib.import_module(module.name), "EXPERIMENT", None)
            if isinstance(experiment, Experiment):
                tables[experiment.name] = experiment
    return tables
