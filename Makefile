# make help lists the commands: each does its own set-up first.
PYTHON ?= python3
BIN := .venv/bin
DATA := model_data/dataset/embedded
DEMO := --source_dataset_path $(DATA)/MNIST/mnist_data.pkl \
	--target_dataset_path $(DATA)/MNIST_M/mnist_m_data.pkl --epoch 20 --batch_size 64

N ?= 2
ARGS ?=

JOBS ?= 2

.PHONY: help setup demo test test-long lint audit bench search table workers tensorboard clean-runs

help:
	@echo "make demo         two short trainings, without adaptation and with DANN; no downloads"
	@echo "make test         the test suite"
	@echo "make test-long    the long tests: several processes and devices, kills"
	@echo "make lint         style and types"
	@echo "make audit        known vulnerabilities of the dependencies; asks PyPI"
	@echo "make bench        speed and memory, needs the pickles of create_mnistm.py"
	@echo "make table        every training of docs/results.md; days, goes on where it stopped; JOBS=2 at a time"
	@echo "make search       the choice of settings without target labels; two hours, goes on likewise"
	@echo "make clean-runs   lists all runs with their sizes, and asks whether to remove them"
	@echo "make workers N=2  a training by N local processes; ARGS='--epoch 5' sets its flags"
	@echo "make tensorboard  the curves of all runs, http://localhost:6006"
	@echo "make setup        only the virtual environment .venv"

setup: .venv/ready

.venv/ready: requirements.txt tests/requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, 13) else "Python 3.10 to 3.13 is needed, $(PYTHON) is %d.%d; try: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt
	@touch $@

$(DATA)/mnist_m.json: .venv/ready
	$(BIN)/python create_mnistm.py --embedded --output_dir $(DATA)

demo: $(DATA)/mnist_m.json
	$(BIN)/python train_MNIST2MNIST_M.py $(DEMO) --method source_only
	$(BIN)/python train_MNIST2MNIST_M.py $(DEMO)
	@echo
	@echo "Done: two trainings on handwritten digits, first without adaptation, then with DANN."
	@echo "The target accuracies above tell what adaptation is worth. To see more:"
	@echo "  $(DATA)/samples.png                   source digits above their target versions"
	@echo "  logs/MNIST2MNIST_M/*/batch_size=64/*/*.png  figures of both runs (acc, loss, hyperparameter)"
	@echo "  make tensorboard                                the curves, at http://localhost:6006"
	@echo "One of our models on the same digits:"
	@echo "  . .venv/bin/activate"
	@echo "  python evaluate.py --source $(DATA)/MNIST/mnist_data.pkl --target $(DATA)/MNIST_M/mnist_m_data.pkl"
	@echo "Next, on the real data (downloads MNIST and BSDS500 unless you name them):"
	@echo "  . .venv/bin/activate"
	@echo "  python create_mnistm.py && python train_MNIST2MNIST_M.py --preset recipe --epoch 15"

test: .venv/ready
	$(BIN)/python -m pytest

test-long: .venv/ready
	$(BIN)/python -m pytest -m long

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

audit: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/pip-audit -r requirements.txt

bench: .venv/ready
	$(BIN)/python benchmarks/bench.py

table: .venv/ready
	$(BIN)/python benchmarks/table.py --jobs $(JOBS)

search: .venv/ready
	$(BIN)/python benchmarks/search.py --jobs $(JOBS)

clean-runs: .venv/ready
	@$(BIN)/python -m utils.run.clean

workers: .venv/ready
	$(BIN)/python -m utils.run.workers $(N) train_MNIST2MNIST_M.py $(ARGS)

tensorboard: .venv/ready
	$(BIN)/tensorboard --logdir logs
