"""clpack: data-centric continual learning for Avalanche.

Importing this package costs nothing: every sub-package is loaded when it is first used, so that
``import clpack`` never waits for torch or Avalanche. The layers, lowest first:

* ``clpack.optim``, ``clpack.pruning``, ``clpack.attacks``, ``clpack.condensation``, ``clpack.synthesis``,
  ``clpack.models``, ``clpack.metrics``: algorithms in plain PyTorch;
* ``clpack.benchmarks``: continual-learning streams as Avalanche benchmarks, and their registry;
* ``clpack.strategies``: Avalanche plugins, strategies, metrics, loaders and checkpoints;
* ``clpack.experiments``: the tables of the papers, the harness that runs them, the command line.
"""

from importlib import import_module as _import_module
from pathlib import Path as _Path
from types import ModuleType as _ModuleType

from clpack._version import __version__

_here = _Path(__file__).resolve().parent
if not (_here / "benchmarks").is_dir() and (_here.parent / "benchmarks").is_dir():
    __path__.append(str(_here.parent))  # source checkout: sibling folders are sub-packages

_LAZY = (
    "attacks",
    "benchmarks",
    "condensation",
    "experiments",
    "metrics",
    "models",
    "optim",
    "pruning",
    "strategies",
    "synthesis",
)

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> _ModuleType:
    if name in _LAZY:
        return _import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
