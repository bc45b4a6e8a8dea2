# Everything that a fresh clone needs: python3, pip and gcc. `make help` lists the targets.
VENV      := .venv
PY        := $(VENV)/bin/python
PYTHON    ?= python3
STAMP     := $(VENV)/.setup-done
# Hugging Face's video processors import torchvision. A CPU build of torch and the registry's CUDA
# build of torchvision break `import lightning` when both stand in one environment, so torchvision
# lives in a folder of its own that only the tests of those processors look into.
PROCESSORS := $(VENV)/share/hf-processors
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint readme bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## build .venv with everything that the demo and the tests need

$(STAMP): pyproject.toml constraints.txt Makefile
	@echo "==> setup: a virtual environment in $(VENV) (a few minutes on the first run)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) \
	  || { $(PYTHON) -m pip install --quiet virtualenv && $(PYTHON) -m virtualenv -q $(VENV); }
	@echo "==> setup: installing linkedout-lightning with its extras, versions from constraints.txt"
	@$(PY) -m pip install --quiet -c constraints.txt -e '.[dev]'
	@echo "==> setup: RecBole, without the packages that it pins and that current Pythons lack"
	@$(PY) -m pip install --quiet --no-deps -c constraints.txt recbole
	@echo "==> setup: the packages that only the tests of Hugging Face's video processors load"
	@$(PY) -m pip install --quiet --no-deps --upgrade --target $(PROCESSORS) -c constraints.txt \
	  torchvision num2words docopt timm
	@touch $@
	@echo "==> setup: done; '$(VENV)/bin/linkedout doctor' shows what is there"

demo: $(STAMP) ## the whole way of the data on a small simulated world, with a table and a report
	@$(VENV)/bin/linkedout demo --out runs/demo

test: $(STAMP) ## the tests that every change must pass
	@$(PY) -m pytest

test-all: $(STAMP) ## all tests, the slow ones too
	@$(PY) -m pytest -m ''

lint: $(STAMP) ## ruff (lint and format) and mypy --strict
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

readme: $(STAMP) ## run the README's Python snippets
	@$(PY) -m pytest -m '' tests/test_readme.py

clean: ## remove the environment and what runs have written
	rm -rf $(VENV) runs build dist *.egg-info
