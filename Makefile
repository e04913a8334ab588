# `make help` prints the targets. Everything happens in .venv; nothing is installed elsewhere.
VENV   := .venv
BIN    := $(VENV)/bin
K8S    := .venv-k8s
# The first Python on PATH that is 3.10 to 3.12 and really starts (a version manager's shim may not).
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow k8s-check lint format docs monitoring lock clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## make the virtual environment (once; the other targets do it by themselves)

$(VENV)/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.10 to 3.12 with venv on PATH; install one, or name it: make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.ready ## train a PGN, pack it, serve it on TorchServe, predict real images over REST
	$(BIN)/python examples/demo.py

test: $(VENV)/.ready ## the default tests, the real TorchServe included (CPU, a few minutes)
	$(BIN)/python -m pytest -q

test-slow: $(VENV)/.ready ## the tests that take minutes
	$(BIN)/python -m pytest -q -m slow

k8s-check: $(VENV)/.ready $(K8S)/.ready ## the manifests: rendered, against their schemas, policies and the code; no cluster needed
	$(BIN)/python -m k8s.check

# checkov's dependencies do not fit ours.
$(K8S)/.ready: k8s/check/requirements.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.10 to 3.12 with venv on PATH; install one, or name it: make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(K8S)
	$(K8S)/bin/python -m pip install --quiet --disable-pip-version-check -r k8s/check/requirements.txt
	@touch $@

lint: $(VENV)/.ready ## format, lint, types, the arrows between packages, known vulnerabilities
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml pgn handlers training
	$(BIN)/python .ci/audit.py

format: $(VENV)/.ready ## put the code in form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.ready ## write docs/cli.md and the tables of docs/{data-sets,metrics}.md anew from the program itself
	$(BIN)/python -m typer pgn.cli utils docs --name pgn --output docs/cli.md
	$(BIN)/python -m training.data.named.tables docs/data-sets.md
	$(BIN)/python .ci/metrics_page.py docs/metrics.md

monitoring: $(VENV)/.ready ## write the PrometheusRule and Grafana's dashboard anew from their sources (Python 3.11)
	$(BIN)/python -m k8s.monitoring.prometheus_rule
	$(BIN)/python -m k8s.monitoring.dashboard

lock: ## write constraints.txt anew for Python 3.10 to 3.12 (needs uv)
	uv pip compile --universal --python-version 3.10 --no-annotate --no-header --quiet \
	  --constraint constraints.in --extra dev --output-file constraints.txt pyproject.toml

clean: ## remove the virtual environments, caches and runs
	rm -rf $(VENV) $(K8S) .mypy_cache .ruff_cache .pytest_cache .hypothesis runs
