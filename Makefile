# Common commands. Targets that run Python first create the virtual environment if needed.

VENV ?= .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.installed
STARTED := $(VENV)/.installing
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint check clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## create the virtual environment .venv

demo: $(READY) ## train a small model on two CPU cores in minutes, then generate text
	$(PY) -m tinygpt.train experiment=demo
	$(PY) -m tinygpt.sample run=latest prompt="Once upon a time" temperature=0.6 num_samples=2

test: $(READY) ## run the tests
	$(PY) -m pytest -n 3 --dist worksteal

test-all: $(READY) ## run all tests, including slow ones
	$(PY) -m pytest -n 2 --dist worksteal -m ""

lint: $(READY) ## check style and types
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

check: lint test ## every check that a commit must pass

clean: ## remove .venv and caches; keeps runs in outputs/
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache
	find tinygpt tests -name __pycache__ -prune -exec rm -rf {} +

# The stamp file appears when the install succeeds, with the time at which it started. So an edit
# during the install triggers a new one, and an interrupted install starts over.
$(READY): pyproject.toml constraints.txt
	@$(or $(PYTHON),false) -c '$(SUPPORTED)' || { \
		echo 'tinygpt needs Python 3.11, 3.12 or 3.13; type make PYTHON=/path/to/python3.12' >&2; \
		exit 1; }
	@echo 'installing into $(VENV): about a minute, and once'
	@$(PYTHON) -m venv $(if $(wildcard $(STARTED)),--clear) $(VENV)
	@touch $(STARTED)
	@$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@mv $(STARTED) $@
