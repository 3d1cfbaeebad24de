# Everything runs in .venv, which is set up once and again only when pyproject.toml or constraints.txt change.
# Needs Python 3.11 or newer, pip and make. Another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
BUSY := $(VENV)/.busy

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## create .venv and install everything, if that is not done

demo: $(READY) ## learn the digits in five tasks with four methods; table, results and report.html in runs/demo
	$(VENV)/bin/duallora demo --out runs/demo

test: $(READY) ## run the tests
	$(VENV)/bin/pytest

lint: $(READY) ## ruff (rules and format) and mypy (strict for src)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

format: $(READY) ## let ruff mend and format the code
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

clean: ## remove .venv and the caches (runs/ stays)
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find src tests scripts -type d -name __pycache__ -prune -exec rm -rf {} +

# .venv/.busy is there only while pip works: where it is found at the start, the last set-up was cut off and begins afresh.
$(READY): pyproject.toml constraints.txt
	@rm -f $@
	@command -v "$(PYTHON)" >/dev/null || { echo "make: no '$(PYTHON)' found; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: duallora needs Python 3.11 or newer, but '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1); name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "make: '$(PYTHON)' cannot create virtual environments; install the missing part (Debian and Ubuntu: apt install python3-venv) or name another: make PYTHON=/path/to/python3" >&2; exit 1; }
	@if [ -e $(BUSY) ] || ! $(VENV)/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "Creating $(VENV) with $$("$(PYTHON)" -V)"; "$(PYTHON)" -m venv --clear $(VENV); fi
	@touch $(BUSY)
	@echo "Installing duallora and its dependencies into $(VENV) (some minutes the first time)"
	@PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(VENV)/bin/python -m pip install --quiet --no-input --disable-pip-version-check --editable '.[test]'
	@rm -f $(BUSY)
	@touch $@
