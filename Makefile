# Each target is a line or two. Needs Python 3.11 or newer and make; uses uv where it is installed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV     := $(shell command -v uv 2>/dev/null)
QUIET  := test -t 2 || echo --quiet
PIP    := $(if $(UV),VIRTUAL_ENV=$(VENV) $(UV) pip,$(BIN)/python -m pip --disable-pip-version-check)
FUZZ   ?= 1000000

define MISSING
make: the packages of requirements/ could not be installed. They are fetched once, from the package
index that pip is configured for: look at the lines above, and run this again where a network is.
endef
export MISSING

.PHONY: setup serve test check lint format bench fuzz docs requirements clean

setup: $(VENV)/dev.stamp  ## everything for work on Headrace

serve: $(VENV)/serve.stamp  ## the gateway of gateway.yaml with a real local model, on 127.0.0.1:8080
	@exec $(BIN)/headrace serve gateway.yaml

test: $(VENV)/dev.stamp  ## the whole suite, real servers included
	$(BIN)/python -m pytest

check: lint  ## format, lint, types, imports, docs
	$(BIN)/python -m pytest -q tests/docs

lint: $(VENV)/dev.stamp  ## the same without the docs, which are tested with everything else
	$(BIN)/ruff format --check src plugins tests examples docs
	$(BIN)/ruff check src plugins tests examples docs
	$(BIN)/mypy && $(BIN)/mypy tests docs
	$(BIN)/lint-imports

format: $(VENV)/dev.stamp
	$(BIN)/ruff format src plugins tests examples
	$(BIN)/ruff check --fix-only src plugins tests examples

bench: $(VENV)/dev.stamp  ## what a call through the gateway costs, as ratios to asking directly
	$(BIN)/python tests/bench.py

fuzz: $(VENV)/dev.stamp  ## what parses, a million cases each
	FUZZ_CASES=$(FUZZ) $(BIN)/python -m pytest -q -m fuzz

docs: $(VENV)/dev.stamp  ## the parts of the docs that are made of the code
	$(BIN)/python docs/make.py

requirements:  ## pin everything anew, nothing younger than a week
	$(eval COMPILE := uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make requirements" --exclude-newer $(shell date -d '7 days ago' +%F))
	$(COMPILE) pyproject.toml requirements/build.in --extra standard --extra local -o requirements/serve.txt
	$(COMPILE) pyproject.toml requirements/build.in requirements/dev.in --extra standard --extra local --extra otel --extra prices -c requirements/serve.txt -o requirements/dev.txt
	$(COMPILE) pyproject.toml --extra standard --extra otel -c requirements/dev.txt -o requirements/image.txt
	$(COMPILE) requirements/build.in -c requirements/dev.txt -o requirements/build.txt

$(BIN)/python:
	$(if $(UV),$(UV) venv --quiet --seed --python $(PYTHON) $(VENV),$(PYTHON) -m venv $(VENV))

$(VENV)/%.stamp: requirements/%.txt pyproject.toml | $(BIN)/python
	@echo "setting up $(VENV) from requirements/$*.txt; the first time this takes a minute" >&2
	@$(PIP) install $$($(QUIET)) --require-hashes -r requirements/$*.txt || { echo "$$MISSING" >&2; exit 1; }
	$(PIP) install $$($(QUIET)) --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
