# make demo: compare TVLARS, LARS and LAMB on data that ships with a dependency.
# make test: lint, types and all tests, the types beside the tests. Both set up .venv first; a second run reuses it.
# make quick: lint, types, tests of the core and of files changed since the last commit (SINCE=main: since main).
# make test-wheel: the core's tests on the built wheel, with torch alone. make test-oldest: core and laboratory with
# the oldest torch that is supported. Both download several GB the first time; test-oldest keeps its environment in build/.
# make docs: the site, in site/. make figures: draws its figures anew. make notebook: runs examples/quickstart.ipynb anew.
# make pictures: trains on digits for some minutes, and takes the pictures of the report, which requires Debian's chromium.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

CORE_TESTS := tests/optim tests/test_schedule.py tests/test_groups.py tests/test_plan.py tests/test_findings.py \
	tests/test_noise_scale.py tests/test_stats.py tests/test_public_api.py

NUMPY_TESTS := $(addprefix tests/optim/,test_parity.py test_distributed.py triton test_step_time_cuda.py)

.PHONY: demo test quick lint style test-wheel test-oldest setup docs figures pictures notebook clean

demo: $(READY)
	$(BIN)/tvlars compare --data digits --optimizers tvlars lars lamb --seeds 0 1 2 3 4 5 6 --batch-size 256 --epochs 15

SINCE ?= HEAD
# Three workers for two cores: tests of signals, locks and lost processes spend much of their time waiting.
# Bytecode is written whatever the environment says: many processes import the same files.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadgroup --no-loadscope-reorder
QUICK_TESTS := $(addprefix tests/,optim/test_parity.py optim/test_paths.py optim/test_tvlars.py optim/test_properties.py \
	test_schedule.py test_groups.py test_plan.py test_public_api.py test_structure.py lab/test_config.py \
	lab/training/test_train.py lab/run_folder/test_checkpoint.py)

# mypy reads for half a minute on one core: the tests go first, and what it says comes after theirs.
test: style
	@said=$$(mktemp); nice -n 5 $(BIN)/mypy >$$said 2>&1 & types=$$!; \
	$(PYTEST); tests=$$?; wait $$types; types=$$?; cat $$said; rm -f $$said; exit $$((tests | types))

quick: lint
	$(PYTEST) -m 'not slow' $(QUICK_TESTS) $$($(BIN)/python tools/tests_of_change.py $(SINCE))

lint: style
	$(BIN)/mypy

style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# With torch, pytest and hypothesis; then with numpy too, what reads stored numbers or counts collectives.
test-wheel: $(READY)
	rm -rf build/test-wheel
	BUILDER=$(BIN)/python tools/test_installed.sh build/test-wheel 'torch>=2.9 pytest hypothesis' '' $(CORE_TESTS)
	BUILDER=$(BIN)/python tools/test_installed.sh build/test-wheel numpy '' $(NUMPY_TESTS)

# NumPy 2.4 refuses what the interpreter of that torch's Triton, in which its kernels are tested, does to arrays.
test-oldest: $(READY)
	BUILDER=$(BIN)/python tools/test_installed.sh build/test-oldest \
		'torch==2.9.* torchvision==0.24.* numpy<2.4 pytest hypothesis' lab \
		$(CORE_TESTS) tests/sharpness tests/lab tests/test_cli.py tests/test_doctor_command.py tests/test_completion.py

setup: $(READY)

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

figures: $(READY)
	for script in schedules layers batches; do $(BIN)/python docs/figures/$$script.py || exit 1; done

pictures: $(READY)
	$(BIN)/python tools/report_pictures.py

notebook: $(READY)
	$(BIN)/python tools/run_notebook.py

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check 'torch>=2.9' torchvision
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[lab,dev]'
	touch $@

clean:
	rm -rf $(VENV)
