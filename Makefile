# `make demo` and `make test` do everything on a fresh machine with Python 3.11 or later and pip.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := .autotune/demo
# Many tests wait for processes that they started; more than two at a time make measurements disturb each other.
TEST_PROCESSES ?= 2
STAMP := $(VENV)/.installed

.PHONY: help setup demo test check format clean

help:  ## show these lines
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

setup: $(STAMP)  ## make .venv with the package and everything its tests need

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24" 2>/dev/null || true
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup  ## train a small network on real digits, search all six knobs on both CPU engines, draw the front
	@mkdir -p $(DEMO) && cp examples/digits/study.yaml $(DEMO)/
	@test -e $(DEMO)/model.onnx || $(BIN)/python -W ignore examples/digits/make_model.py $(DEMO)
	$(BIN)/autotune start $(DEMO)/study.yaml
	$(BIN)/autotune best $(DEMO)/study.yaml
	@$(BIN)/autotune report $(DEMO)/study.yaml --out $(DEMO)/front.png

test: setup  ## run the tests, two files at a time
	$(BIN)/python -m pytest -q --numprocesses $(TEST_PROCESSES) --dist loadfile

check: setup  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## format the sources
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean:  ## remove what make and the tests left
	rm -rf $(VENV) .autotune build dist .pytest_cache .mypy_cache .ruff_cache
