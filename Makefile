# Two commands: `make nano` runs the whole pipeline on the small model, `make test` passes the tests.
# Both set up .venv first, resume after an interruption, and do nothing twice; so do `make test-sycl`, `test-vulkan` and `test-slurm`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
CORES ?= $(shell nproc)
# for example --index-url and the address of PyTorch's CPU index
TORCH_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
VALIDATOR_VENV := .venv-validator
SYCL_VENV := .venv-sycl
SYCL_BIN := $(SYCL_VENV)/bin
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES) --rerun-incomplete
# cmake and ninja come from the Python environment
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup nano screenshots test setup-validator setup-sycl test-sycl test-vulkan test-slurm lint lock clean

help:
	@echo "make nano         set up and run everything on the small model, into results/nex-n2-nano"
	@echo "make screenshots  what the small model's report and model card look like (needs Chromium)"
	@echo "make test         set up and run all tests"
	@echo "make test-sycl    build the engine's SYCL backend and test it on the CPU (needs clang-22)"
	@echo "make test-vulkan  build the engine's Vulkan backend and test it on the CPU (needs glslc and Mesa's lavapipe)"
	@echo "make test-slurm   run the small model on a Slurm cluster of this machine (needs root and Slurm)"
	@echo "make setup        only the Python environment, in $(VENV)"
	@echo "make lint         formatting and static checks"
	@echo "make lock         resolve envs/*.in and toolchain/sycl into the lock files and envs/*.yaml (needs uv)"
	@echo "make clean        remove results, resources, logs and benchmarks, not the environments"

setup: $(VENV)/.pipeline

.PHONY: host
host:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "Python 3.11 or newer is needed (Debian, Ubuntu: apt install python3 python3-venv)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "Python's venv module is missing (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@command -v c++ >/dev/null \
		|| { echo "A C++ compiler is needed (Debian, Ubuntu: apt install g++)" >&2; exit 1; }
	@command -v git >/dev/null \
		|| { echo "git is needed (Debian, Ubuntu: apt install git)" >&2; exit 1; }

# A stamp is written last, so an interrupted set-up is taken up again.
$(VENV)/.pipeline: envs/pipeline.lock envs/torch.txt | host
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV): about a minute"
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r envs/pipeline.lock
	$(BIN)/python -c 'import torch' 2>/dev/null \
		|| $(BIN)/pip install --quiet --disable-pip-version-check $(TORCH_FLAGS) -r envs/torch.txt
	touch $@

$(VENV)/.dev: envs/dev.lock envs/cluster.lock $(VENV)/.pipeline
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r envs/dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r envs/cluster.lock
	touch $@

nano: setup
	$(SNAKEMAKE) --configfile config/nano.yaml

NANO_RESULTS := results/nex-n2-nano
screenshots: $(VENV)/.dev nano
	$(BIN)/snakemake --configfile config/nano.yaml --report $(NANO_RESULTS)/report.html
	dev/run screenshots $(NANO_RESULTS)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/snakefmt --check Snakefile rules
	git ls-files '*.sh' .ci/run dev/run | xargs $(BIN)/shellcheck

# apart from the pipeline, with which it shares no versions
setup-validator: $(VALIDATOR_VENV)/.ready

$(VALIDATOR_VENV)/.ready: envs/validator.lock | host
	test -x $(VALIDATOR_VENV)/bin/python || $(PYTHON) -m venv $(VALIDATOR_VENV)
	$(VALIDATOR_VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r envs/validator.lock
	touch $@

# the nano run comes first, where it shows its progress; the tests look at what it made. A file's tests share what they set
# up, and files share the cores, those with long tests first. The engine's threads must not wait busily for a core that
# another test has; a make that a test runs is no part of this one
TESTS := $(addprefix tests/,faults workflow engine fuzz unit)
SIDE_BY_SIDE := -n $(CORES) --dist loadfile --no-loadscope-reorder
test: lint nano setup-validator
	MAKEFLAGS= OMP_WAIT_POLICY=passive $(BIN)/pytest $(SIDE_BY_SIDE) $(TESTS)

.PHONY: clang
clang:
	@command -v clang++-22 >/dev/null \
		|| { echo "clang 22 is needed for the SYCL tests (Debian: apt install clang-22)" >&2; exit 1; }

setup-sycl: $(SYCL_VENV)/.ready

SYCL_PARTS := requirements.lock device_pass.cpp sycl_toolchain/install.py
$(SYCL_VENV)/.ready: $(addprefix toolchain/sycl/,$(SYCL_PARTS)) | host clang
	test -x $(SYCL_BIN)/python || $(PYTHON) -m venv $(SYCL_VENV)
	@echo "Setting up $(SYCL_VENV): half a minute, 0.9 GB"
	$(SYCL_BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r toolchain/sycl/requirements.lock
	PYTHONPATH=toolchain/sycl $(SYCL_BIN)/python -m sycl_toolchain.install
	touch $@

# as in `make test`: what takes long shows its progress, then the tests look at what it made
test-sycl: $(VENV)/.dev setup-sycl
	$(SNAKEMAKE) test_sycl
	$(BIN)/pytest -m sycl tests/sycl

test-vulkan: $(VENV)/.dev nano
	$(SNAKEMAKE) test_vulkan
	$(BIN)/pytest -m vulkan tests/vulkan

test-slurm: $(VENV)/.dev nano
	MAKEFLAGS= $(BIN)/pytest -m slurm tests/slurm

lock:
	uv pip compile --quiet --no-emit-index-url --universal --python-version 3.11 --generate-hashes --no-annotate envs/pipeline.in -o envs/pipeline.lock
	uv pip compile --quiet --no-emit-index-url --universal --python-version 3.11 --generate-hashes --no-annotate envs/dev.in -o envs/dev.lock
	uv pip compile --quiet --no-emit-index-url --universal --python-version 3.11 --generate-hashes --no-annotate envs/cluster.in -o envs/cluster.lock
	uv pip compile --quiet --no-emit-index-url --universal --python-version 3.11 --generate-hashes --no-annotate envs/validator.in -o envs/validator.lock
	for client in mistralrs transformers xllamacpp; do \
		uv pip compile --quiet --no-emit-index-url --universal --python-version 3.11 --generate-hashes --no-annotate --excludes envs/clients/apart.txt envs/clients/$$client.in -o envs/clients/$$client.lock; \
	done
	uv pip compile --quiet --no-emit-index-url --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-package intel-openmp toolchain/sycl/requirements.in -o toolchain/sycl/requirements.lock
	dev/run write_generated

clean:
	rm -rf resources logs benchmarks results/*/
