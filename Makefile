# make demo     install, then learning curves of four architectures on real images (about two minutes)
# make check    lint, format, types, import order
# make test     everything that CI runs: check, then the tests
# make bench    all benchmarks, verified and timed; sets up the peers first (6 GB, see benchmarks/README.md)
# make test-gpu make bench-gpu   the tests, and the benchmarks, that need an NVIDIA GPU, in the environment of PYTHON, which has
#               the extras cuda and triton; an error where there is no GPU
# make clean    remove what the above made, the environment included
#
# PYTHON=python3.12 make test    names another interpreter (>= 3.11)

PYTHON ?= python3
BIN := .venv/bin
SHELL := /bin/sh

.PHONY: demo check test bench test-gpu bench-gpu gpu clean
.DEFAULT_GOAL := demo

demo: .venv/installed
	$(BIN)/kernreg demo

check: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: check
	$(BIN)/python -m pytest

bench: .venv/installed
	$(BIN)/python benchmarks/peers/setup.py
	@for script in $(filter-out benchmarks/gpu_%,$(wildcard benchmarks/*.py)); do \
	  echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

test-gpu: gpu
	PYTHONPATH=. $(PYTHON) -m pytest -m gpu

bench-gpu: gpu
	PYTHONPATH=. $(PYTHON) -m kernreg bench --arch fcn --arch vec --arch gap --arch lcn-gap --out benchmarks/results/bench.jsonl
	PYTHONPATH=. $(PYTHON) -m kernreg bench --arch vec --arch gap --kernel nngp --out benchmarks/results/bench.jsonl
	@for script in benchmarks/gpu_*.py; do echo "== $$script"; PYTHONPATH=. $(PYTHON) "$$script" || exit 1; done
	PYTHONPATH=. $(PYTHON) benchmarks/overlap.py --arch vec --n 50000 --repeats 1

gpu:
	@ls /dev/nvidia[0-9]* >/dev/null 2>&1 || { echo "no NVIDIA GPU on this machine" >&2; exit 1; }

clean:
	rm -rf .venv build dist *.egg-info kernreg-demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find kernreg/ kernels cli data tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are newer than pyproject.toml: a second make installs nothing.
.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/installed-test: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ .venv/installed

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "kernreg needs Python >= 3.11; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo not there)." \
	         "Name another one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "could not create .venv (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
