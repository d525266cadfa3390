# `make train` and `make test` are all the set-up there is: each creates .venv and installs what is pinned.
PYTHON ?= python3
VENV := .venv
PARITY_VENV := .venv-parity
PIP := -m pip install --quiet --disable-pip-version-check
PYTEST := -m pytest -n 2 --dist loadfile --no-loadscope-reorder
NATIVE := setup.py $(wildcard inception_jax/data/native/*.[ch] inception_jax/ops/csrc/*.h inception_jax/ops/csrc/*.cc)
SITE := 'import sysconfig; print(sysconfig.get_path("purelib"))'

.DELETE_ON_ERROR:
.PHONY: train test test-slow lint unit parity weights-table docs clean

train: $(VENV)/installed
	$(VENV)/bin/python train.py --config configs/digits.py --workdir runs/digits

test: lint unit

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

unit: $(VENV)/installed-dev
	$(VENV)/bin/python $(PYTEST)

test-slow: $(VENV)/installed-dev $(PARITY_VENV)/installed
	$(VENV)/bin/python $(PYTEST) -m "slow and not parity"
	$(PARITY_VENV)/bin/python $(PYTEST) -m "slow and parity" tests/parity
	$(VENV)/bin/python -m pytest -m faults -s tests/pods

parity: $(PARITY_VENV)/installed
	$(PARITY_VENV)/bin/python $(PYTEST) -m "parity and not slow" tests/parity

# Weight files of every kind against their originals, into docs/WEIGHTS_TABLE.md.
weights-table: $(PARITY_VENV)/installed
	JAX_PLATFORMS=cpu $(PARITY_VENV)/bin/python -m tests.parity.weights_table

docs: $(VENV)/installed
	$(VENV)/bin/python -m inception_jax.describe.models_page
	$(VENV)/bin/inception-jax bench report --overwrite

clean:
	rm -rf $(VENV) $(PARITY_VENV) build *.egg-info

%/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: make PYTHON=python3.x ...")'
	$(PYTHON) -m venv $* || { rm -rf $*; exit 1; }

.SECONDARY: $(VENV)/bin/python $(PARITY_VENV)/bin/python

# Without isolation the kernels are compiled with the headers of the jaxlib that they run with, not of the newest one.
%/installed: requirements.txt pyproject.toml $(NATIVE) | %/bin/python
	$*/bin/python $(PIP) --requirement requirements.txt
	$*/bin/python $(PIP) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(VENV)/bin/python $(PIP) --requirement requirements-dev.txt
	touch $@

# It stands on $(VENV) and adds the originals to it.
$(PARITY_VENV)/bin/python: | $(VENV)/bin/python
	$(VENV)/bin/python -m venv --without-pip $(PARITY_VENV)
	echo "import site; site.addsitedir('$$($(VENV)/bin/python -c $(SITE))')" > "$$($@ -c $(SITE))/base.pth"

# The originals come without their dependencies: those would replace the CPU build of torch.
$(PARITY_VENV)/installed: requirements-parity.txt requirements-originals.txt $(VENV)/installed-dev | $(PARITY_VENV)/bin/python
	$(PARITY_VENV)/bin/python $(PIP) --requirement requirements-parity.txt
	$(PARITY_VENV)/bin/python $(PIP) --no-deps --requirement requirements-originals.txt
	touch $@
