# `make demo`: raw scans to a trained network and a report on a small simulated head.
# `make test`: the test suite. `make check`: linters and quick tests. All set up .venv first; nothing else is needed but Python >= 3.11 and a package index.

export PYTHONSAFEPATH = 1
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo

.PHONY: demo test check lint clean

$(VENV)/.installed: pyproject.toml constraints.txt __init__.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .[test,lint,deepbet]
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m chi33.cli.demo $(DEMO)

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n logical --maxprocesses 4

check: lint
	$(BIN)/python -m pytest -n logical --maxprocesses 4 tests/test_house.py tests/test_api.py tests/test_examples.py \
		tests/files tests/pipeline/physics tests/pipeline/background tests/training/networks

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build .lint && $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .lint .
	MYPYPATH=.lint $(BIN)/mypy -p chi33

clean:
	rm -rf $(VENV) $(DEMO) .lint build dist *.egg-info
