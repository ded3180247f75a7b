# Everything a contributor or CI does with this checkout. `make help` lists it.
#
# The environment is made by requirements/environment.py: packages in ~/.cache/ote (OTE_CACHE), a small .venv here that
# looks into them. VENV=/path/to/venv uses that one as it is; PYTHON=/path/to/python3 chooses the interpreter.

OTE_CACHE ?= $(HOME)/.cache/ote
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
export OTE_CACHE

ifdef VENV
  BIN := $(VENV)/bin
else
  BIN := $(CURDIR)/.venv/bin
endif

MAKEFLAGS += --no-print-directory
TOGETHER = $(MAKE) -j$(JOBS) --keep-going $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)
PYTEST = $(BIN)/python -m pytest
# The folders of tests among those named that have any.
present = $(strip $(foreach name,$(1),$(if $(shell find tests/$(name) -name 'test_*.py' 2>/dev/null | head -n 1),tests/$(name))))
QUICK := $(call present,unit scenarios shell wire arch)
SLOW := $(call present,e2e conformance)
TIMED := $(call present,wire e2e)
# These alone reach every branch of the model and of the cores: no processes, no sockets, half a minute of one core.
WHOLE := $(call present,unit/model unit/clustercontroller unit/shims) tests/scenarios/test_scenarios.py
COVERED := ote/model/*,ote/*/core/*,ote/*/*/core/*
HISTORIES ?= 2000
FIRST_SEED ?= $(shell date +%s)
# Tests of servers, real trees and the suite for shims often wait, so more workers than cores. What is marked as timed
# runs alone.
QUICK_JOBS ?= $(shell echo $$((2 * $(JOBS))))
SLOW_JOBS ?= 3
SUITE_JOBS ?= 4

.DEFAULT_GOAL := help
.PHONY: help setup generate released check test test-all test-real coverage coverage-rest histories bench conformance demo clean environment environment-dev

help:  ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: environment  ## create the environment and say where ote-ctl is
	@echo "ready: $(BIN)/ote-ctl (or: source .venv/bin/activate; then: ote-ctl --help)"

environment environment-dev:
ifndef VENV
	@$(if $(PYTHON),,echo 'error: no Python >= 3.11 found; name one: make PYTHON=/path/to/python3' >&2; exit 1)
	@$(PYTHON) requirements/environment.py --with $(if $(filter %-dev,$@),dev,base) $(CURDIR)
endif

demo: environment  ## start a real tree and show it heal; KEEP=1 leaves it up
	@$(BIN)/ote-ctl demo $(if $(KEEP),--keep)

# --- checks ----------------------------------------------------------------------------------------------------------

CHECKS := check-format check-lint check-types check-imports check-proto check-breaking check-generated
.PHONY: $(CHECKS)

check: environment-dev  ## format, lint, types, import contracts, buf, generated code
	@$(TOGETHER) $(CHECKS)
	@echo 'check: all of $(CHECKS:check-%=%) hold'

check-format:
	@$(BIN)/ruff format --quiet --check --output-format concise || { echo 'fix: ruff format'; exit 1; }

check-lint:
	@$(BIN)/ruff check --quiet

check-types:
	@$(BIN)/mypy --cache-dir $(OTE_CACHE)/mypy --no-error-summary ote tests requirements/environment.py

check-imports:
	@out=$$($(BIN)/lint-imports --cache-dir $(OTE_CACHE)/import-linter 2>&1) || { echo "$$out" | sed -n '/^Contracts$$/,$$p'; exit 1; }

check-proto:
	@$(BIN)/buf lint

check-breaking:
	@$(BIN)/buf breaking --against proto/released.binpb

check-generated:
	@out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT && PYTHON=$(BIN)/python proto/generate.sh "$$out" \
	  && { diff -r -q -x __pycache__ "$$out/ote/api" ote/api || { echo 'fix: make generate'; exit 1; }; }

generate: environment-dev  ## write ote/api from proto/ and the generated pages of docs/
	@PYTHON=$(BIN)/python proto/generate.sh
	@test ! -e ote/apps/docs.py || $(BIN)/python -m ote.apps.docs

released: environment-dev  ## record the present proto/ as released: `make check` refuses what breaks its users
	@$(BIN)/buf build --exclude-source-info -o proto/released.binpb

# --- tests -----------------------------------------------------------------------------------------------------------

test: coverage  ## every test that needs Python alone
	$(if $(QUICK),$(PYTEST) -n $(QUICK_JOBS) --dist worksteal -m 'not timed' $(QUICK) $(WHOLE:%=--ignore=%))
	$(if $(SLOW),$(PYTEST) -n $(SLOW_JOBS) --dist loadgroup -m 'not timed' $(SLOW))
	$(if $(TIMED),$(PYTEST) -m timed $(TIMED))

test-real: environment-dev
	PYTHON=$(BIN)/python tests/real/install.sh
	OTE_REAL=1 $(PYTEST) -m real tests

test-all: FIRST_SEED = 1
test-all: test histories test-real  ## every test, with podman, grpcurl, Go and Node (installed where missing)

conformance: environment-dev  ## the suite for shims against the shims we have
	$(PYTEST) -n $(SUITE_JOBS) --dist worksteal tests/conformance

coverage: environment-dev  ## unit tests and scenarios of the model and the cores, which have to reach every branch of them
	@COVERAGE_FILE=.coverage $(PYTEST) -n $(JOBS) --dist worksteal --cov --cov-report= $(WHOLE)
	@COVERAGE_FILE=.coverage $(BIN)/coverage report --fail-under=100 --include='$(COVERED)'

coverage-rest: environment-dev  ## branch coverage of everything, by all tests without processes
	@COVERAGE_FILE=.coverage-rest $(PYTEST) -n $(JOBS) --cov --cov-report= $(call present,unit scenarios shell wire)
	@COVERAGE_FILE=.coverage-rest $(BIN)/coverage report

histories: environment-dev  ## thousands of random histories of a tree, by itself from a fresh seed; HISTORIES=n FIRST_SEED=n
	$(PYTEST) -n $(JOBS) --dist worksteal tests/scenarios/test_histories.py --histories $(HISTORIES) --first-seed $(FIRST_SEED)

bench: environment-dev  ## measure, against a bare grpc.aio program in the same run; ARGS=… goes to it
	$(BIN)/python -m tests.bench $(ARGS)

clean:  ## remove what was made in this checkout (the cache in ~/.cache/ote stays)
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
