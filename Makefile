# Every target sets itself up from a bare Python 3.11 or newer with pip. PYTHON=/path/to/python chooses another one.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
VLLM_ENV ?= .vllm-env
CLIENTS := .clients
NEEDED := tests/foreign/clients/requirements
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INPUTS := pyproject.toml constraints.txt

.PHONY: help demo test lint test-quick test-slow test-vllm test-clients vllm-env bench foreign-tools constraints clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

demo: $(VENV)/.engines ## a market of several providers on this machine, bought from and audited
	$(BIN)/wwwmarket demo

test: lint test-quick ## lint, types, import rules, and the quick tests

lint: $(VENV)/.dev ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-quick: $(VENV)/.dev foreign-tools ## the quick tests, with the branch coverage of the pure rooms
	$(BIN)/pytest -m "not slow and not bench and not vllm" -n 2 --dist loadfile --cov --cov-report=term

test-slow: $(VENV)/.dev foreign-tools ## the tests that take minutes
	$(BIN)/pytest -m slow

test-vllm: $(VENV)/.dev vllm-env ## a real vLLM and a real llama.cpp in one live market
	$(BIN)/pytest -m vllm -s tests/foreign/vllm

test-clients: $(VENV)/.dev $(CLIENTS)/guidellm/.ready $(CLIENTS)/aiperf/.ready $(CLIENTS)/litellm/.ready $(CLIENTS)/js/.ready ## other projects' clients and benchmarks, in environments of their own (7 GB)
	$(BIN)/pytest -s tests/foreign/clients

vllm-env: $(VLLM_ENV)/.ready ## vLLM's CPU build in an environment of its own (2.3 GB)

bench: $(VENV)/.dev ## measurements, printed
	$(BIN)/pytest -m bench -s

GOCODE := /usr/share/gocode/src
FOREIGN := systemd golang-go golang-golang-x-mod-dev golang-github-masterminds-sprig-dev etcd-server postgresql iproute2 nftables

foreign-tools: ## Go verifies our ledger, etcd and PostgreSQL order it, nftables makes routers (installed only by root, where apt is at hand)
	@if command -v go >/dev/null && [ -d $(GOCODE)/golang.org/x/mod ] && [ -d $(GOCODE)/github.com/Masterminds/sprig ] && \
		command -v etcd >/dev/null && command -v systemd-analyze >/dev/null && \
		ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 && command -v ip >/dev/null && command -v nft >/dev/null; \
		then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $(FOREIGN) >/dev/null; \
	else echo "Tests of what is missing are skipped (apt-get install $(FOREIGN))"; fi

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "wwwmarket needs Python 3.11 or newer with pip; none was found. Install it, or set PYTHON=/path/to/python." >&2; \
		exit 1; fi
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { \
		: 'Debian keeps ensurepip in python3-venv; its own pip can stand in.'; \
		rm -rf $(VENV); $(PYTHON) -m venv --without-pip $(VENV); \
		$(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }

$(VENV)/.engines: $(INPUTS) | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e '.[engines]'
	@touch $@

$(VENV)/.dev: $(INPUTS) | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.engines $@

$(VLLM_ENV)/.ready: tests/foreign/vllm/requirements.txt
	@if [ ! -x $(VLLM_ENV)/bin/python ]; then $(PYTHON) -m venv $(VLLM_ENV); fi
	$(VLLM_ENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

$(CLIENTS)/js/.ready: $(NEEDED)/package.json $(NEEDED)/package-lock.json
	@mkdir -p $(@D) && cp $^ $(@D)/
	npm ci --silent --prefix $(@D)
	@touch $@

$(CLIENTS)/%/.ready: $(NEEDED)/%.txt
	@if [ ! -x $(@D)/bin/python ]; then mkdir -p $(CLIENTS) && $(PYTHON) -m venv $(@D); fi
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

constraints: | $(BIN)/python ## constraints.txt anew: the newest versions that pyproject.toml allows
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(BIN)/python -m venv "$$fresh/venv"; \
	"$$fresh/venv/bin/python" -m pip install --quiet -e '.[dev]'; \
	{ echo "# The exact versions that are tested, for every extra but vllm. Written by: make constraints"; \
	  "$$fresh/venv/bin/python" -m pip freeze --exclude-editable | LC_ALL=C sort -f; } > "$$fresh/constraints.txt"; \
	mv "$$fresh/constraints.txt" constraints.txt

clean: ## everything that these targets made
	rm -rf $(VENV) $(VLLM_ENV) $(CLIENTS) build dist .demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .coverage.*
