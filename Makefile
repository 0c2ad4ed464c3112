# The same few commands for people and for CI. They need Python 3.11 or newer and make; everything else goes into .venv.

# Python 3.11 and 3.12 come first: there the Redis server is installed from a wheel.
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python3.13 python3.14 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
ARGS ?=

.PHONY: help demo test test-slow test-light test-recipes test-exporters test-bench chaos lint bench bench-queue bench-peers clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: .venv/.runtime  ## Simulated pictures become measurements on this machine (ARGS="--once 20" to stop by itself)
	$(BIN)/graticule demo $(ARGS)

test: .venv/.dev  ## The everyday tests, under five minutes
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow" --ignore tests/recipes --ignore tests/chaos $(ARGS)

test-slow: .venv/.dev  ## Tests that kill, wait and fill disks
	$(BIN)/pytest -n 2 --dist loadfile -m slow --ignore tests/recipes --ignore tests/chaos --ignore tests/benchmarks $(ARGS)

test-light:  ## Install without extras into a fresh environment: the contract imports alone
	sh tests/light_install.sh "$(PYTHON)"

test-recipes: .venv-torch/.ready  ## Train, evaluate and export a tiny model with PyTorch
	.venv-torch/bin/python -m pytest tests/recipes $(ARGS)

test-exporters: .venv-keras/.ready .venv-torch/.ready  ## Convert, publish and serve networks of TensorFlow and PyTorch
	.venv-keras/bin/python -m pytest tests/exporters/test_tensorflow_sources.py $(ARGS)
	.venv-torch/bin/python -m pytest tests/exporters/test_torch_sources.py $(ARGS)

test-bench: .venv/.dev  ## Every benchmark at its smallest
	$(BIN)/pytest -m slow tests/benchmarks $(ARGS)

chaos: .venv/.dev  ## 10,000 jobs while everything is killed, again and again (about a quarter of an hour)
	$(BIN)/pytest tests/chaos -s --jobs 10000 --outage 30 $(ARGS)

lint: .venv/.dev  ## Style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: .venv/.dev  ## Measure, within a quarter of an hour; nothing else should run (docs/benchmarks.md)
	$(BIN)/python -m benchmarks all $(ARGS)

bench-queue: .venv/.dev  ## Measure queues of up to 100,000 tasks
	$(BIN)/python -m benchmarks queue --most 100000 --out benchmarks-queue.json $(ARGS)

bench-peers: .venv/.bench  ## Measure beside FastAPI, LitServe and a home-grown queue
	$(BIN)/python -m benchmarks peers --out benchmarks-peers.json $(ARGS)

clean:  ## Remove everything that make made
	rm -rf .venv .venv-keras .venv-torch build dist out graticule-demo .pytest_cache .ruff_cache .hypothesis *.egg-info

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "graticule needs Python 3.11 or newer; none was found on PATH."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.runtime: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing graticule into .venv (once; about a minute) ..."
	$(PIP) -e ".[all]"
	@touch $@

.venv/.dev: .venv/.runtime
	$(PIP) -e ".[all,dev]"
	@touch $@

.venv/.bench: .venv/.dev
	$(PIP) -e ".[all,dev,bench]"
	@touch $@

# TensorFlow and PyTorch want different versions of the same packages, so each has an environment of its own.
.venv-keras/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-keras
	.venv-keras/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all,dev,export-keras]"
	@touch $@

.venv-torch/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	.venv-torch/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all,dev,export-torch,train]"
	@touch $@

