# Two commands do all the set-up: `make demo` and `make test`. Both install what they need into the cache folder.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/luthier
LOCK := requirements/dev.txt
VENV := $(CACHE)/venv-$(shell sha256sum $(LOCK) | cut -c1-12)
BIN := $(VENV)/bin
MODEL ?= smollm2
CLUSTER ?= luthier
# A test that ends kopf in the midst of a request leaves kopf's session to the garbage collector, in whichever test.
LEFTOVERS := -W ignore::pytest.PytestUnraisableExceptionWarning
export PYTHONPATH := $(CURDIR)/operator:$(CURDIR)/trainer_image:$(CURDIR)/server_image:$(CURDIR)/hack

.PHONY: help install venv generate verify lint unit simulation flood faults api-test node-test image-test test bench-rollout bench-operator demo demo-down

help: ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(VENV)/.complete ## Install the development environment into the cache folder
	@[ -d .venv ] && [ ! -L .venv ] || ln -sfn $(VENV) .venv  # for editors; a folder of your own stays

# Named by the lock's content: a new checkout, whose files are all newer, uses the one that is there.
$(VENV)/.complete: | $(LOCK)
	@mkdir -p $(CACHE) && flock $(VENV).lock $(MAKE) --no-print-directory venv

venv:
	@[ -e $(VENV)/.complete ] || { \
	  echo "[install] development environment in $(VENV)"; \
	  rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) && \
	  $(BIN)/pip install --quiet --disable-pip-version-check -r $(LOCK) && touch $(VENV)/.complete; }

generate: install ## Write crds/, the chart's CRDs and docs/api.md from the models, the table of faults from the tests
	$(BIN)/python -m luthier.crd
	PYTHONPATH=$(CURDIR)/tests $(BIN)/python -m faults.rows

verify: install ## Fail when a generated file is stale
	$(BIN)/python -m luthier.crd --check
	PYTHONPATH=$(CURDIR)/tests $(BIN)/python -m faults.rows --check

lint: install ## Format check, lint, types, import contracts
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache | tail -n 12

unit: install ## Unit and golden tests (seconds)
	$(BIN)/pytest -q tests/unit tests/golden -m "not slow"

simulation: install ## The statistical promises, by seeded simulation (a minute)
	$(BIN)/pytest -q tests/unit -m slow

api-test: install ## Tests against a real API server on loopback (no root)
	$(BIN)/pytest -q tests/cluster tests/helm -m "not node and not flood" $(LEFTOVERS)

flood: install ## Damage by hand, two replicas, restored clusters, random objects, on a real API server (no root)
	$(BIN)/pytest -q tests/cluster -m flood $(LEFTOVERS)

faults: install ## Kill the operator at every write of every life, break the rest, print the scorecard (no root, an hour)
	PYTHONPATH=$(PYTHONPATH):$(CURDIR)/tests $(BIN)/python -m faults $(ARGS)

image-test: install ## Trainer and server tests inside their images (root)
	hack/images build all
	hack/images test trainer
	hack/images test server

node-test: install ## The cluster itself and the whole chain with the tiny model on a real node (root)
	$(BIN)/pytest -q tests/cluster tests/e2e -m node

test: install ## Everything: lint, unit, API server, images, real node (root)
	@echo "[test 1/5] lint and generated files"; $(MAKE) --no-print-directory lint verify
	@echo "[test 2/5] unit and golden"; $(MAKE) --no-print-directory unit simulation
	@echo "[test 3/5] real API server"; hack/cluster deps; $(MAKE) --no-print-directory api-test
	@echo "[test 4/5] inside the images"; $(MAKE) --no-print-directory image-test
	@echo "[test 5/5] real node, whole chain"; $(MAKE) --no-print-directory node-test

bench-rollout: install ## A thousand changes of weight under load, and the way through the gateway (root, ten minutes)
	PYTHONPATH=$(PYTHONPATH):$(CURDIR)/tests $(BIN)/python -m bench.rollout $(ARGS)

bench-operator: install ## What the operator costs among 200 ModelDeployments: memory, CPU, writes (no root, minutes; ARGS="--objects 5000")
	PYTHONPATH=$(PYTHONPATH):$(CURDIR)/tests $(BIN)/python -m bench.operator $(ARGS)

demo: ## The main path for real: cluster, operator, training, evaluation, rollout, rollback (MODEL=smollm2|tiny)
	@$(PYTHON) hack/demo --cluster $(CLUSTER) --model $(MODEL)

demo-down: ## Stop the demo's cluster (the cache stays)
	@hack/cluster down --name $(CLUSTER)
