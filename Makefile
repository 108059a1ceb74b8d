# `make help` lists the targets. All of them make the environment first, in $(VENV), if it is not there.

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
# Processes of pytest: one per core, eight at most.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8))')

BIN := $(VENV)/bin
RUN := $(BIN)/embedscope
READY := $(VENV)/.ready

.PHONY: help demo lint test test-lowest test-package bench clean
.DEFAULT_GOAL := demo

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"embedscope needs Python 3.11 or newer, {sys.executable} is {sys.version.split()[0]}; try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "make %-14s%s\n", $$1, $$2 }'

demo: $(READY)  ## the main job on sample_data/, from checkpoints to pictures
	@mkdir -p $(DEMO)
	$(RUN) extract sample_data/network.py:DigitNet sample_data/digits --checkpoint sample_data/early.safetensors --overwrite -o $(DEMO)/early.h5
	$(RUN) extract sample_data/network.py:DigitNet sample_data/digits --checkpoint sample_data/late.safetensors --overwrite -o $(DEMO)/late.h5
	$(RUN) score $(DEMO)/early.h5 $(DEMO)/late.h5 --split test
	$(RUN) finetune $(DEMO)/early.h5 --head 'mlp(64, 32)' --objective 'ce' --objective 'ce + 0.5*silhouette' --trials 3 --overwrite -o $(DEMO)/run
	$(RUN) plot $(DEMO)/early.h5 $(DEMO)/late.h5 --split test --kind tsne --kind silhouette --kind classes --overwrite -o $(DEMO)/checkpoints.png
	$(RUN) plot $(DEMO)/run --overwrite -o $(DEMO)/finetuned
	$(RUN) plot $(DEMO)/early.h5 $(DEMO)/late.h5 --split test --kind tsne --kind pca --overwrite -o $(DEMO)/report.html
	@echo
	@echo 'A page to explore: $(DEMO)/report.html'
	@echo 'Pictures:  $(DEMO)/checkpoints.png (early and late), $(DEMO)/finetuned/ (before and after)'
	@echo 'Results:   $(DEMO)/run/run.json; features: $(DEMO)/early.h5, $(DEMO)/late.h5'

lint: $(READY)  ## ruff and mypy --strict
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint  ## lint, then pytest on all cores
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS)

# In an environment of its own. uv resolves each dependency to the lowest version that pyproject.toml allows, and what those need
# to the newest, of which they may use deprecated parts.
test-lowest: LOWEST := $(VENV)-lowest
test-lowest:  ## pytest with the lowest stated versions of the dependencies
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[all]' 'hypothesis>=6.100' 'onnx>=1.17' 'pytest>=8.3' 'pytest-xdist>=3.6'
	OMP_NUM_THREADS=1 $(LOWEST)/bin/pytest -n $(WORKERS) -W ignore::DeprecationWarning

# The wheel alone and the base dependencies, then the tests of the unpacked sdist: what a user and a packager get.
test-package: SCRATCH := build/package
test-package: $(READY)  ## build wheel and sdist, use the wheel in a bare environment, test the sdist
	rm -rf $(SCRATCH) && mkdir -p $(SCRATCH)
	$(PYTHON) -m venv $(SCRATCH)/bare
	$(SCRATCH)/bare/bin/python -m pip install --quiet --disable-pip-version-check build
	$(SCRATCH)/bare/bin/python -m build --outdir $(SCRATCH)/dist .
	$(SCRATCH)/bare/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(SCRATCH)/dist/*.whl
	cd $(SCRATCH) && bare/bin/embedscope --help >/dev/null && bare/bin/embedscope env
	cd $(SCRATCH) && bare/bin/embedscope extract $(CURDIR)/sample_data/network.py:DigitNet $(CURDIR)/sample_data/digits --checkpoint $(CURDIR)/sample_data/late.safetensors --overwrite -q -o late.h5
	cd $(SCRATCH) && bare/bin/embedscope score late.h5 --split test
	tar -xzf $(SCRATCH)/dist/*.tar.gz -C $(SCRATCH)
	cd $(SCRATCH)/embedscope-*/ && OMP_NUM_THREADS=1 $(abspath $(BIN))/python -m pytest -n $(WORKERS)

bench: $(READY)  ## the measurements behind benchmarks/RESULTS.md
	@for file in benchmarks/[!_]*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean:  ## remove the environments and what was made
	rm -rf $(VENV) $(VENV)-lowest $(DEMO) build dist
