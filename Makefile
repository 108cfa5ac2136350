# Main targets: `make demo` and `make test`. `make` alone lists all.

PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2

# Weights and samples of the notebooks and tests; `nbhelpers doctor` lists sizes and licences.
WEIGHTS := sam2-hiera-tiny-lite mobilesam conse-lite yolox-nano-lite migan vit-s14-lite xfeat-lighterglue disk-lightglue
SAMPLES := quokka.jpg quokka_annotations.json coffee.png chelsea.png astronaut.png china.jpg flower.jpg bikes.mp4 \
	box.mp4 $(foreach part,.jpg _class.png _object.png,$(foreach photo,03 06 25,voc_2011_0000$(photo)$(part))) \
	$(foreach number,1 2 3 4 5,BalbianelloMedium-$(number).jpg) Balbianello.out
NOTEBOOK := 00_start_here
# What `make eval` measures, with its options.
EVAL := "voc-words --vocabularies all,present,alone" "pascal-voc20 --use-sam" "voc-objects" \
	"davis2016 --start mask,click --corrections 3" kitchen temple phrases cameras dreambooth turned-box synthetic-products

# Container images often set this; every process, kernel and worker would then compile torch and other packages again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install fetch demo lab app test test-colab bench eval picture site address lint types format clean

help:  ## list the targets
	@echo "make TARGET, where TARGET is one of"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Another Python (3.11 or newer): make PYTHON=python3.13 demo"

install:  ## create .venv and install the pinned packages
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) on this machine; name one: make PYTHON=... demo"; exit 1; }
	@$(PYTHON) tools/install.py

fetch: install  ## download the weights, photos and clips of the notebooks and tests
	@echo "Downloading weights, photos and clips (about 600 MB, first time only)"
	@$(BIN)/nbhelpers fetch $(WEIGHTS) $(SAMPLES)

demo: fetch  ## run the first notebook; results in outputs/
	@$(BIN)/python tools/run_notebook.py notebooks/$(NOTEBOOK).ipynb
	@echo
	@echo "outputs/$(NOTEBOOK)/ contains masks and cut-outs (.png), masks as COCO RLE (.json) and the prompt log."
	@echo "outputs/$(NOTEBOOK)/$(NOTEBOOK).html is the executed notebook with all figures: open it in a browser."
	@echo "Next: run make lab to open the notebooks in JupyterLab and click on the photo."

lab: install  ## open the notebooks in JupyterLab
	@$(BIN)/python -m jupyterlab --notebook-dir=notebooks

app: fetch  ## open the pages that need no code; make app PAGE=clip opens one
	@$(BIN)/nbhelpers app $(PAGE)

test: fetch  ## unit tests, tests with real weights, notebooks, and browser tests if a Chromium is found
	@echo "Testing, $(JOBS) at a time; several minutes"
	@NBHELPERS_MODELS=lite $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --nbmake --nbmake-timeout=900 tests notebooks

test-colab: install  ## run the widgets in an environment like Colab's, in .colab (Python 3.13, a Chromium)
	@$(BIN)/python tools/colab.py

bench: fetch  ## run the timings of the README's table of measurements
	@for script in bench/*.py; do echo "Running $$script"; $(BIN)/python "$$script" || exit 1; done

eval: fetch  ## measure on images with ground truth: make eval DATA=folder; results in outputs/benchmarks/
	@test -n "$(DATA)" || { echo "Name the folder: make eval DATA=..."; exit 1; }
	@for run in $(EVAL); do name=$${run%% *}; echo "Measuring $$name"; $(BIN)/nbhelpers benchmarks run --dataset $$run \
		--data-dir "$(DATA)" --output-dir "outputs/benchmarks/$$name" || exit 1; done
	@$(BIN)/nbhelpers benchmarks report outputs/benchmarks/*/ --output outputs/benchmarks/report.html

picture: fetch  ## generate the README's picture of the click widget (needs a Chromium)
	@$(BIN)/python tools/picture.py

site: fetch  ## build the site in outputs/site; executes the notebooks that changed
	@$(BIN)/python tools/site_pages.py

address: install  ## copy the repository's address from pyproject.toml to badges and notebooks
	@$(BIN)/python tools/address.py

lint: install types  ## check style, spelling and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/codespell

types: install  ## check types with pyright
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: install  ## fix style and strip outputs from the notebooks
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/nbstripout notebooks/*.ipynb

clean:  ## remove .venv, caches and outputs; keep weights and photos
	rm -rf .venv .stamps outputs build dist .pytest_cache .ruff_cache *.egg-info
