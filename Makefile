# The habits of the project. Each target does its own set-up; a second run takes seconds.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# As $(PIP), and shows how far it is.
INSTALL := deploy/install $(BIN)/python
# What the services install: every package at one version, checked against the digests of its wheels.
LOCKED := --require-hashes --only-binary :all:
# With the setuptools of tools.txt, which warns of every editable installation.
EDITABLE := --no-build-isolation --editable
LOCKS := deploy/requirements
PACKAGES := pyproject.toml $(addprefix $(LOCKS)/,tools.txt edge.txt cloud.txt models.txt)
UV := uv==0.13.9

# The set-up counts its steps. One that was done before says nothing, unless it has to check something.
STEPS := 3
MODELS_STEP := 3
run demo: STEPS := 4
test test-browser: STEPS := 5
test-all: STEPS := 6
bench bench-edge bench-migrate bench-subjects bench-recall soak fuzz accuracy: STEPS := 4
test test-all test-browser bench bench-edge bench-migrate bench-subjects bench-recall soak fuzz accuracy: MODELS_STEP := 4
OPTIONAL_STEP = $(STEPS)
test-all: OPTIONAL_STEP := 5

.PHONY: help run free-ports demo test test-all test-browser browser guarantees test-milvus lint format bench bench-edge bench-library bench-migrate bench-subjects bench-cloud bench-recall contention soak kill-test fuzz accuracy lab models optional-models compose-test lock clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

run: free-ports $(VENV)/.run models  ## Run edge and cloud here, in the foreground, until Ctrl-C
	@echo "[4/4] Starting the cloud and the edge (a few seconds) ..."
	@exec $(BIN)/python -m deploy.run_pair

free-ports:
	@$(PYTHON) deploy/ports

demo: $(VENV)/.run models  ## Enroll, verify and identify the sample pictures, in a folder of its own
	@echo "[4/4] Starting a cloud and an edge of their own (a few seconds) ..."
	@exec $(BIN)/python -m deploy.demo

# Two workers with one thread each. A file's tests stay in one worker, which starts the file's services once. Bytecode is
# kept: where the environment forbids that, each of hundreds of processes would compile all code again.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.test models optional-models  ## Run the fast tests: make test ARGS=tests/shared
	@$(PYTEST) -m "not slow" --hypothesis-profile=fast $(ARGS)

test-all: $(VENV)/.test models optional-models browser  ## Run the fast and the slow tests, with coverage
	@$(PYTEST) --hypothesis-profile=slow --cov --cov-report=term $(ARGS)

test-browser: $(VENV)/.test models browser  ## Run the console's tests in Chromium; SCREENSHOTS=FOLDER keeps pictures
	@SCREENSHOTS=$(SCREENSHOTS) $(PYTEST) --hypothesis-profile=slow tests/browser $(ARGS)

guarantees: $(VENV)/.test models  ## Break each guarantee in a copy of the code, and see which fast tests fail (minutes)
	@$(BIN)/python -m tests.load.broken_guarantees $(ARGS)

# Milvus' server listens on all interfaces: it gets a network with nothing but loopback.
ALONE := unshare $(if $(filter 0,$(shell id -u)),,--map-current-user --keep-caps) --net
MILVUS_TESTS := $(addprefix tests/cloud_service/index/,test_milvus_index.py test_milvus_store.py test_congruence.py test_replicas.py)

test-milvus: $(VENV)/.test  ## Run the tests of the index in Milvus on a real server (6 minutes; Linux)
	@$(PIP) --no-deps --constraint constraints.txt 'milvus==2.3.5'
	@$(ALONE) $(BIN)/python -m tests.support.milvus_standalone $(BIN)/python -m pytest $(MILVUS_TESTS) $(ARGS)

lint: $(VENV)/.test  ## Check style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(VENV)/.test  ## Format the code
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: $(VENV)/.test models  ## Time one verify and where it goes
	@$(BIN)/python -m tests.load.bench $(ARGS)

bench-edge: $(VENV)/.test models  ## Time the edge beside its models alone: make bench-edge QUICK=1 CALLERS=1,8
	@$(if $(QUICK),QUICK=1) $(BIN)/python -m tests.load.edge.bench_edge $(if $(CALLERS),--callers $(CALLERS)) $(ARGS)

bench-library: $(VENV)/.test  ## Time the library, without services
	@OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m tests.load.bench_library $(ARGS)

bench-migrate: $(VENV)/.test models  ## Time the migration of stored embeddings, and patronus protect
	@$(BIN)/python -m tests.load.galleries.bench_migrate $(ARGS)

bench-subjects: $(VENV)/.test models  ## Time what is done with the subjects of a gallery of 100,000 sealed names
	@$(BIN)/python -m tests.load.galleries.bench_subjects $(ARGS)

bench-cloud: $(VENV)/.test  ## Time the cloud beside FAISS itself: make bench-cloud SIZES=10000,100000 CONCURRENCY=1,64
	@$(BIN)/python -m tests.load.bench_cloud $(if $(SIZES),--sizes $(SIZES)) $(if $(CONCURRENCY),--concurrency $(CONCURRENCY)) $(ARGS)

