# headrace: every target works as the first command on a fresh clone (Python 3.11+ and make are enough).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Where Python may not keep the bytecode of what it imports, compile once: else each process compiles torch anew.
COMPILE := $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode)
PINS   := .ci/requirements.txt
.DEFAULT_GOAL := help
.PHONY: help install up down status test long lint format faults bench pins clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(STAMP): $(PINS) .ci/uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else "headrace wants Python 3.11 to 3.13, this is %d.%d; name another with: make PYTHON=python3.12 ..." % v)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .ci/uv.txt
	@echo "installing the pinned requirements into $(VENV) (several GB the first time: torch)"
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes $(COMPILE) $(PINS)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $(STAMP)

install: $(STAMP) ## create .venv and install the hash-pinned requirements

up: $(STAMP) ## start Kafka, Redis and all roles here, replay the example once, print a summary
	@$(BIN)/headrace up

down: $(STAMP) ## stop what `make up` started, and nothing else
	@$(BIN)/headrace down

status: $(STAMP) ## what is running, how far it is, how good it is
	@$(BIN)/headrace status

test: $(STAMP) ## the tests, on a Kafka and a Redis of their own
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not long"

long: $(STAMP) ## further cases of the tests, some minutes
	@$(BIN)/python -m pytest -m long

lint: $(STAMP) ## ruff, mypy strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP) ## let ruff format the tree
	@$(BIN)/ruff check --fix --exit-zero .
	@$(BIN)/ruff format .

N    ?= 20
SEED ?= 1
faults: $(STAMP) ## break a whole stack N times and audit it (make faults N=200 SEED=1)
	@$(BIN)/python -m tests.faults.run --runs $(N) --seed $(SEED)

bench: $(STAMP) ## every benchmark, one JSON line each
	@for file in benchmarks/bench_*.py; do $(BIN)/python -m benchmarks.$$(basename $$file .py) || exit 1; done

pins: ## compile the hash-pinned requirements anew (needs a registry)
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --group dev pyproject.toml -o $(PINS)
	@echo uv | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header - -c $(PINS) -o .ci/uv.txt

clean: ## remove .venv and caches (never .headrace, which holds your data)
	@rm -rf $(VENV) .mypy_cache .ruff_cache .import_linter_cache
