# make demo [SPEECH=dir]   the whole pipeline on real speech, into demo-run/; again: continues. FROM=voice (default if there)
#                          goes on from the voice that comes along, FROM=scratch trains all from nothing
# make test                the test suite
# make constraints         pin what an installation takes (infra/constraints.txt); UPGRADE=1 renews the pins that are there
# make lint types arrows   style (ruff), types (mypy), and that imports between the folders point one way
#
# Each creates .venv first, and renews it when pyproject.toml or the constraints change.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
DEMO_FOLDER ?= demo-run

.PHONY: demo test lint types arrows constraints env clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	@$(VENV)/bin/triforce demo "$(DEMO_FOLDER)" $(if $(SPEECH),--speech "$(SPEECH)") $(if $(FROM),--from "$(FROM)")

test: $(STAMP)
	@$(VENV)/bin/python -m pytest

lint: $(STAMP)
	@$(VENV)/bin/ruff check .

types: $(STAMP)
	@$(VENV)/bin/mypy

arrows: $(STAMP)
	@$(VENV)/bin/python -m pytest -q tests/test_layout.py

constraints: $(STAMP)
	@$(VENV)/bin/python infra/constraints.py $(if $(UPGRADE),--upgrade)

env: $(STAMP)

$(STAMP): pyproject.toml infra/constraints.txt infra/install.sh
	@PYTHON="$(PYTHON)" bash infra/install.sh "$(VENV)"
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache
