# Two commands do all: `make demo` and `make test` set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 2

.PHONY: demo test slow lint docs bench clean

# torch first and alone: its CPU build is found by this command only.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[server,audit,onnx,dashboard,datasets,generate,lowbits,metrics,tensorboard,dev]"
	touch $@

demo: $(VENV)/ready
	$(BIN)/cutlayer demo

test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile

slow: $(VENV)/ready
	$(BIN)/pytest -m slow

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/docs-ready: $(VENV)/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

docs: $(VENV)/docs-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: $(VENV)/ready
	$(BIN)/python benchmarks/wire.py
	$(BIN)/python benchmarks/speed.py

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .hypothesis
