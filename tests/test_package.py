"""The package as a whole: what is shipped, what imports what, and how little an import costs."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

import clpack

ROOT = Path(__file__).resolve().parent.parent
MAPPED = {
    "clpack": "clpack",
    "clpack.benchmarks": "benchmarks",
    "clpack.strategies": "strategies",
    "clpack.experiments": "experiments",
}
ALLOWED = {
    "clpack": {"clpack"},
    "benchmarks": {"clpack", "clpack.benchmarks", "avalanche"},
    "strategies": {"clpack", "clpack.strategies", "avalanche"},
    "experiments": {"clpack", "clpack.benchmarks", "clpack.strategies", "clpack.experiments", "avalanche"},
}


def test_every_package_is_listed():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = set()
    for name, folder in MAPPED.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join((name, *init.parent.relative_to(ROOT / folder).parts)))
    assert listed == found


def imports_of(path):
    """The layers and Avalanche, as far as a file imports them, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "avalanche":
                yield "avalanche"
            elif parts[0] == "clpack":
                yield ".".join(parts[:2]) if ".".join(parts[:2]) in MAPPED else "clpack"


@pytest.mark.parametrize("folder", ALLOWED)
def test_layers_import_downwards_only(folder):
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        assert set(imports_of(path)) <= ALLOWED[folder], path


def test_public_names_exist():
    from clpack import benchmarks, models, optim, pruning, strategies

    for module in (clpack, benchmarks, models, optim, pruning, strategies):
        assert {name for name in module.__all__ if not hasattr(module, name)} == set()
        assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = clpack.missing


def test_importing_costs_nothing():
    code = (
        "import sys, clpack, clpack.benchmarks, clpack.strategies, clpack.experiments.cli;"
        "print(sorted({'torch', 'avalanche', 'matplotlib', 'sklearn', 'ray'} & {*sys.modules}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_algorithms_do_not_need_avalanche():
    code = "import sys, clpack.optim, clpack.models, clpack.pruning, clpack.metrics; print('avalanche' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_version():
    assert clpack.__version__ == (ROOT / "clpack" / "_version.py").read_text().split('"')[-2]
