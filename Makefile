PYTHON ?= python3
# Any torch of pyproject.toml's range. On Linux, PyPI's is the CUDA build (some GB); for the small CPU build:
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make test
TORCH ?= torch==2.13.0
BIN := .venv/bin
LOWEST := .venv-lowest/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# Tests that need no torch: what macOS and the lowest versions are tried with.
CORE := tests/core tests/dataset tests/degrade tests/download tests/evaluate tests/export tests/faces tests/identities \
	$(wildcard tests/test_*.py) --ignore=tests/degrade/test_golden.py

.PHONY: help install demo demo-restore demo-models test test-core test-lowest test-slow lint bench clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## */\1\t/p' Makefile | awk -F'\t' '{ printf "  make %-14s%s\n", $$1, $$2 }'

demo: .venv/core  ## set up and run the whole job offline on drawn people
	$(BIN)/ffhqref demo --out demo-out

demo-restore: .venv/train  ## the demo, then restore its pictures; CHECKPOINT=refldm.ckpt for another restorer
	$(BIN)/ffhqref demo --out demo-out $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)")

demo-models: .venv/train  ## train a small restorer on drawn people (an hour) for the demo
	$(BIN)/python -m ffhqref.demo.making.train_restorer --work demo-models --out ffhqref/demo/restorer.safetensors
	mv ffhqref/demo/restored.jpg .github/pictures/

test: .venv/dev  ## set up and run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-core: .venv/dev  ## the tests that need no torch
	$(BIN)/python -m pytest $(CORE)

test-lowest: .venv-lowest/dev  ## the same with the lowest versions that pyproject.toml allows (Python 3.11)
	$(LOWEST)/python -m pytest $(CORE)
	$(LOWEST)/ffhqref demo --out .venv-lowest/demo-out --people 12

test-slow: .venv/dev .venv/browser  ## the tests of more than a minute: kills, large inputs, pages in Chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2 --dist loadfile

install: .venv/core  ## set up .venv with the command ffhqref
	@echo "Installed: $(BIN)/ffhqref --help"

lint: .venv/dev  ## ruff and mypy
	$(BIN)/python -m ruff check ffhqref tests
	$(BIN)/python -m ruff format --check ffhqref tests
	$(BIN)/python -m mypy

bench: .venv/dev  ## measure against the alternatives; writes results.json and the README's table
	$(BIN)/python -m tests.benchmarks

clean:  ## remove both environments and what the demo made
	rm -rf .venv .venv-lowest demo-out

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

# What the tests of pages in a real browser need. What cannot be had here is named, and those tests skip.
.venv/browser: .venv/dev
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& apt-get update -qq && apt-get install -qq --no-install-recommends chromium >/dev/null; } \
		|| echo "No chromium here, nor the right to install it: the tests of pages in it will skip."
	$(PIP) playwright
	@npm install --silent --no-audit --no-fund --prefix .venv/node axe-core@4 >/dev/null 2>&1 \
		|| echo "axe-core could not be installed with npm: the tests of accessibility will skip."
	@touch $@

# uv finds the lowest versions; pip would take the highest. Only the dependencies are held to them: what runs
# the tests is the newest that goes with them.
.venv-lowest/dev: pyproject.toml
	$(PYTHON) -m venv --clear .venv-lowest
	$(LOWEST)/python -m pip --disable-pip-version-check install --quiet uv
	$(LOWEST)/uv pip compile --quiet --resolution lowest-direct --python $(LOWEST)/python \
		--output-file .venv-lowest/versions.txt pyproject.toml
	$(LOWEST)/uv pip install --quiet --python $(LOWEST)/python --constraints .venv-lowest/versions.txt \
		--editable '.[dev]'
	@touch $@
