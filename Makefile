# SPDX-License-Identifier: Apache-2.0
# The project's habits. `make run` and `make test` are the two that a newcomer needs; both set up what is missing.

.DEFAULT_GOAL := help
SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DELETE_ON_ERROR:

PYTHONS := 3.11 3.12 3.13 3.14
VENV := .venv
BIN := $(VENV)/bin
HELLO := build/hello.wasm
# The number of examples each fuzz and property test tries in `make soak`; CI takes a sample with the same seeds.
SOAK_EXAMPLES ?= 100000

# Tests are written again before they run, by each process of each run, where what came of it may not be kept.
unexport PYTHONDONTWRITEBYTECODE

COMPILE := $(BIN)/python -m uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock" -q
CASES ?=

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | expand -t 14

.PHONY: run
run: $(BIN)/enarx $(HELLO) ## deploy examples/hello, built here, to a Keep of a host started for it
	$(BIN)/enarx deploy $(HELLO) --insecure-accept-emulated

.PHONY: test
test: dev ## the default test suite, on every Python found
	tools/test-all "$(PYTHONS)"

.PHONY: test-slow
test-slow: dev slow-tools ## tests that need other languages' compilers, services, machines or minutes
	tools/build-test-image --arch aarch64 & tools/build-test-image; wait $$!
	$(BIN)/python -m pytest -n "$$(nproc)" --dist worksteal --timeout 900 -m slow

.PHONY: languages
languages: dev slow-tools ## build the examples of other languages, each into build/languages/packages
	$(MAKE) -C examples/languages

.PHONY: soak
soak: dev slow-tools fuzz-tools ## full counts of fuzzing, flips and kills
	ENARX_SOAK_EXAMPLES=$(SOAK_EXAMPLES) $(BIN)/python -m pytest -n auto --dist worksteal --timeout 86400 -m soak

.PHONY: fuzz-tools
fuzz-tools: dev
	tools/install-fuzz $(BIN)/python

.PHONY: corpus
corpus: dev ## judge every case of an evidence corpus: make corpus DIR=../shared/evidence
	@$(BIN)/python tools/judge_corpus.py $(or $(DIR),$(error DIR: found nothing, want a folder with cases.jsonl))

.PHONY: lint
lint: dev ## formatting, lint, types, layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: bench
bench: dev slow-tools ## enarx beside its peers, in one run (CASES="hello compute" for some)
	$(BIN)/python bench/run.py $(CASES)

.PHONY: docs
docs: dev ## write the generated parts of docs/ again
	$(BIN)/python tools/make_docs.py

.PHONY: overlay
overlay: dev ## write the preview 1 overlay again
	$(BIN)/python tools/make_overlay.py

.PHONY: lock
lock: dev ## resolve requirements.lock and the locks of benchmarks and examples again
	$(COMPILE) pyproject.toml --group dev -o requirements.lock
	$(COMPILE) tests/fuzz/atheris.in -o tests/fuzz/atheris.lock
	for folder in go javascript python; do \
		$(COMPILE) examples/languages/$$folder/requirements.in -o examples/languages/$$folder/requirements.lock; done
	for folder in assemblyscript javascript ruby; do \
		npm install --prefix examples/languages/$$folder --package-lock-only --omit-lockfile-registry-resolved; done
	for peer in wasmtime-49 wasmtime-36 guests; do $(COMPILE) bench/peers-$$peer.in -o bench/peers-$$peer.lock; done

.PHONY: dev
dev: $(BIN)/enarx ## an environment with the command and everything to work on it

$(BIN)/enarx: requirements.lock pyproject.toml bin/enarx
	tools/make-env $(VENV) python3.11

$(HELLO): examples/hello/hello.c | $(BIN)/enarx
	mkdir -p build
	ZIG_GLOBAL_CACHE_DIR=$(CURDIR)/build/zig ZIG_LOCAL_CACHE_DIR=$(CURDIR)/build/zig \
		$(BIN)/python -m ziglang cc -target wasm32-wasi -Os -s $< -o $@

.PHONY: slow-tools
slow-tools:
	tools/install-slow

.PHONY: clean
clean: ## remove what was built
	rm -rf build $(VENV) .venv-3.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
