# Every target can be run in any order and repeatedly; each sets up what it needs.
SHELL := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
NAMES ?=
DASHBOARD_ARGS ?=
GPU_PYTHON ?= python3
GPU_WHEELS ?= .gpu-wheels
GPU_CHECK_ARGS ?=
GPU_WHEELS_ARGS ?=
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SITE_INSTALLED := $(VENV)/.site-installed

.PHONY: help setup demo dashboard test test-rounding bench gpu-check gpu-wheels lint format defaults schema docs site notebooks clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(INSTALLED) ## create .venv with the project and everything it needs (PYTHON=python3.12 selects another Python)

demo: $(INSTALLED) ## train on handwritten digits and sample from the model: about 3 minutes after the set-up
	@$(BIN)/python scripts/demo.py

dashboard: $(INSTALLED) ## start TensorBoard on the runs in outputs/ that log to it (DASHBOARD_ARGS="FOLDER --port 6007")
	@$(BIN)/python scripts/dashboard.py $(DASHBOARD_ARGS)

# In the order of their names: otherwise the files with the fewest tests come last, some of which take half a minute, while
# the other processes wait.
test: $(INSTALLED) ## run the tests (PYTEST_ARGS="--slow tests/data" selects more, or fewer)
	@$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-rounding: $(INSTALLED) ## run the numerical tests with older CPU instructions, two threads and perturbed last bits
	@ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=2 $(BIN)/python -m pytest -q -n 2 --dist loadfile -p tests.other_rounding \
	  tests/training tests/networks tests/cpu tests/samplers tests/diffusion \
	  tests/sampling/test_sampler.py tests/sampling/test_finite_samples.py tests/generation/test_generate.py

bench: $(INSTALLED) ## measure the speed next to other libraries: under 20 minutes (after make demo, with one row more)
	@$(BIN)/python -m benchmarks

# Does not use .venv, whose torch may have no CUDA.
gpu-check: ## test and measure on a machine with a CUDA device, with the torch installed there (GPU_PYTHON=python3): at most 8 minutes
	@$(GPU_PYTHON) scripts/gpu_check.py $(if $(wildcard $(GPU_WHEELS)),--wheels $(GPU_WHEELS)) $(GPU_CHECK_ARGS)

gpu-wheels: $(INSTALLED) ## download the packages that gpu-check needs on a machine without a network (Python 3.12) to GPU_WHEELS=.gpu-wheels (GPU_WHEELS_ARGS=--all: all except torch)
	@$(BIN)/python scripts/gpu_wheels.py $(GPU_WHEELS) $(GPU_WHEELS_ARGS)

lint: $(INSTALLED) ## check format, style and types, without changing anything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/biome ci --error-on-warnings .
	$(BIN)/mypy

format: $(INSTALLED) ## format the code and apply the automatic fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/biome check --write .

defaults: $(INSTALLED) ## write what repeats diffusion_lab/config/v2_defaults.yaml: file to copy, recipe, docs/settings.md
	@$(BIN)/python -m scripts.make_defaults

schema: $(INSTALLED) ## write schema/, with which editors complete and check conf/ and settings files
	@$(BIN)/python -m scripts.make_schema

docs: $(INSTALLED) ## write docs/configuration.md and docs/commands.md, the references, and docs/rooms.svg, the picture of the package
	@$(BIN)/python -m scripts.make_docs
	@$(BIN)/python -m scripts.draw_rooms

notebooks: $(INSTALLED) ## run notebooks/ and store them with their outputs and figures: about 15 minutes (NAMES="quickstart" for some)
	@$(BIN)/python -m scripts.make_notebooks $(NAMES)

site: $(SITE_INSTALLED) ## build the documentation as a site in build/site, which needs no network to be read
	@$(BIN)/python -m sphinx --quiet --nitpicky --fail-on-warning --keep-going -c docs . build/site
	@echo "build/site/index.html"

clean: ## remove .venv, caches and build files; outputs/ stays
	@rm -rf .venv .venv-newest build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	@find . -name __pycache__ -type d -not -path './outputs/*' -prune -exec rm -rf {} +
	@echo "Removed .venv, caches and build files. outputs/ and its runs are unchanged."

# The pip that comes with Python may be years old and three times as slow as the current one.
# Without --no-compile, pip compiles every file of every package; importing the libraries once compiles only what is used.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "Python 3.11, 3.12 or 3.13 is required, '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." \
	    "Select one: make setup PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up $(VENV) (one to two minutes, 1.5 GB) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@set -o pipefail; $(BIN)/python -m pip install --disable-pip-version-check --no-compile \
	    --editable '.[dev,notebooks]' --constraint constraints.txt \
	  | awk '/^ *(Collecting|Processing) / {printf "\r  %d packages found", ++n} \
	    /^Installing collected/ {printf ", unpacking ..."} {fflush()} END {print ""}'
	@echo "  compiling ..."
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -c 'import diffusion_lab.cli.launch, diffusion_lab.training.fit, sklearn.svm, wandb, hydra.main'
	@touch $@

# What only the site needs, so that the set-up of everything else stays short.
$(SITE_INSTALLED): $(INSTALLED)
	@echo "Adding Sphinx to $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
	    --editable '.[docs]' --constraint constraints.txt
	@touch $@
