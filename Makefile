# Everything runs in .venv, made here from Python 3.11 or newer. `make demo` is the main job, `make test` the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := classic,dmc,metaworld,robotics,postgres,human,vlm,clip,imitation,offline,recorded,ros,bench,ray,docs,dev

.PHONY: help demo test test-slow lint types docs package format bench bench-speed bench-guard clean

help:
	@echo "make demo       teach a robot to run: from labels, from coin flips, from the true reward (minutes)"
	@echo "make test       run the tests"
	@echo "make test-slow  run the long learning checks"
	@echo "make lint types check style and types; make format rewrites"
	@echo "make docs       build the site into site/, warnings as errors"
	@echo "make package    build sdist and wheel, check them, and run the wheel outside this folder"
	@echo "make bench      run every benchmark and print its ratios"
	@echo "make bench-speed  every speed comparison in one table of ratios, written to benchmarks/results"
	@echo "make bench-guard  train small runs and say which method learns worse than before (minutes)"
	@echo "make clean      remove the virtual environment and caches"

# imitation comes last and alone: it declares gymnasium 0.29 and stable-baselines3 2.2, yet runs on the current ones.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "prefenvs needs Python 3.11 to 3.13; set PYTHON=..."'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps imitation
	touch $@

demo: $(VENV)/installed
	$(BIN)/prefenvs demo

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 4 --dist worksteal

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy
	$(BIN)/mypy examples
	$(BIN)/mypy -p benchmarks

docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

package: $(VENV)/installed
	$(BIN)/python .ci/package.py

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Not those that train for hours, nor the one that needs policies of its own.
bench: $(VENV)/installed
	@for script in $(subst /,.,$(basename $(filter-out benchmarks/learning/% %/adroit_experts.py,$(wildcard benchmarks/*/*.py)))); do \
		echo "== $$script"; $(BIN)/python -m $$script || exit 1; done

bench-speed: $(VENV)/installed
	$(BIN)/python -m benchmarks.speed

bench-guard: $(VENV)/installed
	$(BIN)/prefenvs bench guard

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build site *.egg-info
