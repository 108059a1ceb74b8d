# make demo   the main job on sample_data/, from checkpoints to pictures
# make test   ruff, mypy --strict, pytest
# make bench  the measurements behind benchmarks/RESULTS.md
# All of them make the environment first, in $(VENV), if it is not there.

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo

BIN := $(VENV)/bin
RUN := $(BIN)/embedscope
READY := $(VENV)/.ready

.PHONY: demo test lint bench clean

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"embedscope needs Python 3.11 or newer, {sys.executable} is {sys.version.split()[0]}; try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

demo: $(READY)
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

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest

bench: $(READY)
	@for file in benchmarks/[!_]*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean:
	rm -rf $(VENV) $(DEMO)
