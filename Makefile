PYTHON ?= python3
# The CPU build of torch; any other that pyproject.toml's range admits may be given instead.
TORCH ?= torch==2.13.0
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: help install demo demo-restore demo-models test test-slow lint bench clean

help:  ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## */\1\t/p' Makefile | awk -F'\t' '{ printf "  make %-14s%s\n", $$1, $$2 }'

demo: .venv/core  ## set up and run the whole job offline on drawn people
	$(BIN)/ffhqref demo --out demo-out

demo-restore: .venv/train  ## the demo, then restore its pictures; CHECKPOINT=refldm.ckpt for another restorer
	$(BIN)/ffhqref demo --out demo-out $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)")

demo-models: .venv/train  ## train a small restorer on drawn people (an hour) for the demo
	$(BIN)/python -m ffhqref.demo.making.train_restorer --work demo-models --out ffhqref/demo/restorer.safetensors

test: .venv/dev  ## set up and run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: .venv/dev  ## the tests of more than a minute: kills, large inputs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2 --dist loadfile

install: .venv/core  ## set up .venv with the command ffhqref
	@echo "Installed: $(BIN)/ffhqref --help"

lint: .venv/dev  ## ruff and mypy
	$(BIN)/python -m ruff check ffhqref tests
	$(BIN)/python -m ruff format --check ffhqref tests
	$(BIN)/python -m mypy

bench: .venv/dev  ## measure against what else one would use; writes results.json and the README's table
	$(BIN)/python -m tests.benchmarks

clean:  ## remove .venv and what the demo made
	rm -rf .venv demo-out

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/core: .venv/bin/python pyproject.toml
	$(PIP) --editable .
	@touch $@

.venv/train: .venv/core pyproject.toml
	$(PIP) --editable '.[train]' '$(TORCH)'
	@touch $@

.venv/dev: .venv/core pyproject.toml
	$(PIP) --editable '.[dev,train]' '$(TORCH)'
	@touch $@
