# camreasoner. Each target is one short command; `make -n TARGET` shows it.
EXPERIMENT ?= demo
SEED ?= 0
NAME ?= $(if $(filter-out 0,$(SEED)),seed$(SEED),main)
ARGS ?=
ENGINES ?=
SOURCE ?=
STAGE ?= rl
ADDRESS ?= http://127.0.0.1:8265
REPO ?=
LAMBDAS = reward.format_weight=0.0,0.1,0.3,0.5
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && { echo $$p; exit; }; done; echo python3)

TOUR := docs/tour/index.html
PY := .venv/bin/python
RUN = experiment=$(EXPERIMENT) name=$(NAME) seed=$(SEED) $(ARGS)
STAGES := data sets model sft rl merge evaluate report

.DEFAULT_GOAL := help
.PHONY: help env tour demo doctor calibrate rehearse test lint plan data sets synthesize model sft difficulty rl merge evaluate eval observe report watch ask sweep submit publish bench lock clean

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo '  variables: EXPERIMENT=demo NAME=main SEED=0 ARGS="key=value ..." PYTHON=python3.11 ENGINES=cpu|gpu'

env:
	@$(PYTHON) requirements/install.py $(ENGINES)

tour:  ## a finished demo's report and viewer in your browser, at once: nothing is installed or trained
	@test -f $(TOUR) || { echo '$(TOUR) is missing: make demo, then .venv/bin/python -m launch.tour experiment=demo'; exit 1; }
	@echo 'file://$(CURDIR)/$(TOUR)'
	@$(PYTHON) -m webbrowser 'file://$(CURDIR)/$(TOUR)' >/dev/null 2>&1 || true

demo: env  ## the whole chain on this machine: clips, tiny model, SFT, RL, evaluation, report
	@for stage in $(STAGES); do $(PY) -m launch.$$stage $(RUN) || exit 1; done

rehearse: env  ## every stage of EXPERIMENT=camreasoner, videop2r, videochat_r1 or your own, in small, on this machine; ARGS="cluster=one_gpu": on its GPUs
	@$(PY) -m launch.rehearse experiment=$(EXPERIMENT) seed=$(SEED) $(ARGS)

test: env  ## all tests, the engines end to end among them
	@$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: env  ## what .ci/run checks before the tests: ruff's rules and format, mypy's types
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

doctor: env  ## is this machine ready for EXPERIMENT? driver, GPUs, NCCL, memory, disk, videos, hub, judge, Ray; with remedies
	@$(PY) -m launch.doctor $(RUN)

calibrate: env  ## measure this machine's rates with EXPERIMENT's model, in ten minutes at most; make plan then counts with them
	@$(PY) -m launch.calibrate experiment=$(EXPERIMENT) seed=$(SEED) $(ARGS)

plan: env  ## render and check the engines' configurations of every experiment, without a GPU
	@$(PY) -m launch.plan $(if $(findstring command,$(origin EXPERIMENT)),experiment=$(EXPERIMENT)) $(ARGS)

data: env  ## samples, clips and the files that the engines read; SOURCE=name downloads a published set
	@$(PY) -m $(if $(SOURCE),data_tools.download source=$(SOURCE) $(ARGS),launch.data $(RUN))

sets: env  ## evaluation sets other than the run's own test split (eval.sets), with clips in their media budgets
	@$(PY) -m launch.sets $(RUN)

synthesize: env  ## reasoning chains for SFT and their filters; EXPERIMENT=demo needs no model
	@for recipe in $(if $(filter demo,$(EXPERIMENT)),demo demo_videop2r,$(EXPERIMENT)); do \
		$(PY) -m launch.synthesize synthesis=$$recipe $(ARGS) || exit 1; done

model: env  ## the model before SFT
	@$(PY) -m launch.model $(RUN)

sft: env  ## supervised fine-tuning in LLaMA-Factory
	@$(PY) -m launch.sft $(RUN)

difficulty: env  ## how often the model that RL starts from answers its questions right; rl.by_difficulty=true trains on those kept
	@$(PY) -m launch.difficulty $(RUN)

rl: env  ## GRPO in verl
	@$(PY) -m launch.rl $(RUN)

merge: env  ## the last RL checkpoint as a Hugging Face folder
	@$(PY) -m launch.merge $(RUN)

evaluate: env  ## answers of base, SFT and RL on held-out clips, scored
	@$(PY) -m launch.evaluate $(RUN)

eval: evaluate

observe: env  ## VideoP2R's figure 4: the base model given what other models observed; after evaluate
	@$(PY) -m launch.observe $(RUN)

report: env  ## tables, curves and examples of a run as one HTML page
	@$(PY) -m launch.report $(RUN)

watch: env  ## rollouts and evaluation answers with their clips in a browser, also while RL trains
	@$(PY) -m launch.watch runs/$(EXPERIMENT)/$(NAME) $(ARGS)

ask: export VIDEO := $(VIDEO)
ask: export QUESTION := $(QUESTION)
ask: export OPTIONS := $(OPTIONS)
ask: export MODEL := $(or $(MODEL),runs/$(EXPERIMENT)/$(NAME))
ask: env  ## a model's answer: VIDEO=clip.mp4 QUESTION="…" [OPTIONS="Yes,No"] [MODEL=run folder or hub id]
	@$(PY) -m launch.ask "video=$$VIDEO" "question=$$QUESTION" "options=$$OPTIONS" "model=$$MODEL"

sweep: env  ## lambda, and other keys by ARGS="key=a,b", one run each, collected in a table
	@$(PY) -m launch.sweep experiment=$(EXPERIMENT) name=$(NAME) $(or $(ARGS),$(LAMBDAS))

submit: env  ## a STAGE as a job on the Ray cluster at ADDRESS=http://host:8265
	@$(PY) -m launch.submit $(STAGE) submit.address=$(ADDRESS) $(RUN)

publish: env  ## the merged model's card; REPO=owner/name pushes both to the hub
	@$(PY) -m launch.publish $(RUN) $(if $(REPO),publish.repo=$(REPO))

bench: env  ## time the parts that a run waits for, side by side; after `make demo`
	@$(PY) -m tests.bench $(ARGS)

lock:
	@for engines in cpu gpu; do .venv/bin/uv pip compile --quiet --universal --python-version 3.11 pyproject.toml \
		--extra $$engines --extra test --generate-hashes --no-annotate --no-header \
		-o requirements/$$engines.txt || exit 1; done

clean:  ## delete a run (EXPERIMENT, NAME); the environment stays
	rm -rf runs/$(EXPERIMENT)/$(NAME)
