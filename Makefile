# `make demo` and `make test` do all the set-up on a machine that has Python >= 3.11 and make.
# Variables: PYTHON (which interpreter makes the virtual environment), VENV (where it lies), PIP_ARGS (for pip install).
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
PIP_ARGS ?=
BIN := $(VENV)/bin
SETUP := pyproject.toml setup.cfg constraints.txt

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Errors only: what pip warns of are the machine's own settings of it.
PIP := pip install -qq

.PHONY: demo demo-ccexpert test test-slow test-deepspeed test-floor lint format bench clean help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

demo: $(VENV)/.installed-demo  ## train a small model in front of you, score it, write demo_output/report.html
	$(BIN)/rscc demo --output demo_output --overwrite

demo-ccexpert: $(VENV)/.installed-demo  ## the same of a small CCExpert in its stages; demo_output_ccexpert/report.html
	$(BIN)/rscc demo --model ccexpert --output demo_output_ccexpert --overwrite

test: $(VENV)/.installed-dev  ## the tests (data made on the spot; no network)
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(VENV)/.installed-dev  ## the tests that take longer
	$(BIN)/python -m pytest -m slow

test-deepspeed: $(VENV)/.installed-dev  ## two processes under DeepSpeed (installs it: compiles, takes minutes)
	$(BIN)/python -m $(PIP) $(PIP_ARGS) -c constraints.txt -e ".[deepspeed]"
	$(BIN)/python -m pytest -m slow tests/training/systems/test_ccexpert_deepspeed.py

test-floor: .venv-floor/.installed  ## the tests on the oldest supported versions (constraints-floor.txt)
	.venv-floor/bin/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.installed-dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/tools/check_types.py

format: $(VENV)/.installed-dev  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the virtual environments and what was built
	rm -rf .venv .venv-floor build demo_output demo_output_ccexpert

define make_venv
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 found: install one, or name it with make PYTHON=/path/to/python3." >&2; exit 1; }
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m $(PIP) --upgrade pip
endef

$(VENV)/.installed-demo: $(SETUP)
	$(call make_venv,$(VENV))
	$(BIN)/python -m $(PIP) $(PIP_ARGS) -c constraints.txt -e ".[eval,demo]"
	touch $@

$(VENV)/.installed-dev: $(SETUP)
	$(call make_venv,$(VENV))
	$(BIN)/python -m $(PIP) $(PIP_ARGS) -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/.installed-demo

.venv-floor/.installed: pyproject.toml setup.cfg constraints-floor.txt
	$(call make_venv,.venv-floor)
	.venv-floor/bin/python -m $(PIP) $(PIP_ARGS) -c constraints-floor.txt -e ".[test]"
	touch $@
