# Everything sets up its own environment in .venv, once, and again when the requirements change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint types bench clean

demo: $(READY)
	$(BIN)/clpack demo

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Types are checked on an installed copy, from outside: there the mapped folders have their import names.
types: $(READY)
	rm -rf build .cache/types
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target .cache/types .
	cd .cache/types && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../mypy \
		--python-executable ../../$(BIN)/python -p clpack

bench: $(READY)
	$(BIN)/python -m clpack.experiments.bench.tag
	$(BIN)/python -m clpack.experiments.bench.loader
	$(BIN)/python -m clpack.experiments.bench.pruning
	$(BIN)/python -m clpack.experiments.bench.adversarial
	$(BIN)/python -m clpack.experiments.bench.genimage
	$(BIN)/python -m clpack.experiments.bench.condensation
	$(BIN)/python -m clpack.experiments.bench.ccsi

clean:
	rm -rf $(VENV) .cache build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache

# uv keeps every downloaded package in one cache for all clones and links from there. Compiling now saves every process
# that imports torch and Avalanche from doing it.
$(READY): setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable ".[dev]"
	touch $@
