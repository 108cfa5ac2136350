# Two commands matter: `make demo` and `make test`. `make` alone lists the rest.

PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2

# What the notebooks and the tests run on: `nbhelpers doctor` tells sizes and licences.
WEIGHTS := sam2-hiera-tiny-lite mobilesam conse-lite yolox-nano-lite migan vit-s14-lite xfeat-lighterglue disk-lightglue
SAMPLES := quokka.jpg quokka_annotations.json coffee.png chelsea.png astronaut.png china.jpg flower.jpg bikes.mp4 \
	box.mp4 $(foreach number,1 2 3 4 5,BalbianelloMedium-$(number).jpg) Balbianello.out
NOTEBOOK := 00_start_here

.DEFAULT_GOAL := help
.PHONY: help install fetch demo lab app test bench eval picture address lint types format clean

help:  ## this list
	@echo "make TARGET, where TARGET is one of"
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Another Python (3.11 or newer): make PYTHON=python3.13 demo"

install:  ## make .venv and install the pinned packages, once
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) on this machine; name one: make PYTHON=... demo"; exit 1; }
	@$(PYTHON) tools/install.py

fetch: install  ## fetch the weights, photos and clips of the notebooks and the tests, once
	@echo "Fetching weights, photos and clips (about 600 MB the first time, nothing later)"
	@$(BIN)/nbhelpers fetch $(WEIGHTS) $(SAMPLES)

demo: fetch  ## run the first notebook on real photos; results in outputs/
	@$(BIN)/python tools/run_notebook.py notebooks/$(NOTEBOOK).ipynb
	@echo
	@echo "outputs/$(NOTEBOOK)/ holds the photo's masks and cut-outs (.png), its masks as COCO RLE (.json) and its clicks."
	@echo "outputs/$(NOTEBOOK)/$(NOTEBOOK).html is the notebook as it ran, with every picture: open it in a browser."
	@echo "Next: make lab opens the notebooks in JupyterLab; click on the photo yourself."

lab: install  ## open JupyterLab on the notebooks
	@$(BIN)/python -m jupyterlab --notebook-dir=notebooks

app: fetch  ## open the multi-view page for people who do not code, in a browser
	@cd app && ../$(BIN)/voila multiview.ipynb

test: fetch  ## unit tests, real-weight tests, notebooks, and browser tests where a Chromium is found
	@echo "Testing, $(JOBS) at a time; several minutes"
	@NBHELPERS_MODELS=lite $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --nbmake --nbmake-timeout=900 tests notebooks

bench: fetch  ## measure what the README's table of measurements tells
	@for script in $(filter-out bench/eval_%,$(wildcard bench/*.py)); do echo "Running $$script"; $(BIN)/python "$$script" || exit 1; done

eval: fetch  ## measure on pictures with known answers: make eval DATA=folder (see bench/eval_*.py)
	@test -n "$(DATA)" || { echo "Name the folder: make eval DATA=..."; exit 1; }
	@for script in bench/eval_*.py; do echo "Running $$script"; $(BIN)/python "$$script" "$(DATA)" || exit 1; done

picture: fetch  ## make the README's picture of the click widget (needs a Chromium)
	@$(BIN)/python tools/picture.py

address: install  ## carry the repository's address from pyproject.toml to badges and notebooks
	@$(BIN)/python tools/address.py

lint: install  ## check style and spelling
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/codespell

types: install  ## check types with pyright; not yet free of errors
	@$(BIN)/pyright

format: install  ## put style right, and strip outputs from the notebooks
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/nbstripout notebooks/*.ipynb

clean:  ## remove .venv, caches and outputs; weights and photos stay
	rm -rf .venv .stamps outputs build dist .pytest_cache .ruff_cache *.egg-info
