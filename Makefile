# The verbs a person and CI use. `make retrain` and `make test` set everything up by themselves.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TORCH  := torch==2.13.0
UV     := uv==0.13.9
STAMP  := $(VENV)/.installed
BUNDLE := .gpu-check

.PHONY: install retrain encoders test test-all check claims bench gpu-check gpu-check-bundle up down ui docs lock clean purge help

help:  ## show the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

install: $(STAMP)  ## create .venv with the committed pins

# torch comes by plain pip (CPU or CUDA build, as the machine's pip is set up); uv lays the rest in seconds,
# and plain pip does it where uv cannot. Where Python is told to write no bytecode (images, some machines), each process
# would compile all that it imports anew, most of its start: there the packages are compiled once.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV)
	@DS_BUILD_OPS=0 $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation-package deepspeed -r requirements.lock \
	  || DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@$(if $(PYTHONDONTWRITEBYTECODE),$(BIN)/python -m compileall -qq -j 0 -x '/tests/' $(VENV)/lib || true)
	@touch $@

retrain: $(STAMP)  ## fetch, cut into shards, index, train, evaluate, register, promote: the main job (ARGS="--set finetune.epochs=3")
	@$(BIN)/python -m flows.retrain $(ARGS)

encoders: $(STAMP)  ## align the encoders alone and measure them by evaluate.zero_shot (videollava profile tiny-five)
	@$(BIN)/dvc repro align
	@$(BIN)/videollava evaluate

# Two at a time, of one thread each: that fits 2 cores and 24 GiB.
test: $(STAMP)  ## the tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --timeout 600 $(ARGS)

test-all: $(STAMP)  ## the tests and the slow ones
	@$(BIN)/python -m pytest $(ARGS)

check: $(STAMP)  ## ruff and mypy
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

claims: $(STAMP)  ## the paper's claims in small: each arm and seed a retraining (two and a half hours); writes docs/claims.md (ARGS="--seeds 2 --arms a,b")
	@$(BIN)/python -m flows.claims $(ARGS)

bench: $(STAMP)  ## the benchmarks behind bench/RESULTS.md
	@for file in bench/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

gpu-check: gpu-check-bundle  ## what this machine's GPU does with it, in 8 minutes (without one: the same in small)
	@$(BIN)/python -m bench.gpu_check --bundle $(BUNDLE) --out gpu-check $$($(BIN)/python -c 'import torch; print("" if torch.cuda.is_available() else "--small")') $(ARGS)

gpu-check-bundle: $(STAMP)  ## what travels to a CUDA machine without network: .gpu-check, under 60 MiB
	@$(BIN)/python -m bench.gpu_check.bundle --to $(BUNDLE)

up: $(STAMP)  ## a team's servers on this machine: PostgreSQL, S3, MLflow, Prefect, a git origin, workers (docs/stack.md)
	@$(BIN)/python -m flows.stack up $(ARGS)

down: $(STAMP)  ## end all that `make up` started; what it keeps stays in .stack
	@$(BIN)/python -m flows.stack down $(ARGS)

ui: $(STAMP)  ## serve the Prefect and MLflow pages over this checkout's history
	@$(BIN)/python -m flows.ui

docs: $(STAMP)  ## write the pages that are made from the code
	@$(BIN)/videollava params --schema > docs/params.schema.json
	@$(BIN)/videollava params --markdown > docs/parameters.md
	@$(BIN)/python -c "from videollava.gate.rules import schema; print(schema(), end='')" > docs/gate.schema.json

lock:  ## resolve pyproject.toml into requirements.lock again, and write the part that results depend on
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-package torch --no-annotate --no-header \
	  --extra pipeline --extra tiny --extra gguf --extra deepspeed --extra quantize --extra tables --extra stack --extra kubernetes --extra dev pyproject.toml -o requirements.lock
	@$(BIN)/python -m videollava.tracking.packages $(TORCH)

# With whichever Python is there: it cleans a checkout whose environment is gone, too.
ANY := $(or $(wildcard $(BIN)/python),$(PYTHON))

clean:  ## remove working files (checkpoints, clones, caches of tools); models, champion, DVC cache and history stay
	@$(ANY) -m flows.clean

purge:  ## list all that retraining made, models and champion too; CONFIRM=yes removes it (the environment stays)
	@$(ANY) -m flows.clean --all --confirm "$(CONFIRM)"
