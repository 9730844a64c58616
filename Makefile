# make demo: compare TVLARS, LARS and LAMB on data that ships with a dependency.
# make test: lint, types and tests. Both set up .venv first; a second run reuses it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test setup figures clean

demo: $(READY)
	$(BIN)/tvlars compare --data digits --optimizers tvlars lars lamb --seeds 0 1 2 --batch-size 256 --epochs 30

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

setup: $(READY)

figures: $(READY)
	$(BIN)/python docs/phi.py

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check 'torch>=2.9' torchvision
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[lab,dev]'
	touch $@

clean:
	rm -rf $(VENV)
