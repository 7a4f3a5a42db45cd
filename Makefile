# Two commands: `make quickstart` and `make test`. Both set up everything they need, once.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: quickstart test test-slurm slurm-packages browser slurm-up slurm-down bench paper lint setup lock clean

quickstart: $(STAMP)
	$(BIN)/obdbench sweep quickstart

# Two processes of one thread each; neighbours, which share fixtures, mostly stay in one of them.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slurm"

# The tests on a real SLURM: they mostly wait, so four processes, each with a cluster of its own.
test-slurm: $(STAMP) slurm-packages
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 4 --dist loadgroup -m slurm

slurm-up: $(STAMP) slurm-packages
	$(BIN)/python -m tests.one_node_cluster up

slurm-down: $(STAMP)
	$(BIN)/python -m tests.one_node_cluster down

# Debian's packages of SLURM and of its accounting; needs root.
slurm-packages: $(STAMP)
	$(BIN)/python -m tests.one_node_cluster packages

# For the tests of the report a headless Chromium, for those of MuJoCo's pictures Mesa's EGL; needs root where they are missing.
browser:
	command -v chromium || command -v chromium-browser || { apt-get update -qq && apt-get install -y -qq chromium; }
	ldconfig -p | grep -q libEGL_mesa || { apt-get update -qq && apt-get install -y -qq libegl1 libgl1-mesa-dri; }

bench: $(STAMP)
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only --benchmark-columns=median,iqr,rounds

# The tables and figures that docs/paper.md links to, from the shipped records.
paper: $(STAMP)
	rm -rf results/paper
	$(BIN)/obdbench paper --to results/paper
	rm -f results/paper/*.csv results/paper/*.tex results/paper/*.pdf results/paper/*.svg

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy obdbench benchmark baselines slurm results paper_figures
	$(BIN)/lint-imports

setup: $(STAMP)

# The stamp is newer than the lock file when the environment is as pinned: a second run installs nothing.
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "OBD-Bench needs Python 3.11 or newer; set PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	rm -rf obdbench.egg-info  # an older version's would be found before the installed entry points
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# Pins the versions of the environment in use; torch without its local build tag, so that it resolves anywhere.
lock:
	$(BIN)/python -m pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+cpu$$//' > requirements.lock

clean:
	rm -rf $(VENV) build *.egg-info
