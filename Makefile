# Everything runs in .venv, which the first command makes. `make help` lists them.

# PYTHON=/path/to/python3.11 chooses; left alone, the first of these that is 3.11.
CANDIDATES = $(or $(PYTHON),python3.11 python3)
OUT ?= runs/quickstart
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DELETE_ON_ERROR:
.PHONY: help quickstart test test-slow lint format docs clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

quickstart: .venv/.installed ## tiny sparse pre-training to exported file; ARGS="--set ..." is passed on
	$(BIN)/spdf-keras quickstart --out $(OUT) $(ARGS)

test: .venv/.installed-test ## fast tests; ARGS="-k masks" is passed on
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: .venv/.installed-test ## the tests that take minutes
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: .venv/.installed-test ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.installed-test ## rewrite in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/.installed-docs ## the documentation as a site in .build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Read it: $(BIN)/python -m http.server --bind 127.0.0.1 -d .build/site"

clean: ## remove .venv, caches and builds; runs/ stays
	rm -rf .venv .build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find spdf_keras export tests docs -name __pycache__ -prune -exec rm -rf {} +

# A stamp is written last, so a step that was interrupted is done again, and it
# lies in .venv, so it goes when the environment goes.

IS_311 := import sys; sys.exit(sys.version_info[:2] != (3, 11))

# A .venv that is there is kept if it works: right Python, and pip not half-written.
.venv/.created:
	@for python in $(CANDIDATES); do \
	  "$$python" -c '$(IS_311)' 2>/dev/null || continue; \
	  echo "Making .venv with $$python"; \
	  "$$python" -m venv .venv && $(PIP) --version && $(BIN)/python -c '$(IS_311)' \
	    || "$$python" -m venv --clear .venv || exit 1; \
	  touch $@; exit; \
	done >&2; \
	echo "Python 3.11 is needed and was not found. Tried: $(CANDIDATES)." \
	  "Install it, or name one: make PYTHON=/path/to/python3.11 ..." >&2; exit 1

.venv/.installed: .venv/.created setup.py pyproject.toml
	$(PIP) install -e .
	$(BIN)/python -m spdf_keras.native.build --optional
	@touch $@

.venv/.installed-test: .venv/.installed
	$(PIP) install -e '.[test]'
	@touch $@

.venv/.installed-docs: .venv/.installed
	$(PIP) install -e '.[docs]'
	@touch $@
