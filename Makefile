# Every target that needs the virtual environment makes it first, so `make train` or `make test` is
# the whole installation. Arguments for the program behind a target go into ARGS. PYTHON names the
# Python that makes .venv; without it python3.12, python3.11 and python3 are tried in turn.
PYTHON ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup train test test-all lint format benchmark docs clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/  make \1\t\2/p' Makefile | expand -t 18
	@echo '  for example: make train ARGS="task=walker_walk seed=1", make test ARGS="-k replay"'

setup: .venv/.installed  ## make .venv and check that OpenGL draws without a screen
	@sh .ci/opengl $(BIN)/python

train: setup  ## train on the quickstart experiment, or what ARGS override
	$(BIN)/python train.py experiment=quickstart $(ARGS)

test: setup  ## run the fast tests
	$(BIN)/python -m pytest $(ARGS)

test-all: setup  ## run the slow tests too
	$(BIN)/python -m pytest -m "" $(ARGS)

lint: .venv/.installed  ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: .venv/.installed  ## mend what ruff can mend, and format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

benchmark: setup  ## measure speed
	$(BIN)/python -m benchmarks.speed $(ARGS)

docs: .venv/.docs  ## build the website of docs/ in the folder site
	$(BIN)/python -m benchmarks.docs
	@# the variable silences a notice about the successor of mkdocs-material, which ends in May 2027
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

clean:  ## remove .venv, caches and build leftovers; runs stay
	rm -rf .venv build dist site *.egg-info .pytest_cache .hypothesis .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/pip
	$(BIN)/python -m pip install -e '.[dev]' -c constraints.txt
	@touch $@

.venv/.docs: .venv/.installed
	$(BIN)/python -m pip install -e '.[docs]' -c constraints.txt
	@touch $@

.venv/bin/pip:
	@python=$$(sh .ci/python $(if $(PYTHON),"$(PYTHON)")) && echo "$$python -m venv --clear .venv" && \
		"$$python" -m venv --clear .venv
