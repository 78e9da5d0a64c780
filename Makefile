# make demo | test | bench | check | clean. Each sets up .venv here by itself: torch, then fastgrad by a plain pip
# install. A later call reuses it, and reinstalls only after a source has changed (the build in build/ is incremental).
PYTHON ?= python3
TORCH ?= torch==2.13.0
ARGS ?=

BIN := .venv/bin
SOURCES := $(shell find csrc fastgrad benchmarks cmake CMakeLists.txt setup.py pyproject.toml -type f \
             ! -path 'benchmarks/results/*' ! -name '*.so' ! -name '*.pyc' ! -name '_build_info.py')

.PHONY: demo test bench check clean

demo: .venv/installed-demo
	$(BIN)/fastgrad demo $(ARGS)

bench: .venv/installed-bench
	$(BIN)/fastgrad bench $(ARGS)

# Once per backend of this machine; ARGS goes to pytest.
test: .venv/installed-test
	$(BIN)/python tools/run_tests.py $(ARGS)

check: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/mypy
	find csrc -name '*.h' -o -name '*.cpp' -o -name '*.inc' -o -name '*.cu' -o -name '*.cuh' \
	  | xargs $(BIN)/clang-format --dry-run -Werror
	$(BIN)/python tools/check_layers.py

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/torch:
	$(PYTHON) -m venv .venv
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install "$(TORCH)"
	touch $@

.venv/installed-demo: .venv/torch $(SOURCES)
	$(BIN)/pip install ".[demo]"
	touch $@

.venv/installed-bench: .venv/torch $(SOURCES)
	$(BIN)/pip install ".[bench]"
	touch $@

# This build serves the other commands as well.
.venv/installed-test: .venv/torch $(SOURCES)
	$(BIN)/pip install ".[demo,bench,test,dev]"
	touch $@ .venv/installed-demo .venv/installed-bench
