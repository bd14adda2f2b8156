# `make` alone prints what there is.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
ROOT ?= data

.PHONY: help install demo test test-long test-latest soak mutants crash-test study lint clean
help:            ## print this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

$(BIN)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 13) else "rdm needs Python 3.11 or 3.12: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

install: $(BIN)/.installed  ## create .venv and install the exact pins

demo: install    ## the whole path on built-in data: images to report, no GPU, no downloads
	$(BIN)/rdm demo --root $(ROOT)

test: install    ## lint and tests
	$(BIN)/ruff check .
	@# Three at once, as the tests of the flows wait for servers half of their time; the longest files first.
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m 'not long' -n 3 --dist loadfile --no-loadscope-reorder \
	    tests/flows/test_operations.py tests/test_readme.py tests/flows/test_crash.py tests/flows/run/test_deployments.py tests

test-long: install  ## the tests that `make test` leaves out for time: two processes, two machines, lost workers and servers, killed autoencoders, the study in small
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m long tests
	$(BIN)/pip install --quiet --upgrade --no-deps --constraint constraints.txt --target $(VENV)/transformers transformers tokenizers
	PYTHONPATH=$(VENV)/transformers $(BIN)/python -m pytest tests/rdm_core/test_encoder_weights.py

test-latest:     ## the newest packages that pyproject.toml's bounds allow, without constraints.txt: do deployments still run?
	$(PYTHON) -m venv $(VENV)-latest
	$(VENV)-latest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[dev]'
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(VENV)-latest/bin/python -m pytest tests/flows/run/test_deployments.py \
	    tests/flows/test_operations.py tests/flows/run/test_lost_runs.py tests/flows/run/test_messages.py tests/flows/run/test_notify.py

mutants: install  ## faults put in by chance, 150 in each package: how many do the tests notice? Two hours
	$(BIN)/pip install --quiet --upgrade --no-deps --target $(VENV)/mutants mutmut==3.8.1 libcst==1.9.0 coverage==7.17.5
	PYTHONPATH=$(VENV)/mutants $(BIN)/python tests/mutants.py

soak: install    ## an hour of scheduled rebuilds over a changing data set, worker and server killed at random; prints figures
	$(BIN)/python tests/flows/soak.py --minutes 60 --seed 0

crash-test: install  ## kill every stage at 200 random moments and compare; writes docs/reliability.md
	$(BIN)/python tests/flows/crash.py --kills 200 --seed 0

study: install   ## the six tests of the method over three training seeds (hours on 2 cores)
	$(BIN)/python -m benchmarks.study --root $(ROOT)

lint: install    ## ruff, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/mypy flows rdm_core storage
	$(BIN)/lint-imports

clean:           ## remove the environment; data/ is yours and stays
	rm -rf $(VENV) $(VENV)-latest
