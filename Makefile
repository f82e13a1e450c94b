# SPDX-License-Identifier: GPL-2.0-only
# make demo: crash a real kernel and find the commit that did it.
# make test: run the tests.
# Both do all the set-up themselves, a second time in no time.

TOP := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
VENV ?= $(TOP).venv
# How many files of tests run at once; guests take about a processor each.
TESTJOBS ?= 2
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo demo-kernel test test-all check bench pictures docs setup clean

demo: setup
	$(BIN)/ktriage demo $(if $(DEBUGINFO),--debuginfo) $(DEMOFLAGS)

demo-kernel:
	@KTRIAGE_KERNEL=1 PYTHON='$(PYTHON)' VENV='$(VENV)' $(TOP)scripts/setup
	$(BIN)/ktriage demo --example kernel$(if $(UAF),-uaf) $(DEMOFLAGS)

test: setup check
	cd $(TOP) && $(BIN)/coverage erase
	cd $(TOP) && $(BIN)/pytest -n $(TESTJOBS) --dist loadfile -m "not matrix" --cov --cov-report=term $(TESTFLAGS)

test-all: setup check
	cd $(TOP) && $(BIN)/pytest -n $(TESTJOBS) --dist loadfile --cov --cov-report=term $(TESTFLAGS)

check: setup
	cd $(TOP) && $(BIN)/ruff check .
	cd $(TOP) && $(BIN)/ruff format --check .
	cd $(TOP) && $(BIN)/mypy
	@# A module of the same name as another has to be looked at by itself.
	cd $(TOP) && $(BIN)/mypy examples/ulp-refcount

bench: setup
	cd $(TOP) && for b in trial console symbols bisect refs refs_record dump case; do echo "== $$b"; $(BIN)/python benchmarks/$$b.py || exit 1; done

pictures: setup
	PYTHON=$(BIN)/python $(TOP)scripts/make-pictures

docs: setup
	cd $(TOP) && $(BIN)/python -m mkdocs build --strict

setup:
	@PYTHON='$(PYTHON)' VENV='$(VENV)' $(TOP)scripts/setup

clean:
	rm -rf $(VENV) $(TOP)ktriage-out
