# Everything runs in .venv, made from the pinned versions in constraints.txt.
PYTHON ?= python3.11
# Where pip finds PyTorch's CPU build, if you have no GPU and want to save the CUDA download.
TORCH_INDEX ?=
BIN := .venv/bin
SETUP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench soak peers clean

help: ## show this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

setup: $(SETUP) ## make .venv with pinned dependencies

$(SETUP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --editable ".[dev]"
	@touch $@

demo: $(SETUP) ## run the whole pipeline once on a simulated market and write a report
	$(BIN)/quaver demo

test: $(SETUP) ## run every test: those with a Ray of their own one by one, the others two at a time
	$(BIN)/python -m pytest -m "not ray" --numprocesses 2 --dist loadfile
	$(BIN)/python -m pytest -m ray

lint: $(SETUP) ## check style, formatting and the types of market/
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(SETUP) ## measure the hot paths beside their yardsticks, into docs/benchmarks.md
	$(BIN)/python -m benchmarks

soak: $(SETUP) ## record ten times the venue's load for minutes, into docs/soak.md
	$(BIN)/python -m benchmarks.soak

peers: $(SETUP) ## install the libraries that bench compares with
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--requirement benchmarks/peers.txt

clean: ## remove the environment, caches and the demo's data
	rm -rf .venv build data/demo *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
