# make train: the main job, from a clean clone.  make wheel: dist/, to install anywhere.  make test: what CI calls.  make check: lint, types, layers, wording.
# make check-all: the documentation as a site and the audit of dependencies, too.
# make test-fast: in 3 minutes, for each change.  make test: in 11 to 35.  make test-all: everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# -P, because some modules beside installer.py have the names of Python's
INSTALL := @$(BIN)/python -P eyevsai/core/installer.py --expect
SPEED := on 2 cores with a quick index
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: train wheel test test-fast test-all first-hour check check-all audit format ui docs screenshots bench clean

train: $(VENV)/installed
	eyevsai doctor --init
	mlflow run . -e train -P model=deep_v1 --experiment-name digits --env-manager=local

# setuptools would pack files of earlier builds that no longer exist
wheel: $(VENV)/python
	rm -rf build/lib
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

PYTEST := python -m pytest -n 2 --dist loadgroup

test: $(VENV)/installed-dev
	HYPOTHESIS_PROFILE=ci $(PYTEST) -m "not slow"

test-fast: $(VENV)/installed-dev
	$(PYTEST) -m "not slow" tests/unit tests/snapshots tests/contract/test_learners.py

test-all: $(VENV)/installed-dev
	HYPOTHESIS_PROFILE=nightly $(PYTEST)

first-hour: $(VENV)/installed-dev
	EYEVSAI_FRESH=1 python -m pytest tests/e2e/test_pages.py -m slow -k first_hour -rP

check: $(VENV)/installed-dev
	ruff check .
	ruff format --check .
	mypy
	mypy --platform win32 --cache-dir .mypy_cache/win32 eyevsai entrypoints
	mypy --platform darwin --cache-dir .mypy_cache/darwin eyevsai entrypoints
	lint-imports
	python -m eyevsai.codegen --check
	python -m tests.language
	hadolint deploy/Dockerfile deploy/eyevsai.Dockerfile

# needs an advisory service: docs/decisions/033-dependency-ranges.md
audit: $(VENV)/installed-dev
	python -m tests.audit

check-all: check docs audit

format: $(VENV)/installed-dev
	ruff check --fix .
	ruff format .
	python -m eyevsai.codegen

ui: $(VENV)/installed
	eyevsai ui

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

screenshots: $(VENV)/installed-dev
	python docs/screenshots.py

bench: $(VENV)/installed-dev
	python -m benchmarks

clean:
	rm -rf $(VENV) build dist site *.egg-info

$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	{ echo "eyevsai needs Python 3.11 to 3.13; $(PYTHON) is `$(PYTHON) --version`. Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/installed: pyproject.toml | $(VENV)/python
	$(INSTALL) "at most 3.3 GB to download and 6.7 GB on disk, 2 to 3 minutes $(SPEED)" --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml | $(VENV)/python
	$(INSTALL) "at most 3.9 GB to download and 9.1 GB on disk, 3 to 5 minutes $(SPEED)" --editable ".[dev]"
	touch $@ $(VENV)/installed $(VENV)/installed-docs

$(VENV)/installed-docs: pyproject.toml | $(VENV)/python
	$(INSTALL) "at most 3.3 GB to download and 6.8 GB on disk, 2 to 3 minutes $(SPEED)" --editable ".[docs]"
	touch $@
