# `make` prints its targets. Everything happens in .venv and under LEVIBOT_HOME (default .levibot).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install run test test-fast test-stores check bench faults load soak flame optuna-dashboard format lock clean

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed ## make .venv and install the pinned dependencies

$(VENV)/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "LeviBot needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Set PYTHON=…" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments: apt install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade "pip>=25"
	$(BIN)/pip install --disable-pip-version-check --progress-bar on -r requirements.lock
	@touch $@

run: install ## start everything and serve signals (SOURCE=, MARKET=, SYMBOLS=, EDGE=, SEED=, REPLAY_SPEED=)
	@exec $(BIN)/python -m levibot up $(if $(SOURCE),--source $(SOURCE)) $(if $(MARKET),--path $(MARKET)) \
		$(if $(SYMBOLS),--symbols $(SYMBOLS)) $(if $(EDGE),--edge $(EDGE)) $(if $(SEED),--seed $(SEED)) \
		$(if $(REPLAY_SPEED),--replay-speed $(REPLAY_SPEED))

test: install ## run every test but the slow ones and those on Debian's servers, with coverage of levibot/
	$(BIN)/python -m pytest -m "not slow and not debian" --cov --cov-report=term --cov-fail-under=85

test-fast: install ## run the tests that need no server
	$(BIN)/python -m pytest -m "not slow and not stores and not ray and not system and not debian"

test-stores: install ## install Debian's servers and run the contract suites on them too
	.ci/debian-servers
	LEVIBOT_TEST_DEBIAN=1 $(BIN)/python -m pytest -m "debian and not slow"

faults: install ## injure every store under load, and write docs/operations/faults.md from what was seen
	LEVIBOT_WRITE_FAULTS=1 $(BIN)/python -m pytest tests/faults tests/contracts/redis/test_failover.py
	LEVIBOT_WRITE_FAULTS=1 $(BIN)/python -m pytest tests/system/test_fault_matrix.py

load: install ## 100 requests/s on a whole system for 5 minutes, from its cache and past it; fails when a goal is missed
	$(BIN)/python -m tests.load
	$(BIN)/python -m tests.load --way cold

soak: install ## the same for an hour: no process may grow
	$(BIN)/python -m tests.load --soak

flame: install ## a flame graph of the face under that load, in face.svg
	$(BIN)/python -m tests.load --seconds 60 --flame face.svg

bench: install ## run every benchmark beside its reference; fails when a goal is missed
	@failed=; for file in benchmarks/*.py; do name=$$(basename $$file .py); \
		case $$name in __init__|comparison|event_table|features_market|http_load|noop_graphs|plain_server|record_mix|running_system) continue ;; esac; \
		$(BIN)/python -m benchmarks.$$name || failed="$$failed $$name"; done; \
	[ -z "$$failed" ] || { echo "Goals were missed or not measured:$$failed" >&2; exit 1; }

optuna-dashboard: install ## show the studies of tune.search, on loopback
	$(BIN)/optuna-dashboard --host 127.0.0.1 "sqlite:///$${LEVIBOT_HOME:-.levibot}/searches/studies.sqlite"

check: install ## lint, format, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: install ## pin every dependency of pyproject.toml in requirements.lock
	$(BIN)/pip-compile --quiet --all-extras --strip-extras --allow-unsafe --no-emit-index-url \
		--no-emit-find-links --no-emit-trusted-host --no-emit-options --no-header --no-annotate \
		--output-file requirements.lock pyproject.toml
	@# A build's local mark (torch 2.13.0+cpu) is chosen by the index it is installed from.
	sed -i 's/+cpu$$//' requirements.lock

clean: ## remove the virtual environment and the tools' caches, never the state folder
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
