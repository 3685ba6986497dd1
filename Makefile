# Everything runs in a local environment, .venv, made on first use.
PYTHON ?= python3
MINOR := import sys; print(sys.version_info[:2])
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
# One thread a process: workers run side by side.
export OMP_NUM_THREADS := 1

DEMO := demo
EXPOSURES := 3

.PHONY: demo test lint docs clean python

# Refuse a Python that is missing or too old, and an environment made with another than is asked for.
python:
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed, $(PYTHON) is not: make PYTHON=path"; exit 1; }
ifneq ($(origin PYTHON),file)
	@test ! -x $(BIN)/python || \
	    test "$$($(PYTHON) -c '$(MINOR)')" = "$$($(BIN)/python -c '$(MINOR)')" || \
	    { echo ".venv was made with another Python than $(PYTHON): make clean first"; exit 1; }
endif

.venv/demo.stamp: pyproject.toml constraints.txt | python
	@echo "setting up .venv (about 2 GB, a few minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) --editable '.[report]'
	@touch $@

.venv/dev.stamp: pyproject.toml constraints.txt | python
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
	rm -rf .venv .venv-* $(DEMO) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
