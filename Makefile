# Two commands do everything on a fresh machine with Python 3.11, make and pip: `make demo` and `make test`.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
# For machines without a GPU where pip would choose a CUDA build: TORCH_ARGS="torch --index-url <index of CPU builds>"
TORCH_ARGS ?= "torch>=2.4,<2.14"
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := pyproject.toml protos/build_stubs.py $(wildcard protos/csr/v1/*.proto)

export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo test robustness check lint types floors proto-lint docs docs-check proto wheel format clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## Create .venv with everything the demo needs

install-dev: $(VENV)/.installed-dev ## ... and what the tests and checks need

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 13) else "Python 3.11 or 3.12 is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(SOURCES) | $(VENV)/bin/python
	@echo "Installing PyTorch, Ray, MLflow and the rest into $(VENV) (about two minutes) ..."
	$(PIP) $(TORCH_ARGS)
	$(PIP) --editable ".[text,local]"
	@$(BIN)/csr warmup
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing test and check tools into $(VENV) ..."
	$(PIP) --editable ".[dev]"
	@touch $@

demo: install ## Embed real text, train, promote, serve, index and search it
	@$(BIN)/csr demo

test: install-dev ## Run all tests but the slow ones
	@$(BIN)/python -m pytest -m "not slow" -n 2

robustness: install-dev ## Run every test that kills real processes, and every slow one
	@$(BIN)/python -m pytest -m "robustness or slow"

check: lint types floors proto-lint docs-check ## Lint, types, import floors, protos, documented settings

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install-dev
	$(BIN)/mypy

floors: install-dev
	$(BIN)/lint-imports

proto-lint: install-dev
	cd protos && $(abspath $(BIN))/buf lint

docs-check: install-dev
	$(BIN)/python docs/tables.py --check

docs: install-dev ## Write the generated tables of README.md again
	$(BIN)/python docs/tables.py

proto: install-dev ## Compile the protos again
	$(PIP) --no-deps --editable .

wheel: install-dev ## Build the wheel into dist/
	$(BIN)/python -m build --wheel

format: install-dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment and caches of tools
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache dist
