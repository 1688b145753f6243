# make audit   installs on first use, then audits the default model from end to end
# make test    installs what the tests need on first use, then runs all of them
# make check   style, types and import rules
# PYTHON=python3.12 chooses the interpreter; PIP_CONSTRAINT=constraints.txt installs what CI installs.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: audit test check clean

audit: .venv/installed
	$(BIN)/convaudit

test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

clean:
	rm -rf .venv

$(BIN)/python:
	@$(PYTHON) -c 'import sys; ok = sys.version_info >= (3, 11); sys.exit(None if ok else f"convaudit needs Python 3.11 or later, {sys.executable} is {sys.version.split()[0]}; try make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

# Files of their own, so that a later make neither asks pip nor needs a network.
.venv/installed: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/installed-dev: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ .venv/installed
