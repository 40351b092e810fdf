# The commands of Tidewire's own development. Each does its set-up first: a virtual environment from the lock file, and
# what is missing from Debian's packages where root or sudo allows. A second run starts at once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# What the tests run besides Python, as command=package.
TEST_PACKAGES := mosquitto=mosquitto mosquitto_pub=mosquitto-clients sqlite3=sqlite3 openssl=openssl \
	ip=iproute2 iptables=iptables mount=mount mkfs.ext4=e2fsprogs

BENCH_PACKAGES := mosquitto=mosquitto

# Tests run side by side, one process per processor; each has ports, brokers and files of its own.
PARALLEL := --numprocesses logical --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test faults sim bench bench-report lint format lock clean compiled

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(READY) compiled ## a broker, a hub and three agents on this machine, for a minute (ARGS=--keep: until Ctrl-C)
	@.ci/packages --optional mosquitto=mosquitto
	@PATH="$$PATH:/usr/sbin" $(BIN)/tidewire-hub demo $(ARGS)

test: lint compiled ## style, types and every test (ARGS='tests/unit -k name': some of them)
	@.ci/packages $(TEST_PACKAGES)
	PATH="$(CURDIR)/$(BIN):$$PATH:/usr/sbin:/sbin" $(BIN)/pytest $(PARALLEL) $(ARGS)

faults: $(READY) compiled ## all tests in which something goes wrong, at length (ARGS='--chaos-seed 5'); best as root
	@.ci/packages $(TEST_PACKAGES)
	PATH="$(CURDIR)/$(BIN):$$PATH:/usr/sbin:/sbin" $(BIN)/pytest $(PARALLEL) -m fault --require-rights --chaos-kills 60 --fault-rounds 12 --crash-steps all $(ARGS)

sim: $(READY) ## simulate many worlds full of faults (ARGS='--seeds 0:10000 --steps 500', ARGS='--seed 17 --history')
	@PYTHONPATH=tests $(BIN)/python -m simulation $(ARGS)

bench: $(READY) compiled ## how fast it is, and how fast its parts could be (ARGS='T L --repeats 5', ARGS=--list)
	@.ci/packages $(BENCH_PACKAGES)
	@PATH="$$PATH:/usr/sbin" PYTHONPATH=tests:. $(BIN)/python -m bench $(ARGS)

# Plots need more than the rest of the development: it is installed when it is needed.
bench-report: $(READY) ## put results of make bench into docs/explanation/performance.md (ARGS=bench/results/latest.json)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt
	@PYTHONPATH=tests:. $(BIN)/python -m bench.report $(ARGS)

lint: $(READY) ## style and types alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## put the code into its form
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

# Universal: one file for every platform and Python from 3.11. Hashes pin the content, so no file says where it is from.
# Each file keeps to the versions of the one before it.
COMPILE = $(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
	--no-header --no-emit-index-url --no-emit-find-links $(UPGRADE)
lock: $(READY) ## make the lock files anew (UPGRADE=--upgrade: with the newest releases)
	$(COMPILE) pyproject.toml -o requirements/agent.txt
	$(COMPILE) pyproject.toml --extra hub -c requirements/agent.txt -o requirements/hub.txt
	$(COMPILE) pyproject.toml requirements/build.in --extra dev -c requirements/hub.txt -o requirements/dev.txt
	$(COMPILE) requirements/build.in -c requirements/dev.txt -o requirements/build.txt
	$(COMPILE) pyproject.toml --extra bench -c requirements/dev.txt -o requirements/bench.txt

clean: ## remove what these commands made, except bench results
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Hundreds of processes are started: where Python is told to keep no bytecode, each would compile every module again.
compiled: $(READY)
	@$(BIN)/python -m compileall -q agent hub link schemas tests bench

$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Tidewire needs Python 3.11 or newer: make PYTHON=python3.12 …" >&2; exit 1; }
	@PYTHON=$(PYTHON) .ci/packages venv=python3-venv
	[ -x $(BIN)/pip ] || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
