# Two commands: `make quickstart` and `make test`. Both set up everything they need, once.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# Brax and MinAtar for the environments brax/... and minatar/...
JAX    := $(VENV)/.jax-installed

.PHONY: quickstart test test-jax jax images test-slurm slurm-packages browser slurm-up slurm-down bench paper artefacts lint setup lock clean

# make runs in a shell of its own, which cannot put obdbench on the caller's PATH: it says how.
quickstart: $(STAMP)
	$(BIN)/obdbench sweep quickstart
	@echo "To type obdbench yourself: source $(BIN)/activate"

# Two processes of one thread each; neighbours, which share fixtures, mostly stay in one of them.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slurm and not jax"

# The tests in Brax and MinAtar: a process of their own, since JAX's threads and the forks of other tests do not mix.
test-jax: $(JAX)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m jax

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

# The extra `images`: the package with 5,000 digits of MNIST and what it asks for, 12 MB.
images: $(STAMP)
	$(PIP) $(HASHED) -r requirements.images.lock

bench: $(STAMP)
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only --benchmark-columns=median,iqr,rounds

# The tables and figures that docs/paper.md links to, from the shipped records.
paper: $(STAMP)
	rm -rf results/paper
	$(BIN)/obdbench paper --to results/paper
	rm -f results/paper/*.csv results/paper/*.tex results/paper/*.pdf results/paper/*.svg

# From a clone of an author's repository to the verdicts: make artefacts FOLDER=clone [SOURCE=obd]. Brax and MinAtar need make jax.
SOURCE ?= hades
artefacts: $(STAMP)
	@test -n "$(FOLDER)" || { echo "Name the clone: make artefacts FOLDER=... SOURCE=hades, obd or ppmo"; exit 2; }
	$(BIN)/obdbench artefacts import $(SOURCE) "$(FOLDER)" --force
	$(BIN)/obdbench artefacts score $(SOURCE)
	$(BIN)/obdbench paper reproduction authors-files --store obdbench-runs

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy obdbench benchmark baselines slurm results paper_figures
	$(BIN)/lint-imports

setup: $(STAMP)

# The stamp is newer than the lock file when the environment is as pinned: a second run installs nothing.
# Every file that is installed has a hash in the lock files; nothing is built, so no hash is missing for a build.
# Python compiles what it imports, an eighth of the 14,000 modules; for pip to compile all takes 33 seconds of a core. The
# last step has that done here, also where PYTHONDONTWRITEBYTECODE (of many container images) would have each start compile.
PIP := $(BIN)/python -m pip --disable-pip-version-check
HASHED := install --quiet --no-compile --require-hashes --no-deps --only-binary :all:
$(STAMP): requirements.lock requirements.cpu.lock requirements.cuda.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "OBD-Bench needs Python 3.11 or newer; set PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(HASHED) -r requirements.cpu.lock --no-index 2> /dev/null || true  # torch without CUDA, where a folder has it
	$(PIP) $(HASHED) -r requirements.lock
	$(CHECK) > /dev/null || $(PIP) $(HASHED) -r requirements.cuda.lock  # what torch with CUDA needs
	rm -rf obdbench.egg-info  # an older version's would be found before the installed entry points
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	$(CHECK) || { echo "The lock files lack what is named above on this machine: make lock" >&2; exit 1; }
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -c "import obdbench.face, benchmark.local_worker, benchmark.run, paper_figures.exhibits"
	for words in --help list; do env -u PYTHONDONTWRITEBYTECODE $(BIN)/obdbench $$words > /dev/null || exit; done
	touch $@

# gymnax 1.0.1 asks for gymnasium < 1.4, of which it imports nothing that changed: the suite keeps its own. All else must fit.
CHECK := ! $(PIP) check | grep -Ev '^gymnax .* requirement gymnasium|^No broken'

jax: $(JAX)
$(JAX): $(STAMP) requirements.jax.lock
	$(PIP) $(HASHED) -r requirements.jax.lock
	$(CHECK)
	touch $@

# Pins the versions of the environment in use, each with the sha256 of every file that the package index has of it.
# Of torch also that of its CPU build, which has no entry in the public index; and what its CUDA build needs besides.
# What only an extra needs is in a file of its own, whose versions stay; its gymnasium is the suite's, whatever gymnax asks for.
EXTRAS := images jax
LOCK := build/lock
COMPILE := $(LOCK)/venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header
lock:
	rm -rf $(LOCK)
	$(PYTHON) -m venv $(LOCK)/venv
	$(LOCK)/venv/bin/python -m pip install --quiet uv
	$(PIP) freeze --all --exclude-editable | grep -v '^pip==' > $(LOCK)/everything
	cat $(EXTRAS:%=requirements.%.lock) | awk -F == 'NR == FNR {if ($$2) extra[$$1]; next} \
	  {name = tolower($$1); gsub(/[_.]/, "-", name)} !(name in extra)' - $(LOCK)/everything > $(LOCK)/installed
	sed 's/+[a-z0-9]*$$//' $(LOCK)/installed > $(LOCK)/pinned.in
	$(COMPILE) --no-deps $(LOCK)/pinned.in -o $(LOCK)/all.lock
	grep '^torch==' $(LOCK)/pinned.in > $(LOCK)/torch.in
	$(COMPILE) --constraint $(LOCK)/pinned.in --no-emit-package torch $(LOCK)/torch.in -o $(LOCK)/cuda.lock
	if torch=$$(grep '^torch==.*+cpu$$' $(LOCK)/installed); then \
	  $(PIP) download --quiet --no-deps --dest $(LOCK)/local $$torch && \
	  hash=$$($(PIP) hash $(LOCK)/local/torch-*.whl | grep -- --hash) && \
	  printf '%s \\\n    %s\n' $${torch%+*} $$hash > requirements.cpu.lock; fi
	for extra in $(EXTRAS); do \
	  cp requirements.$$extra.lock $(LOCK)/ && \
	  $(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['$$extra'], sep='\n')" > $(LOCK)/$$extra.in && \
	  $(COMPILE) --override $(LOCK)/pinned.in --constraint requirements.$$extra.lock \
	    $$(sed 's/==.*//; s/^/--no-emit-package /' $(LOCK)/pinned.in) $(LOCK)/$$extra.in -o $(LOCK)/requirements.$$extra.lock || exit 1; done
	mv $(EXTRAS:%=$(LOCK)/requirements.%.lock) .
	mv $(LOCK)/all.lock requirements.lock
	mv $(LOCK)/cuda.lock requirements.cuda.lock

clean:
	rm -rf $(VENV) build *.egg-info
