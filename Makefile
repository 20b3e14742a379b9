# The four things a newcomer needs. `make help` lists them.
#
# Only git, make and Python 3.11 or later are needed: everything else goes into .venv, from requirements.lock.
# PYTHON=/path/to/python picks another interpreter; ARGS="..." is handed on to othink or pytest.

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format ui clean
.DELETE_ON_ERROR:

VENV := .venv
STAMP := $(VENV)/.installed
BUSY := $(VENV)/.installing
LOG := $(VENV)/install.log
PYTHON ?=
# Test files are spread over this many processes; servers and tiny models are started once a file.
JOBS ?= 2
ARGS ?=

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-16s%s\n", $$1, $$2}'

demo: $(STAMP)  ## install if needed, then run the whole pipeline on the demo tasks
	@$(VENV)/bin/othink run $(ARGS)

test: $(STAMP)  ## install if needed, then run every test
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: $(STAMP)  ## ruff, mypy and the import contracts
	@$(VENV)/bin/ruff format --check --quiet . || { echo "lint: not formatted; 'make format' does it" >&2; exit 1; }
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy --no-error-summary
	@$(VENV)/bin/lint-imports --no-logo
	@echo "lint: clean"

format: $(STAMP)  ## let ruff format the code and mend what it can
	@$(VENV)/bin/ruff format --quiet .
	@$(VENV)/bin/ruff check --quiet --fix .

ui: $(STAMP)  ## MLflow and Prefect servers on loopback, with their addresses
	@$(VENV)/bin/othink ui $(ARGS)

install: $(STAMP)  ## make .venv from requirements.lock, if it is not up to date

clean:  ## remove .venv and the tools' caches (data, models and runs stay)
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# BUSY marks an install under way. If it is still there, that install was cut short: its packages may look whole
# without being so, and the environment is made anew.
$(STAMP): requirements.lock pyproject.toml
	@command -v git >/dev/null 2>&1 || { echo "make: git is not installed; install it (apt install git) and try again" >&2; exit 1; }
	@set -e; \
	python=""; \
	for candidate in $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then python="$$candidate"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "make: no Python 3.11 or later in $(or $(PYTHON),PATH); install it or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; \
	fi; \
	"$$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || { \
	  echo "make: $$python has no venv module; install it (apt install python3-venv) and try again" >&2; exit 1; }; \
	if [ -e $(BUSY) ]; then echo "The last install was cut short: starting $(VENV) anew."; rm -rf $(VENV); fi; \
	echo "Installing $$(grep -c '^[^#]' requirements.lock) pinned packages into $(VENV): a few minutes (details: $(LOG))"; \
	mkdir -p $(VENV); touch $(BUSY); \
	[ -x $(VENV)/bin/pip ] || "$$python" -m venv $(VENV); \
	export PIP_PROGRESS_BAR=off PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1; \
	{ $(VENV)/bin/python -m pip install -r requirements.lock \
	  && $(VENV)/bin/python -m pip install --no-deps --no-build-isolation --editable . \
	  && $(VENV)/bin/python -m pip check; \
	} >$(LOG) 2>&1 || { grep -vi '^warning' $(LOG) | tail -n 15 >&2; echo "make: the installation failed; all of pip's output is in $(LOG)" >&2; exit 1; }; \
	rm $(BUSY); touch $(STAMP)
