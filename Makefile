# make demo | test | lint | bench | tensorboard: each does its own set-up first.
PYTHON ?= python3
BIN := .venv/bin
DATA := model_data/dataset/embedded

.PHONY: help setup demo test lint bench tensorboard

help:
	@echo "make demo         a short DANN training on data that ships with the packages"
	@echo "make test         the test suite"
	@echo "make lint         style and types"
	@echo "make bench        speed and memory, needs the pickles of create_mnistm.py"
	@echo "make tensorboard  the curves of all runs, http://localhost:6006"
	@echo "make setup        only the virtual environment .venv"

setup: .venv/ready

.venv/ready: requirements.txt tests/requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, 13) else "Python 3.10 to 3.13 is needed, $(PYTHON) is %d.%d; try: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt
	@touch $@

$(DATA)/mnist_m.json: .venv/ready
	$(BIN)/python create_mnistm.py --embedded --output_dir $(DATA) --picture $(DATA)/samples.png

demo: $(DATA)/mnist_m.json
	$(BIN)/python benchmarks/demo.py --data $(DATA)

test: .venv/ready
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/ready
	$(BIN)/python benchmarks/bench.py

tensorboard: .venv/ready
	$(BIN)/tensorboard --logdir logs
