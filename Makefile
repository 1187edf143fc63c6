# `make evaluate` and `make test` are all that a fresh machine needs; both make .venv first.
#   PYTHON=python3.12   the interpreter that makes .venv (3.11 or newer)
#   ARGS="…"            passed on to rbl evaluate, or to pytest
#   WORKERS=1           processes that make test uses
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
ARGS ?=
# processes that share the tests; one thread each, since more would only be in each other's way
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)
BIN := .venv/bin
VAE := rbl-runs/vae.safetensors
# What pip is doing, without the list of what is satisfied already; its exit status counts, not the filter's.
PIP_INSTALL = set -o pipefail; $(BIN)/python -m pip install --disable-pip-version-check
SHOW = awk '/^(Collecting|Installing|Successfully|ERROR)/ { print "    " substr($$0, 1, 100); fflush() }'

# What an attack's step may cost, in percent above the ratios that were measured: 100 is twice as much. A busy machine moves
# single ratios by a third; those of files, by which the disk is measured, are left out.
SLOWER ?= 100
RATIOS = --benchmark-only --benchmark-compare=tests/benchmarks/ratios.json --benchmark-compare-fail=median:$(SLOWER)%

.PHONY: help evaluate test bench gate ratios lint types format docs peers clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Without ARGS also a small VAE, and attacks that make it bring back another digit.
evaluate: .venv/.installed ## attacks x defenses on handwritten digits, as a table (ARGS="--attack pgd …")
	@$(BIN)/rbl evaluate $(ARGS)
ifeq ($(strip $(ARGS)),)
	@$(BIN)/rbl generate train --generator vae:latent=8 --epochs 60 --out $(VAE) --quiet
	@printf '\nA VAE under attack: it is shown one digit and shall bring back another.\n\n'
	@$(BIN)/rbl evaluate --task reconstruction --model vae:$(VAE) --samples 50
endif

test: .venv/.installed-dev ## the test suite (ARGS="-k threat")
	@OMP_NUM_THREADS=1 $(BIN)/python -P -m pytest --ignore=tests/benchmarks --numprocesses=$(WORKERS) --maxprocesses=8 $(ARGS)

bench: .venv/.installed-dev ## the benchmarks (compare with the peers after make peers)
	@$(BIN)/python -P -m pytest tests/benchmarks --benchmark-only $(ARGS)

ratios: .venv/.installed-dev ## what steps of attacks cost, beside what was measured; fails where one takes twice as much
	@RBL_BENCH_ROUNDS=2 $(BIN)/python -P -m pytest tests/benchmarks/test_steps.py -k "not records" --quiet $(RATIOS) \
	  --benchmark-time-unit=s --benchmark-columns=median,min,max --benchmark-sort=name $(ARGS)

# A fresh folder each time: what an earlier run has computed would be looked up, whatever became of the attacks.
gate: .venv/.installed ## rbl check against leaderboards/gate-digits.csv
	@runs=$$(mktemp -d) && trap 'rm -rf "$$runs"' EXIT && \
	  $(BIN)/rbl check --baseline leaderboards/gate-digits.csv --runs "$$runs" --speed 2.5 --quiet $(ARGS)

lint: .venv/.installed-dev ## ruff, its format, and the types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(MAKE) types

# Types are checked on an installed copy: only there attacks/ and defenses/ are robustbench_lite.attacks and .defenses.
types: .venv/.installed-dev ## the types alone
	@rm -rf build .typecheck
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target .typecheck .
	@rm -rf build
	@cd .typecheck && ../$(BIN)/mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache -p robustbench_lite

format: .venv/.installed-dev ## let ruff fix and format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# Building asks nobody for anything: fonts, scripts and pictures are the theme's own. No --quiet: what it hides, --strict
# does not count.
docs: .venv/.installed-dev ## the documentation as a site, in site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "==> site/index.html; to search it: $(BIN)/python -m http.server -d site"

peers: .venv/.installed-peers ## install Foolbox, ART and torchattacks beside it, to compare with

clean: ## remove what was built and cached here; keeps .venv and rbl-runs
	@rm -rf build dist site .typecheck .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name .venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

# pip comes last into a new environment, so a .venv without it was left half made.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "robustbench-lite needs Python 3.11 or newer; '$(PYTHON)' is not. Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@echo "==> making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml | $(BIN)/pip
	@echo "==> installing robustbench-lite (the first time takes some minutes: torch is large)"
	@$(PIP_INSTALL) -e . | $(SHOW)
	@touch $@

.venv/.installed-dev: pyproject.toml | $(BIN)/pip
	@echo "==> installing robustbench-lite with what tests and checks need (the first time takes some minutes)"
	@$(PIP_INSTALL) -e '.[dev]' | $(SHOW)
	@touch .venv/.installed $@

.venv/.installed-peers: pyproject.toml | $(BIN)/pip
	@echo "==> installing the peers"
	@$(PIP_INSTALL) -e '.[dev,peers]' | $(SHOW)
	@$(PIP_INSTALL) --no-deps 'torchattacks>=3.5' | $(SHOW)
	@touch .venv/.installed .venv/.installed-dev $@