bench-recall: $(VENV)/.test models  ## Measure recall of the index on real faces: make bench-recall LFW=FOLDER
	@test -n "$(LFW)$${PATRONUS_FACE_DATA:-}" || { echo "Name the folder with lfw112.tar, lfw_pairs.txt and utkface112.tar: make bench-recall LFW=FOLDER" >&2; exit 2; }
	@OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m tests.load.bench_recall --faces "$${PATRONUS_FACE_DATA:-$(LFW)}" $(ARGS)

contention: $(VENV)/.test  ## Time searches beside writers: make contention SIZES=1000000
	@$(BIN)/python -m tests.load.contention $(if $(SIZES),--sizes $(SIZES)) $(ARGS)

soak: $(VENV)/.test models  ## Load the cloud for long and measure its growth: make soak MINUTES=20 ARGS=--pictures
	@$(BIN)/python -m tests.load.soak $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

kill-test: $(VENV)/.test  ## Kill the cloud under load, again and again: make kill-test CYCLES=200
	@$(BIN)/python -m tests.load.crash $(if $(CYCLES),--cycles $(CYCLES)) $(ARGS)

fuzz: $(VENV)/.test models  ## Check both services against their OpenAPI documents: make fuzz SECONDS=600
	@$(BIN)/python -m tests.load.fuzz $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

accuracy: $(VENV)/.test models  ## Measure the embedder on LFW: make accuracy LFW=FOLDER
	@test -n "$(LFW)$${PATRONUS_FACE_DATA:-}" || { echo "Name the folder with lfw112.tar and lfw_pairs.txt: make accuracy LFW=FOLDER (docs/accuracy.md)" >&2; exit 2; }
	@$(BIN)/python -m lab.evaluation.accuracy $(if $(LFW),--lfw $(LFW)) $(ARGS)

lab: $(VENV)/.test  ## Set up the lab: torch and what it needs
	@echo "The lab is ready: $(BIN)/patronus lab --help"

models: $(VENV)/.run  ## Fetch, check and convert the face models
	@echo "[$(MODELS_STEP)/$(STEPS)] Checking the face models; fetching what is missing (11 MB) ..."
	@$(BIN)/python -m edge_service.models fetch

optional-models: $(VENV)/.run  ## Fetch the other embedder, too: once, 100 MB
	@echo "[$(OPTIONAL_STEP)/$(STEPS)] Checking the second embedder; fetching it if it is missing (100 MB) ..."
	@$(BIN)/python -m edge_service.models fetch --embedder dlib_resnet29 || echo "Without it, the tests that need it are skipped." >&2

browser: $(VENV)/.browser
	@echo "[$(STEPS)/$(STEPS)] Looking for Chromium; installing Debian's if it is missing (100 MB) ..."
	@deploy/chromium || echo "Without it, the console's tests in a browser are skipped." >&2

compose-test:  ## Build the containers and try them: up, enroll, down, up, verify
	@deploy/compose-test

lock: $(VENV)/.test $(VENV)/.browser  ## Renew constraints.txt from what is installed, and the digests in deploy/requirements
	@{ head -1 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable; } > constraints.new && mv constraints.new constraints.txt
	@$(PYTHON) -m venv .venv/lock && .venv/lock/bin/python -m pip install --quiet --disable-pip-version-check '$(UV)'
	@deploy/lock .venv/lock/bin/uv

clean:  ## Remove the virtual environment and converted models
	rm -rf $(VENV) .models

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Patronus needs Python 3.11 or newer; name one: make PYTHON=python3.11" >&2; exit 1; }
	@echo "[1/$(STEPS)] Making a virtual environment in $(VENV) (10 seconds) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(PACKAGES) | $(VENV)/bin/python
	@echo "[2/$(STEPS)] Installing packages for the services into $(VENV), once (about 1 minute) ..."
	@$(INSTALL) $(LOCKED) --requirement $(LOCKS)/tools.txt
	@$(INSTALL) $(LOCKED) --requirement $(LOCKS)/edge.txt --requirement $(LOCKS)/cloud.txt --requirement $(LOCKS)/models.txt
	@$(BIN)/python -m pip uninstall --quiet --yes patronus 2>/dev/null  # its name until it was patronus-face
	@PYTHONWARNINGS=ignore $(INSTALL) --no-deps $(EDITABLE) .
	@touch $@

$(VENV)/.test: constraints.txt $(VENV)/.run
	@echo "[3/$(STEPS)] Installing packages for tests and the lab into $(VENV), once (about 3 minutes) ..."
	@PYTHONWARNINGS=ignore $(INSTALL) --constraint constraints.txt $(EDITABLE) '.[test]'
	@touch $@

$(VENV)/.browser: $(VENV)/.test
	@PYTHONWARNINGS=ignore $(INSTALL) --constraint constraints.txt $(EDITABLE) '.[browser]'
	@touch $@
