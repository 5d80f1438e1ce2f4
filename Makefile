# Two commands do everything on a fresh machine: `make run` and `make test`. No root needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help run test soak check asserts fix bench clean

help: ## List what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml
	@echo "setting up $(VENV) (once, about a minute)"
	@$(PYTHON) .ci/make_venv.py $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

run: $(STAMP) ## Set up, then start the daemon on config/
	@exec $(BIN)/vmsh-scheduler run

# compiled here, once: where PYTHONDONTWRITEBYTECODE is set, thousands of started commands would each do it anew
test: $(STAMP) ## Set up, then everything CI runs
	@$(BIN)/python -m compileall -q vmsh_scheduler tests
	@$(MAKE) --no-print-directory -j 2 check asserts
	@$(BIN)/python -m pytest -n $$(( $$(nproc) + 2 )) --dist loadfile --no-loadscope-reorder --cov --cov-report= $(if $(ARGS),$(ARGS),--count-skips)
	@$(BIN)/python -m tests.coverage_gate

soak: $(STAMP) check ## The full figures of every fault, into docs/soak.md; over an hour, best as root
	@$(BIN)/python -m pytest -n 2 --dist load -m soak tests/soak --figures docs/soak.md $(ARGS)

check: $(STAMP) ## Format, lint, types, import contracts
	@$(BIN)/ruff format --check -q .
	@$(BIN)/ruff check -q .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache | tail -3

# pytest rewrites them: once here, and not in each of its workers; what cannot be collected is told by the run itself
asserts: $(STAMP)
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --collect-only -q >/dev/null 2>&1 || true

fix: $(STAMP) ## Format and mend what a tool can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(STAMP) ## Measure beside floors and peers (never pass/fail)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[bench]'
	@$(BIN)/python -m bench $(ARGS)

clean: ## Remove what make made
	@rm -rf $(VENV) build dist *.egg-info .coverage* .mypy_cache .ruff_cache .pytest_cache
