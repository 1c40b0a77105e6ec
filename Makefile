# The commands of a working copy. `make` alone lists them.
#
# Everything is installed into .venv; stamps in .venv remember what is there, so that a second run
# installs nothing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
DECLARED := pyproject.toml setup.py Makefile
SHELL := /bin/sh

# make train: where the digits are (empty: downloaded or scikit-learn's), epochs in all, where to,
# on what. A run that was stopped goes on.
DATA ?= $(PYGAN_DATA)
EPOCHS ?=
OUT ?= runs/lesson
DEVICE ?= auto
TRAIN_ARGS ?=
# make test: what pytest gets besides the whole suite, for example PYTEST_ARGS="-k convolution", or
# PYTEST_ARGS="-n 0 -s" for one process whose output is seen.
PYTEST_ARGS ?=
# make gpu-record: for example RECORD_ARGS="--only tests step --out DIR".
RECORD_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help train test lint types report doctor gpu-record clean
.PHONY: device-needs

help: ## list these commands
	@echo "Commands (variables in brackets are optional: make train EPOCHS=2 DEVICE=cpu)"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

train: $(VENV)/.base device-needs ## train the lesson's GAN on handwritten digits, or go on with it [DATA EPOCHS OUT DEVICE TRAIN_ARGS]
	@resume=; test ! -e "$(OUT)/checkpoint.safetensors" || resume=--resume; \
	$(BIN)/pygan train lesson $(if $(DATA),--data "$(DATA)") --device $(DEVICE) $(if $(EPOCHS),--epochs $(EPOCHS)) --out "$(OUT)" $$resume $(TRAIN_ARGS)

test: $(VENV)/.test ## run every test [PYTEST_ARGS]
	@$(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

lint: $(VENV)/.lint ## check the style of Python, C++ and CUDA files, and the types of Python's
	@failed=0; \
	$(BIN)/ruff check . || failed=1; \
	$(BIN)/ruff format --check . || failed=1; \
	find kernels bindings benchmarks examples tests -name '*.cu' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.h' \
	    | xargs $(BIN)/clang-format --dry-run -Werror || failed=1; \
	$(MAKE) -s --no-print-directory types || failed=1; \
	exit $$failed

# The links give packages of pygan the names that they are installed by; findings name the files.
types: $(VENV)/.lint ## check the types of Python files (lint does it too)
	@mkdir -p $(VENV)/types/pygan
	@for package in bindings examples kernels; do \
	    ln -sfn "$(CURDIR)/$$package" $(VENV)/types/pygan/$$package; done
	@failed=0; { $(BIN)/mypy || failed=1; $(BIN)/mypy benchmarks/*.py || failed=1; } \
	    > $(VENV)/types/findings; \
	sed 's|^$(VENV)/types/pygan/||' $(VENV)/types/findings; exit $$failed

report: $(VENV)/.base $(VENV)/.nvcc ## compile every kernel for every generation of GPUs; show registers and spills
	@$(BIN)/python -m pygan.bindings.nvcc_report --workers "$$(getconf _NPROCESSORS_ONLN || echo 2)"

doctor: $(VENV)/.base ## say which devices work on this machine, and what mends the others
	@$(BIN)/pygan doctor

gpu-record: $(VENV)/.base ## tests, sanitizers and benchmarks of this machine's GPU, in one folder [RECORD_ARGS]
	@$(BIN)/python -m pygan.bindings.probe gpu || { \
	    echo "make: no NVIDIA GPU answers, so there is nothing to record; make doctor says more"; exit 1; }
	@$(MAKE) -s --no-print-directory $(VENV)/.test
	@$(BIN)/python benchmarks/gpu_record.py $(RECORD_ARGS)

clean: ## remove .venv and what tools left behind (not runs/, not the cache of compiled kernels)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# An environment with pip. What the system lacks is named with the command that installs it.
$(VENV)/.python:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	    echo "make: $(PYTHON) is not on PATH. Install Python 3.10 or newer: apt-get install python3 python3-venv (Debian, Ubuntu) or dnf install python3 (Fedora), or name another one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "make: $(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.10 or newer is needed. Name another one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	    echo "make: $(PYTHON) cannot make environments. Install venv: apt-get install python3-venv (Debian, Ubuntu)"; exit 1; }
	@rm -rf $(VENV)
	@echo "making $(VENV) with $$($(PYTHON) --version 2>&1)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.base: $(VENV)/.python $(DECLARED)
	@echo "installing pygan"
	@$(PIP) install --editable '.[data]'
	@touch $@

# What the device of `make train` needs besides; `auto` is `cuda` where a GPU answers.
device-needs: $(VENV)/.base
	@case "$(DEVICE)" in \
	    numpy) ;; \
	    cpu) $(MAKE) -s --no-print-directory $(VENV)/.pycuda;; \
	    cuda) $(MAKE) -s --no-print-directory $(VENV)/.pycuda $(VENV)/.nvcc $(VENV)/.graphs;; \
	    *) ! $(BIN)/python -m pygan.bindings.probe gpu || $(MAKE) -s --no-print-directory $(VENV)/.pycuda $(VENV)/.nvcc $(VENV)/.graphs;; \
	esac

$(VENV)/.pycuda: $(VENV)/.base
	@$(BIN)/python -m pygan.bindings.build_pycuda
	@touch $@

# nvcc from PyPI, where the machine has none.
$(VENV)/.nvcc: $(VENV)/.base
	@$(BIN)/python -m pygan.bindings.probe nvcc || $(PIP) install --editable '.[nvcc]'
	@touch $@

# What records a training step as a CUDA graph.
$(VENV)/.graphs: $(VENV)/.base
	@$(PIP) install --editable '.[graphs]'
	@touch $@

# Tests run the kernels on device `cpu` and compile them with nvcc for several GPUs. scikit-cuda comes
# without what it requires, which would build PyCUDA again.
$(VENV)/.test: $(VENV)/.base $(VENV)/.pycuda $(VENV)/.nvcc
	@echo "installing what tests need"
	@$(PIP) install --editable '.[data,graphs,test]'
	@$(PIP) install --no-deps 'scikit-cuda>=0.5.3'
	@touch $@

$(VENV)/.lint: $(VENV)/.base
	@$(PIP) install --editable '.[lint]'
	@touch $@
