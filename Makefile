# `make help` lists the targets. All of them make the environment first, in $(VENV), if it is not there.

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
# Processes of pytest: one per core, eight at most.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8))')

BIN := $(VENV)/bin
RUN := $(BIN)/embedscope
READY := $(VENV)/.ready
READY_DOCS := $(VENV)/.ready-docs

.PHONY: help demo docs pictures notebooks lint lint-js test coverage test-lowest test-newest test-constraints test-package bench clean
.DEFAULT_GOAL := demo

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"embedscope needs Python 3.11 or newer, {sys.executable} is {sys.version.split()[0]}; try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

# What builds the documentation and runs the notebooks, beside what the tests need.
$(READY_DOCS): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "make %-18s%s\n", $$1, $$2 }'

demo: $(READY)  ## extract, score, fine-tune and plot the digits in sample_data/
	$(RUN) demo $(DEMO) --overwrite

docs: $(READY_DOCS)  ## build the documentation into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

pictures: $(READY)  ## draw docs/pictures again; needs Chromium and its chromedriver
	$(BIN)/python docs/_draw.py

notebooks: $(READY_DOCS)  ## run examples/ and keep the outputs
	$(BIN)/python examples/run.py

lint: $(READY)  ## ruff and mypy --strict
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The scripts of the page; needs Node.js, and so is not part of `lint`.
lint-js:  ## Biome's linter and formatter on the page's scripts
	npx --yes @biomejs/biome@2.6.8 ci

test: lint  ## lint, then pytest on all cores
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS)

coverage: $(READY)  ## pytest with branches covered; fails below the floor in pyproject.toml
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --cov --cov-report=term:skip-covered

# In an environment of its own. uv resolves each dependency to the lowest version that pyproject.toml allows, and what those need
# to the newest, of which they may use deprecated parts.
test-lowest: LOWEST := $(VENV)-lowest
test-lowest:  ## pytest with the lowest stated versions of the dependencies
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[all]' 'hypothesis>=6.100' 'onnx>=1.17' 'pytest>=8.4' 'pytest-xdist>=3.6'
	OMP_NUM_THREADS=1 $(LOWEST)/bin/pytest -n $(WORKERS) -W ignore::DeprecationWarning

# What `pip install` gives on the day it is run: the versions that constraints.txt does not know yet.
test-newest: NEWEST := $(VENV)-newest
test-newest:  ## pytest with the newest versions of the dependencies
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager --editable '.[all,dev]'
	OMP_NUM_THREADS=1 $(NEWEST)/bin/pytest -n $(WORKERS)

# PyPI's builds of torch, with their CUDA libraries, ask for other packages than the CPU builds that CI installs: the pinned versions have
# to fit both. Reads metadata only.
test-constraints: UV := $(VENV)-uv
test-constraints:  ## resolve constraints.txt with PyPI's builds for each Python and platform
	$(PYTHON) -m venv $(UV)
	$(UV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	for python in 3.11 3.12 3.13; do for platform in linux windows macos; do echo "== $$python $$platform"; \
	  env -u UV_TORCH_BACKEND MACOSX_DEPLOYMENT_TARGET=14.0 $(UV)/bin/uv pip compile --quiet --constraints constraints.txt --extra all --extra dev \
	  --python-version $$python --python-platform $$platform --output-file $(UV)/$$python-$$platform.txt pyproject.toml || exit 1; done; done

# The wheel alone and the base dependencies, README as a package index shows it, what README and the pages show, then the tests of
# the unpacked sdist: what a user and a packager get.
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
	$(SCRATCH)/bare/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt twine
	$(SCRATCH)/bare/bin/python -m twine check --strict $(SCRATCH)/dist/*
	for wheel in $(SCRATCH)/dist/*.whl; do $(SCRATCH)/bare/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "$$wheel[report,tables]" || exit 1; done
	OMP_NUM_THREADS=1 $(SCRATCH)/bare/bin/python docs/_run.py
	tar -xzf $(SCRATCH)/dist/*.tar.gz -C $(SCRATCH)
	cd $(SCRATCH)/embedscope-*/ && OMP_NUM_THREADS=1 $(abspath $(BIN))/python -m pytest -n $(WORKERS)

bench: $(READY)  ## the measurements behind benchmarks/RESULTS.md
	@for file in benchmarks/[!_]*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean:  ## remove the environments and what was made
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-newest $(VENV)-uv $(DEMO) build dist
