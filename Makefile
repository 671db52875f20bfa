# SPDX-License-Identifier: Apache-2.0
# make demo   three machines boot over the network from one image that they hand to each other
# make test   everything CI runs
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest

.PHONY: help demo bench-swarm bench-sim test setup-demo setup-test setup-bench lint unit system qemu format lock clean bench-tracker bench-background bench-differences

help:
	@echo "make demo    boot three real (QEMU) machines from one image; cleans up after itself"
	@echo "make bench-swarm    measure the swarm, into docs/benchmarks (about an hour; ARGS=--help shows its parts)"
	@echo "make test    lint, types, layers, unit, namespace and QEMU tests"
	@echo "make lint | unit | system | qemu    one part of the tests"
	@echo "make format  put the sources into the one layout"
	@echo "make lock    resolve the pinned requirements again"
	@echo "make bench-sim    compute swarms of up to 100,000 nodes, into docs/benchmarks (some five minutes)"
	@echo "make bench-tracker  what the tracker can do, into docs/benchmarks"
	@echo "make bench-background  what a running node loses while it gives, into docs/benchmarks (ARGS=--help)"
	@echo "make bench-differences  what an update fetches, fills and stores, into docs/benchmarks (ARGS=--help)"
	@echo "make clean   remove the virtual environment and the demo's cache"

setup-demo:
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh lab/setup.sh demo

setup-test:
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh lab/setup.sh test

demo: setup-demo
	@$(BIN)/python -m lab.demo

setup-bench:
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh lab/setup.sh bench

bench-swarm: setup-bench
	@$(BIN)/python -m lab.swarm $(ARGS)

bench-sim: setup-bench
	@$(BIN)/python -m lab.sim $(ARGS)

test: setup-test
	$(MAKE) lint
	$(MAKE) unit
	$(MAKE) system
	$(MAKE) qemu

lint: setup-test
	$(BIN)/ruff check src lab tests
	$(BIN)/ruff format --check src lab tests
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: setup-test
	$(PYTEST) -m "not system and not qemu"

system: setup-test
	$(PYTEST) -m "system and not qemu"

qemu: setup-test
	$(PYTEST) -m qemu

bench-tracker: setup-test
	@$(BIN)/python -m lab.tracker --into docs/benchmarks

bench-background: setup-test
	@$(BIN)/python -m lab.background --into docs/benchmarks $(ARGS)

bench-differences: setup-test
	@$(BIN)/python -m lab.differences --into docs/benchmarks $(ARGS)

format: setup-test
	$(BIN)/ruff format src lab tests
	$(BIN)/ruff check --fix src lab tests

# Needs uv (pip install uv). Hashes are of what the package index serves; no index is named in the result.
lock:
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate -q -o requirements/dev.txt
	uv pip compile pyproject.toml --extra head --extra postgresql --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate -q -o requirements/head.txt

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
