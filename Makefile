# Everything that a developer or a new user types. `make` alone lists it.
# Only what is needed is done: the virtual environment is made anew when pyproject.toml has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := sidecar,cli,demo,dev
ARGS ?=
# Files of tests at a time: they wait more than they compute, so more than there are cores.
WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help venv etcd demo test check check-lint check-format check-types check-imports check-systemd proto bench matrix golden clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## make .venv with everything that the other targets need (PYTHON=python3.12 chooses the interpreter)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: Python 3.11 or newer is needed, and $(PYTHON) is" \
	       "$$($(PYTHON) --version 2>&1 || echo missing). Name another one: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $(PYTHON) cannot make virtual environments: ensurepip or venv is missing." \
	       "On Debian: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the Python packages into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@

# The tests fetch one by themselves too; done here, it is not charged to the first test's time limit.
etcd: venv ## find or fetch an etcd server and print its path
	@$(BIN)/python -m deploy.etcd

demo: venv ## start a whole mesh here, show what it does, end it (KEEP=1 leaves it running)
	@$(BIN)/python -m deploy.demo $(if $(KEEP),--keep)

# Bytecode is kept whatever the environment says: each worker would else take 10 s of a core to compile all tests again,
# and each process that they start a third of a second for our own sources.
test: etcd ## run all tests (ARGS="tests/schemas -k name" runs some)
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadgroup --no-loadscope-reorder --durations=10 $(ARGS)

check: check-lint check-format check-types check-imports check-systemd ## run every static check

check-lint: venv
	@$(BIN)/ruff check .

check-format: venv
	@$(BIN)/ruff format --check .

check-types: venv
	@$(BIN)/mypy

check-imports: venv
	@$(BIN)/lint-imports --no-logo

check-systemd:
	@deploy/systemd/check.sh

proto: ## generate the gRPC stubs anew from the .proto files
	@deploy/proto.sh

bench: etcd ## measure the figures in bench-results/ (ARGS="…" goes to the harness)
	@$(BIN)/python -m tests.bench $(ARGS)

matrix: venv ## which SPIFFE line and which fault is held by which tests; fails if one has none (ARGS="-o json")
	@$(BIN)/python -m tests.matrix $(ARGS)

golden: venv ## write the golden files anew; read the diff before you commit it
	@$(BIN)/python -m pytest tests/golden --update-golden $(ARGS)

clean: ## remove everything that these targets made, the virtual environment and the fetched etcd too
	rm -rf $(VENV) .cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
