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

PY := .venv/bin/python
RUN = experiment=$(EXPERIMENT) name=$(NAME) seed=$(SEED) $(ARGS)
STAGES := data model sft rl merge evaluate report

.DEFAULT_GOAL := help
.PHONY: help env demo test plan data synthesize model sft rl merge eval report ask sweep submit publish bench lock clean

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo '  variables: EXPERIMENT=demo NAME=main SEED=0 ARGS="key=value ..." PYTHON=python3.11 ENGINES=cpu|gpu'

env:
	@$(PYTHON) requirements/install.py $(ENGINES)

demo: env  ## the whole chain on this machine: clips, tiny model, SFT, RL, evaluation, report
	@for stage in $(STAGES); do $(PY) -m launch.$$stage $(RUN) || exit 1; done

test: env  ## all tests, the engines end to end among them
	@$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

plan: env  ## render and check the engines' configurations of every experiment, without a GPU
	@$(PY) -m launch.plan $(if $(findstring command,$(origin EXPERIMENT)),experiment=$(EXPERIMENT)) $(ARGS)

data: env  ## samples, clips and the files that the engines read; SOURCE=name downloads a published set
	@$(PY) -m $(if $(SOURCE),data_tools.download $(SOURCE) $(ARGS),launch.data $(RUN))

synthesize: env  ## reasoning chains for SFT and their filters; EXPERIMENT=demo needs no model
	@$(PY) -m data_tools.synthesis $(EXPERIMENT) $(ARGS)

model: env  ## the model before SFT
	@$(PY) -m launch.model $(RUN)

sft: env  ## supervised fine-tuning in LLaMA-Factory
	@$(PY) -m launch.sft $(RUN)

rl: env  ## GRPO in verl
	@$(PY) -m launch.rl $(RUN)

merge: env  ## the last RL checkpoint as a Hugging Face folder
	@$(PY) -m launch.merge $(RUN)

eval: env  ## answers of base, SFT and RL on held-out clips, scored
	@$(PY) -m launch.evaluate $(RUN)

report: env  ## tables, curves and examples of a run as one HTML page
	@$(PY) -m launch.report $(RUN)

ask: export VIDEO := $(VIDEO)
ask: export QUESTION := $(QUESTION)
ask: export OPTIONS := $(OPTIONS)
ask: export MODEL := $(or $(MODEL),runs/$(EXPERIMENT)/$(NAME))
ask: env  ## a model's answer: VIDEO=clip.mp4 QUESTION="…" [OPTIONS="Yes,No"] [MODEL=run folder or hub id]
	@$(PY) -m launch.ask --video "$$VIDEO" --question "$$QUESTION" --options "$$OPTIONS" --model "$$MODEL"

sweep: env  ## lambda, and other keys by ARGS="key=a,b", one run each, collected in a table
	@$(PY) -m launch.sweep experiment=$(EXPERIMENT) name=$(NAME) $(or $(ARGS),$(LAMBDAS))

submit: env  ## a STAGE as a job on the Ray cluster at ADDRESS=http://host:8265
	@$(PY) -m launch.submit start $(STAGE) --address $(ADDRESS) $(RUN)

publish: env  ## the merged model's card; REPO=owner/name pushes both to the hub
	@$(PY) -m launch.publish $(RUN) $(if $(REPO),publish.repo=$(REPO))

bench: env  ## time the parts that a run waits for, side by side; after `make demo`
	@$(PY) -m launch.bench $(ARGS)

lock:
	@for engines in cpu gpu; do .venv/bin/uv pip compile --quiet --universal --python-version 3.11 pyproject.toml \
		--extra $$engines --extra test --generate-hashes --no-annotate --no-header \
		-o requirements/$$engines.txt || exit 1; done

clean:  ## delete a run (EXPERIMENT, NAME); the environment stays
	rm -rf runs/$(EXPERIMENT)/$(NAME)
