# `make train` and `make test` are all the set-up there is: each creates .venv and installs what is pinned.
PYTHON ?= python3
VENV := .venv
PARITY_VENV := .venv-parity
PIP_FLAGS := --quiet --disable-pip-version-check

.DELETE_ON_ERROR:
.PHONY: train test lint unit parity docs clean

train: $(VENV)/installed
	$(VENV)/bin/python train.py --config configs/digits.py --workdir runs/digits

test: lint unit

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

unit: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

parity: $(PARITY_VENV)/installed
	$(PARITY_VENV)/bin/python -m pytest -m parity tests/parity

docs: $(VENV)/installed
	$(VENV)/bin/inception-jax models --markdown > docs/MODELS.md.new
	mv docs/MODELS.md.new docs/MODELS.md

clean:
	rm -rf $(VENV) $(PARITY_VENV) build *.egg-info

%/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: make PYTHON=python3.x ...")'
	$(PYTHON) -m venv $* || { rm -rf $*; exit 1; }

.SECONDARY: $(VENV)/bin/python $(PARITY_VENV)/bin/python

%/installed: requirements.txt pyproject.toml | %/bin/python
	$*/bin/python -m pip install $(PIP_FLAGS) --requirement requirements.txt
	$*/bin/python -m pip install $(PIP_FLAGS) --no-deps --editable .
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(VENV)/bin/python -m pip install $(PIP_FLAGS) --requirement requirements-dev.txt
	touch $@

# The originals come without their dependencies: those would replace the CPU build of torch.
$(PARITY_VENV)/installed: requirements-dev.txt requirements-parity.txt requirements-originals.txt requirements.txt pyproject.toml | $(PARITY_VENV)/bin/python
	$(PARITY_VENV)/bin/python -m pip install $(PIP_FLAGS) --requirement requirements-dev.txt
	$(PARITY_VENV)/bin/python -m pip install $(PIP_FLAGS) --requirement requirements-parity.txt
	$(PARITY_VENV)/bin/python -m pip install $(PIP_FLAGS) --no-deps --requirement requirements-originals.txt
	$(PARITY_VENV)/bin/python -m pip install $(PIP_FLAGS) --no-deps --editable .
	touch $@
