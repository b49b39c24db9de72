# Two commands: `make book` builds the book, `make test` runs every check. Each sets up what it needs.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help book serve test notebooks clean html set-up browser \
	repository release pdf fuzz test-environments test-lab measure

# Python 3.11 or newer to make the virtual environment with; `make PYTHON=... book` chooses another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && command -v $$p && break; done)
# Where torch comes from. The CPU build spares readers without an NVIDIA card gigabytes of CUDA.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PORT ?= 8000
# Small tensors run fastest on one thread, and sums come out the same on every machine.
export OMP_NUM_THREADS ?= 1

VENV := .venv
BIN := $(VENV)/bin
HTML := _build/html
TIMES := _build/times.tsv
# Those that open the built pages.
PAGE_TESTS := tests/test_site.py tests/test_publish.py
NOTEBOOKS = $(wildcard book/*.ipynb)

# Stamps are named after what they depend on: another content, another stamp, and the step runs again.
hash = $(shell cat $(1) 2>/dev/null | sha256sum | cut -c1-12)
INSTALLED := $(VENV)/.installed-$(call hash,requirements.txt pyproject.toml)
PACKAGE := $(shell find augflow_mini -type f -not -name '*.pyc' 2>/dev/null | LC_ALL=C sort | tr '\n' ' ')
EXECUTED := _build/.executed-with-$(call hash,$(PACKAGE) requirements.txt)

# $(call timed,STAGE): the recipe's clock; the table is printed at the end of `make test`.
timed = mkdir -p _build; from=$$SECONDS; \
	trap 'printf "%s\t%s\n" $(1) $$((SECONDS - from)) >> $(TIMES)' EXIT

# Two builds at once would tear each other's files: the second waits. The lock belongs to descriptor 9 of
# the recipe's shell, so it is gone with the shell, however that ends.
TAKE_LOCK = import fcntl; fcntl.flock(9, fcntl.LOCK_EX$(1))
alone = mkdir -p _build; exec 9> _build/.lock; $(or $(PYTHON),$(BIN)/python) -c '$(call TAKE_LOCK, | fcntl.LOCK_NB)' 2> /dev/null || { \
	echo "another make is at work in this folder: waiting for it"; $(or $(PYTHON),$(BIN)/python) -c '$(call TAKE_LOCK)'; }

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

book: html ## set up, run the notebooks that changed and build the book
	@echo
	@echo "The book:  $(CURDIR)/$(HTML)/index.html   (open this file in a browser)"
	@echo "or run     make serve                     and open http://localhost:$(PORT)"

serve: ## serve the built book on http://localhost:8000 (PORT=... for another)
	@test -f $(HTML)/index.html || $(MAKE) book
	@echo "http://localhost:$(PORT)   (Ctrl-C stops)"
	@$(PYTHON) -m http.server --bind 127.0.0.1 --directory $(HTML) $(PORT)

test: ## set up and run every check: style, library, notebooks, build, browser
	@mkdir -p _build && : > $(TIMES)
	@$(MAKE) set-up browser
	@failed=0; \
	$(BIN)/ruff check . || failed=1; \
	echo "On one core the book is built and its pages are tested, on the other the rest; first the rest:"; \
	( failed=0; \
	$(MAKE) html || { failed=1; echo "make test: THE BUILD FAILED (see above); the other checks still run"; }; \
	TIMES=$(TIMES) $(BIN)/python -m pytest $(PAGE_TESTS) || failed=1; \
	exit $$failed ) > _build/pages.log 2>&1 & pages=$$!; \
	$(BIN)/python -m pytest --nbval --nbval-sanitize-with tests/nbval_sanitize.cfg tests book \
		$(PAGE_TESTS:%=--ignore=%) || failed=1; \
	wait $$pages || failed=1; \
	cat _build/pages.log; \
	exit $$failed

notebooks: $(INSTALLED) ## run all notebooks in place, keep their outputs and rewrite the generated pages
	@$(alone); $(BIN)/python book/execute.py $(NOTEBOOKS); \
	$(BIN)/python -m augflow_mini.claims book/[0-9]*.ipynb > _build/claims.md; \
	mv _build/claims.md book/claims.md; \
	$(BIN)/python book/generate.py

repository: $(INSTALLED) ## write the address (URL=https://github.com/OWNER/NAME) and version where they are repeated
	@$(BIN)/python book/_ext/repository.py $(URL)

release: html ## the wheel, and the site as a zip that works offline, in dist/
	@$(BIN)/python book/release.py

pdf: html browser ## the text as a PDF, in dist/
	@$(BIN)/python book/pdf.py

fuzz: $(INSTALLED) browser ## 10,000 generated cases over layers, flows, recipes, files and addresses; FUZZ=n for more
	@FUZZ=$${FUZZ:-1000} $(BIN)/python -m pytest -q -s tests/test_fuzz.py tests/test_fuzz_files.py

test-environments: ## Colab's packages, oldest and newest torch: long, before a release
	@$(PYTHON) tests/environments/run.py

test-lab: html browser ## the notebooks with explorers in JupyterLab: long, before a release
	@$(BIN)/python tests/environments/lab.py

measure: html browser ## time the pages (median of 5) and write the status page
	@PYTHONPATH=tests $(BIN)/python -m benchmarks.pages

clean: ## remove what was built (the virtual environment stays)
	@rm -rf _build .pytest_cache .ruff_cache

set-up: $(INSTALLED)

$(INSTALLED): requirements.txt pyproject.toml
	@$(call timed,install); \
	test -n "$(PYTHON)" || { echo "Python 3.11 or newer was not found: install it, or make PYTHON=... book"; exit 1; }; \
	$(alone); \
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV); \
	torch=$$(grep -o '^torch==[^ ]*' requirements.txt); \
	if $(BIN)/python -c 'import sys, importlib.metadata as m; sys.exit(m.version("torch").split("+")[0] != sys.argv[1])' \
			"$${torch#torch==}" 2>/dev/null; then \
		echo "$$torch is here already"; \
	elif $(BIN)/python -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1] + "/torch/", timeout=5)' \
			$(TORCH_INDEX) 2>/dev/null; then \
		$(BIN)/pip install --no-deps --index-url $(TORCH_INDEX) "$$torch"; \
	else \
		echo "NOTE: $(TORCH_INDEX) does not answer within 5 s. torch now comes from pip's default index, whose"; \
		echo "      Linux build may bring gigabytes of CUDA libraries. Another source: make TORCH_INDEX=... book"; \
		$(BIN)/pip install -c requirements.txt "$$torch"; \
	fi; \
	$(BIN)/pip install --disable-pip-version-check -q -r requirements.txt; \
	$(BIN)/pip install --disable-pip-version-check -q --no-deps --no-build-isolation --editable .; \
	$(BIN)/pip check; \
	rm -f $(VENV)/.installed-*; touch $@

# Results of notebooks are kept in _build/.jupyter_cache, keyed on the notebooks' code alone: a change
# of the library must drop them. The pages are always written anew (seconds): Sphinx would not notice
# an edit in book/_assets.
html: $(INSTALLED)
	@$(call timed,build); $(alone); \
	test -f $(EXECUTED) || rm -rf _build/.jupyter_cache _build/.doctrees _build/.executed-with-*; \
	rm -rf $(HTML); touch $(EXECUTED); \
	$(BIN)/jupyter-book build -W -n --keep-going . || { rm -rf _build/.doctrees; exit 1; } # else the next build is silent

# Chromium for the browser tests: CHROMIUM=/path, or one of the usual names on the PATH.
browser:
	@if test -z "$${CHROMIUM:-}" && ! command -v chromium chromium-browser google-chrome > /dev/null; then \
		if test "$$(id -u)" = 0 && command -v apt-get > /dev/null; then \
			$(call timed,chromium); apt-get update -qq; \
			apt-get install -y -qq --no-install-recommends chromium > /dev/null; \
		else \
			echo "The browser tests need Chromium: install it (Debian, Ubuntu: sudo apt install chromium)"; \
			echo "or say where it is: make CHROMIUM=/path/to/chrome test"; exit 1; \
		fi; \
	fi
