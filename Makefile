# Every target may be run in any order and again; each one sets up what it needs.
SHELL := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
PYTEST_ARGS ?=
GPU_PYTHON ?= python3
GPU_WHEELS ?= .gpu-wheels
GPU_CHECK_ARGS ?=
GPU_WHEELS_ARGS ?=
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help setup demo test test-rounding bench gpu-check gpu-wheels lint format schema docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(INSTALLED) ## make .venv and install the project with everything it needs (PYTHON=python3.12 picks one)

demo: $(INSTALLED) ## train on handwritten digits and sample from the model; about 3 minutes after the set-up
	@$(BIN)/python scripts/demo.py

test: $(INSTALLED) ## run the tests (PYTEST_ARGS="--slow tests/data" for more, or fewer)
	@$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

test-rounding: $(INSTALLED) ## run the tests that compute, with older instructions, two threads, and other last bits
	@ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=2 $(BIN)/python -m pytest -q -n 2 --dist loadfile -p tests.other_rounding \
	  tests/training tests/networks tests/cpu tests/samplers tests/diffusion \
	  tests/sampling/test_sampler.py tests/sampling/test_finite_samples.py tests/generation/test_generate.py

bench: $(INSTALLED) ## measure the speed of everything, beside its peers; under 20 minutes (make demo first adds a row)
	@$(BIN)/python -m benchmarks

# Needs no .venv: the torch there may be one without CUDA.
gpu-check: ## test and measure on a machine with a CUDA device, with its own torch (GPU_PYTHON=python3); 8 minutes at most
	@$(GPU_PYTHON) scripts/gpu_check.py $(if $(wildcard $(GPU_WHEELS)),--wheels $(GPU_WHEELS)) $(GPU_CHECK_ARGS)

gpu-wheels: $(INSTALLED) ## fetch what gpu-check may lack on a machine without a network (Python 3.12) into GPU_WHEELS=.gpu-wheels (GPU_WHEELS_ARGS=--all where it has torch alone)
	@$(BIN)/python scripts/gpu_wheels.py $(GPU_WHEELS) $(GPU_WHEELS_ARGS)

lint: $(INSTALLED) ## check format, style and types; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED) ## format the code and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schema: $(INSTALLED) ## write schema/, by which editors complete and check conf/ and settings files
	@$(BIN)/python -m scripts.make_schema

docs: $(INSTALLED) ## write docs/configuration.md, the reference of every key
	@$(BIN)/python -m scripts.make_docs

clean: ## remove .venv, caches and build leftovers; outputs/ stays
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	@find . -name __pycache__ -type d -not -path './outputs/*' -prune -exec rm -rf {} +
	@echo "Removed .venv, caches and build leftovers. outputs/ and its runs were not touched."

# The pip that comes with Python may be years old and take three times as long as today's.
# It would compile every file of every package; the libraries are imported once instead, which compiles what is used.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." \
	    "Name one: make setup PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up .venv (one to two minutes, 1.5 GB) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@set -o pipefail; $(BIN)/python -m pip install --disable-pip-version-check --no-compile \
	    --editable '.[dev,notebooks]' --constraint constraints.txt \
	  | awk '/^ *(Collecting|Processing) / {printf "\r  %d packages found", ++n} \
	    /^Installing collected/ {printf ", unpacking ..."} {fflush()} END {print ""}'
	@echo "  compiling ..."
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -c 'import diffusion_lab.cli.launch, diffusion_lab.training.fit, sklearn.svm, wandb, hydra.main'
	@touch $@
