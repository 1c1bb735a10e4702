# Relight: `make help` lists the targets.
SHELL := /bin/bash
EXPERIMENT ?= infogan_digits
ARGS ?=
RUN ?=
INPUT ?=
METRIC ?=
PYTHON ?= python3
# What a person gives reaches a command through its environment: make expands nothing in it and no shell reads it.
override EXPERIMENT := $(value EXPERIMENT)
override ARGS := $(value ARGS)
override RUN := $(value RUN)
override INPUT := $(value INPUT)
override METRIC := $(value METRIC)
override PYTHON := $(value PYTHON)
export EXPERIMENT ARGS RUN INPUT METRIC PYTHON
BIN := .venv/bin
WITH_WORDS := $(BIN)/python launch/words.py
PYTEST := $(WITH_WORDS) -m pytest --numprocesses auto --maxprocesses 8

.DEFAULT_GOAL := help
.PHONY: help setup train test test-all lint record sample predict export curves report dashboard bench run-named input-named results \
	experiments vocabulary gallery pack batch-size

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name what; do \
		printf '  make %-12s %s\n' "$$name" "$$what"; done

setup: .venv/ready  ## make .venv from requirements.lock, hashes checked (with uv if it is on the PATH, else pip)

.venv/ready: requirements.lock
	@if command -v uv >/dev/null; then \
		echo "setting up .venv with uv"; \
		{ test -x $(BIN)/python || uv venv --quiet --python '>=3.11' .venv; } && \
		uv pip install --quiet --python $(BIN)/python --require-hashes --requirement requirements.lock; \
	else \
		"$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
			echo "Relight needs Python 3.11 or newer, but $$PYTHON is $$("$$PYTHON" -V 2>&1): install a newer one" \
				"and name it, as in: make setup PYTHON=python3.12" >&2; exit 1; }; \
		echo "setting up .venv with pip (several minutes; uv is faster)"; \
		{ test -x $(BIN)/pip || "$$PYTHON" -m venv --clear .venv; } && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes \
			--requirement requirements.lock; \
	fi
	@touch $@

train: setup  ## train an experiment: make train EXPERIMENT=infogan_mnist ARGS="trainer=gpu seed=1"
	@$(WITH_WORDS) train.py experiment="$$EXPERIMENT" @ARGS

batch-size: setup  ## the largest batch that fits, with its rates: make batch-size EXPERIMENT=... ARGS="trainer=cpu memory=4"
	@$(WITH_WORDS) -m launch.batch_size experiment="$$EXPERIMENT" @ARGS

test: setup  ## the tests, in as many processes as there are cores
	@$(PYTEST) -m 'not slow' @ARGS

test-all: setup  ## the tests and the long ones
	@$(PYTEST) @ARGS

lint: setup  ## ruff, pyright, and whether the pages' tables agree with results/
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/python -m finished.tables results --check
	@$(BIN)/python -m finished.gallery --check

experiments: setup  ## what can be trained, what the paper reports, what we reached
	@$(BIN)/python -m finished.tables experiments

vocabulary: input-named setup  ## a WordPiece vocabulary of your text: make vocabulary INPUT=text.txt ARGS="--size 8000"
	@$(WITH_WORDS) -m datamodules.text.vocabulary @ARGS -- "$$INPUT"

record: run-named setup  ## keep a finished run as a result: make record RUN=outputs/infogan_digits/...
	@$(BIN)/python -m finished.tables record -- "$$RUN"

sample: run-named setup  ## pictures from a finished run: make sample RUN=outputs/infogan_digits/... ARGS="count=100"
	@$(WITH_WORDS) sample.py run="$$RUN" @ARGS

predict: run-named input-named setup  ## what a run says of images or texts: make predict RUN=outputs/... INPUT=photos
	@$(WITH_WORDS) predict.py run="$$RUN" input="$$INPUT" @ARGS

export: run-named setup  ## a finished classifier or generator as ONNX: make export RUN=outputs/resnet_digits/...
	@$(WITH_WORDS) -m finished.onnx @ARGS -- "$$RUN"

curves: run-named setup  ## a metric over the iterations: make curves RUN="<runs or sweeps>" METRIC=train/loss_g
	@test -n "$$METRIC" || { echo "Name a column of metrics.csv, as in METRIC=train/loss_g" >&2; exit 2; }
	@$(WITH_WORDS) -m finished.curves @ARGS -- "$$METRIC" @RUN

pack: run-named setup  ## a run as one file, to be handed on: make pack RUN=outputs/resnet_digits/...
	@$(WITH_WORDS) -m finished.packing @ARGS -- "$$RUN"

report: run-named setup  ## one HTML page of a run or a sweep: make report RUN=outputs/infogan_digits/...
	@$(WITH_WORDS) -m finished.report @ARGS -- "$$RUN"

dashboard: setup  ## publish the wandb workspace that conf/ describes; without a key: outputs/dashboard.json
	@$(WITH_WORDS) -m finished.dashboard @ARGS

run-named:
	@test -n "$$RUN" || { echo "Name the run's folder, as in RUN=outputs/<experiment>/<folder>" >&2; \
		exit 2; }

input-named:
	@test -n "$$INPUT" || { echo "Name a file or a folder, as in INPUT=photos" >&2; exit 2; }

bench: setup  ## our steps, loader, mAP and FID against others; with clones, ARGS="--peer infogan=<folder>"
	@$(WITH_WORDS) -m benchmarks @ARGS

gallery: setup  ## one page of all methods to look at, docs/gallery.html, from results/ and docs/pictures
	@$(BIN)/python -m finished.gallery

results: setup  ## make the pages' tables from results/
	@$(BIN)/python -m finished.tables results
