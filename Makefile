# Two commands do all the set-up: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
S3     := .venv-s3
# Most tests wait more than they compute: twice as many at a time as a small machine has cores.
JOBS   ?= 4
# Tests start hundreds of processes: where this is set, each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE
PYTEST := $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal

.PHONY: help demo test test-slow test-s3 soak chaos mutants unit lint types bench day kafka kafka-stop lock clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements-dev.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

demo: $(READY)  ## run the main job: a log through Kafka's protocol into windowed counts
	$(BIN)/streamapp demo

test: $(READY)  ## run the tests, on the embedded broker and, with Java and Maven, on Apache Kafka
	$(PYTEST) -m "not slow and not soak"

test-slow: $(READY)  ## run the longer fault tests
	$(PYTEST) -m "slow and not soak"

$(S3)/.ready: requirements-s3.txt
	$(PYTHON) -m venv $(S3)
	$(S3)/bin/pip install --quiet -r requirements-s3.txt
	$(S3)/bin/pip install --quiet --no-deps --editable .
	@touch $@

test-s3: $(S3)/.ready  ## try snapshots on S3, played by moto, whose packages have an environment of their own
	STREAMAPP_REQUIRE_S3=1 $(S3)/bin/python -m pytest -q tests/engine/test_snapshots.py -k from_s3

soak: $(READY)  ## run all seeds of the fault tests, for an hour
	$(BIN)/python -m pytest -q -m soak

chaos: $(READY)  ## let faults befall workers on Apache Kafka, by seed, for about twenty minutes
	$(BIN)/python -m tests.chaos

mutants: $(READY)  ## take out the lines that hold the invariants, and see their tests fail
	$(BIN)/python -m tests.invariants.mutants

unit: $(READY)  ## run the tests that need no broker
	$(BIN)/python -m pytest -x -q -m "not broker and not slow and not soak"

lint: $(READY)  ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## check types, strictly
	$(BIN)/mypy

bench: $(READY)  ## measure against bare loops, each pair in one run, how fast a worker comes back, and rebalances
	@status=0; for part in bench bench.tweets bench.restore bench.reopen bench.rebalance; do \
		$(BIN)/python -m $$part || status=1; done; exit $$status

day: $(READY)  ## run a day of event time in ten minutes, and see that nothing grows
	$(BIN)/python -m bench.day

kafka: $(READY)  ## start an Apache Kafka to try things out on, and print its address
	@$(BIN)/python -m tests.kafka start

kafka-stop: $(READY)  ## stop it
	@$(BIN)/python -m tests.kafka stop

lock: $(READY)  ## write down the versions in the environment as the ones to test with
	@(head -1 requirements-dev.txt; $(BIN)/pip freeze --exclude-editable | \
		grep -E '^[^ ]+==') > $(VENV)/locked && mv $(VENV)/locked requirements-dev.txt && touch $(READY)

clean:  ## remove the environment and the demo's state
	rm -rf $(VENV) $(S3) .streamapp .pytest_cache .mypy_cache .ruff_cache .hypothesis
