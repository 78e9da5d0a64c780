# make demo | test | bench | check | check-cuda | clean. Each sets up .venv here by itself: torch, then fastgrad by a plain pip
# install. A later call reuses it, and reinstalls only after a source has changed (the build in build/ is incremental).
PYTHON ?= python3
TORCH ?= torch==2.13.0
ARGS ?=

BIN := .venv/bin
SOURCES := $(shell find csrc fastgrad benchmarks cmake CMakeLists.txt setup.py pyproject.toml -type f \
             ! -path 'benchmarks/results/*' ! -name '*.so' ! -name '*.pyc' ! -name '_build_info.py')

.PHONY: demo test bench check check-cuda clean

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

# The CUDA kernels as nvcc compiled them, and the module that holds them under this torch; needs no GPU.
check-cuda: .venv/installed-test
	$(BIN)/python tools/check_cuda.py
	$(BIN)/pytest -q tests/test_registration.py

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

# This build serves the other commands as well. It also has the CUDA kernels, compiled for the CPU (the backend
# "emulated") and, with reports, for GPUs.
.venv/installed-test: .venv/cuda $(SOURCES)
	FASTGRAD_EMULATOR=ON FASTGRAD_CUDA_REPORT=ON $(BIN)/pip install ".[demo,bench,test,dev]"
	touch $@ .venv/installed-demo .venv/installed-bench

# nvcc and cuobjdump, from PyPI where the machine has none.
NVCC := nvidia-cuda-nvcc==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
        nvidia-cuda-cccl==13.0.85
CUOBJDUMP := nvidia-cuda-cuobjdump~=13.0 nvidia-cuda-nvdisasm~=13.0
has = PATH="$$CUDA_HOME/bin:$$CUDA_PATH/bin:$$PATH:/usr/local/cuda/bin" command -v $(1)
.venv/cuda: .venv/torch
	[ -n "$$CUDACXX" ] || $(call has,nvcc) || $(BIN)/python -c "import torch; print(torch.version.cuda or '13')" \
	  | grep -v ^13 || $(BIN)/pip install $(NVCC)
	$(call has,cuobjdump) || $(BIN)/pip install $(CUOBJDUMP)
	touch $@
