# Everything runs in a local environment, .venv, made on first use.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
# One thread a process: workers run side by side.
export OMP_NUM_THREADS := 1

DEMO := demo
EXPOSURES := 3

.PHONY: demo test lint docs clean

.venv/demo.stamp: pyproject.toml constraints.txt
	@echo "setting up .venv (about 2 GB, a few minutes) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.x")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) --editable '.[report]'
	@touch $@

.venv/dev.stamp: pyproject.toml constraints.txt
	@echo "setting up .venv with the tools for tests (about 2 GB, a few minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) --editable '.[report,dev]'
	@touch $@ .venv/demo.stamp

demo: .venv/demo.stamp  ## simulate a toy survey, ingest it, fit, restore its galaxies, measure, report
	@rm -rf $(DEMO)
	@mkdir -p $(DEMO)
	$(BIN)/psfscale simulate catalogs/toy.yaml $(DEMO)/sky --exposures $(EXPOSURES) --workers 2
	$(BIN)/psfscale ingest $(DEMO)/sky/survey.yaml $(DEMO)/sky/images/*.fits -o $(DEMO)/survey.zarr
	$(BIN)/psfscale run catalogs/runs/toy.yaml survey=$(DEMO)/survey.zarr \
	    output=$(DEMO)/run.zarr
	$(BIN)/psfscale metrics $(DEMO)/run.zarr
	$(BIN)/psfscale report $(DEMO)/run.zarr -o $(DEMO)/report.html

test: .venv/dev.stamp  ## all tests
	$(BIN)/python -m pytest -n 2

lint: .venv/dev.stamp  ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: .venv/demo.stamp  ## the generated pages
	$(BIN)/psfscale schema > docs/schema.md

clean:
	rm -rf .venv $(DEMO) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
