# `make` lists the targets. Everything runs in a virtual environment of its own, .venv.
.DEFAULT_GOAL := help
.PHONY: help setup demo test metaworld lint types imports bench claims clean
.SHELLFLAGS := -ec

VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/.ready

timed = @start=$$(date +%s); $(2); echo "$(1): $$(($$(date +%s) - start)) s"

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile

setup: $(READY)  ## create .venv with every dependency at its pinned version

# torch first and by its number: a plain `torch` may bring several GB of CUDA packages.
$(READY): pyproject.toml constraints.txt
	@python=$$(for p in python3.11 python3 python3.12 python3.13; do \
	  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done) \
	  || { echo "setup: needs Python 3.11 or newer as python3.11 or python3" >&2; exit 1; }; \
	$$python -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "setup: no venv module (Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(BIN)/pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)  ## compare methods on handwritten digits; see runs/digits/report.html
	$(BIN)/quickstudy compare digits --out runs/digits --resume

test: lint types imports  ## every check, then every test (at most 12 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --durations=5

metaworld: .metaworld/.ready  ## tests of Meta-World, beside the MuJoCo 3.3.0 that it needs
	OMP_NUM_THREADS=1 PYTHONPATH=.metaworld $(BIN)/python -m pytest tests/rl/test_metaworld.py

# Meta-World asks for exactly this MuJoCo, while all else runs on a newer one: both lie in a folder that is put in front.
.metaworld/.ready: $(READY)
	rm -rf .metaworld
	$(BIN)/pip install -q --no-deps --target .metaworld metaworld==3.1.1 mujoco==3.3.0
	@touch $@

lint: $(READY)  ## ruff
	$(call timed,lint,$(BIN)/ruff check .)

types: $(READY)  ## mypy, strict
	$(call timed,types,$(BIN)/mypy)

imports: $(READY)  ## import-linter: imports point down the data flow
	$(call timed,imports,$(BIN)/lint-imports)

bench: $(READY)  ## speed beside other libraries
	$(BIN)/python benchmarks/run.py

claims: $(READY)  ## what was claimed, what was measured
	$(BIN)/quickstudy claims

clean:  ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .metaworld build dist
	find src tests -name __pycache__ -prune -exec rm -rf {} +
