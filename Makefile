# Everything runs from .venv, which the first target that needs it creates (tools/setup.sh).
# To choose an interpreter: make test PYTHON=python3.12

VENV := .venv
BIN := $(VENV)/bin
export PYTHON

.PHONY: help venv demo test lint types bench study-small fuzz docs vectors decoders clean

help: ## Print this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

venv: $(VENV)/.installed ## Create .venv and install everything, as every other target does by itself

demo: $(VENV)/.installed ## Convert, validate and draw sample alerts; outputs in demo/
	$(BIN)/python tools/demo.py

test: lint types $(VENV)/.compilers ## Lint, check types, then run the tests that are not slow
	$(BIN)/python -m pytest -m "not slow"

lint: $(VENV)/.installed ## Check style and format (mend with: .venv/bin/ruff format; ruff check --fix)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.installed ## Check the types of multiscale/
	$(BIN)/mypy

bench: $(VENV)/.installed ## Measure sizes, errors and speed, and print the tables
	$(BIN)/python -m benchmarks

STUDY ?= build/study-small

study-small: $(VENV)/.installed ## Bandwidth against accuracy: a small study, from nothing to HTML and PDF (STUDY=folder)
	$(BIN)/python -m benchmarks.bandwidth_accuracy run small -o $(STUDY)
	$(BIN)/python -m benchmarks.bandwidth_accuracy evaluate $(STUDY)
	$(BIN)/python -m benchmarks.bandwidth_accuracy report $(STUDY)

fuzz: $(VENV)/.installed ## Fuzz the decoders, guided by coverage
	PATH="$(CURDIR)/$(BIN):$$PATH" fuzz/run.sh

docs: $(VENV)/.installed ## Write the parts of docs/ that come from code
	$(BIN)/python tools/reference.py

vectors: ## Write the vectors again; needs nothing but a plain Python
	python3 spec/v1/vectors/make_vectors.py

decoders: $(VENV)/.compilers ## Build the C, JavaScript, Rust and Java decoders and run them against the vectors
	$(BIN)/python -m pytest -m compilers

clean: ## Remove what was built or cached; .venv stays
	rm -rf demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml tools/setup.sh tools/torch_constraint.py
	tools/setup.sh python

$(VENV)/.compilers: $(VENV)/.installed
	tools/setup.sh compilers
