# make train: train a graph transformer on a generated graph.   make test: run the tests.
# Either one makes .venv first when it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# A process per core, but no more than memory is likely to hold.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8

.PHONY: train test test-all bench lint clean

train: $(VENV)/ready
	$(BIN)/graphattn train

test: $(VENV)/ready
	$(PYTEST) -m "not slow"

# With two oracles: torch-scatter, which compiles for minutes, and NATTEN, whose CPU path is enough.
test-all: $(VENV)/ready
	$(PIP) --no-build-isolation --constraint constraints.txt torch-scatter
	$(PIP) --no-build-isolation --no-deps natten==0.21.7
	$(PYTEST)

bench: $(VENV)/ready
	$(BIN)/python examples/bench/run.py

lint: $(VENV)/ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info

# torch comes first and pinned: an open range may fetch gigabytes of another build.
$(VENV)/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt torch numpy
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	touch $@
