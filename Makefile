# make demo   sets everything up and trains, evaluates and submits on drawn faces
# make test   sets everything up and passes the whole suite, ruff and mypy included
# make quick  a part of the suite, in under a minute
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test quick lint lock clean

setup: $(READY)

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] >= (3, 11) else "Python 3.11 or later is needed, this is " + sys.version.split()[0] + "; name another with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	@touch $(READY)

demo: $(READY)
	@$(BIN)/python -m scripts.demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

test: lint
	$(BIN)/python -m pytest -n 2 -m "not long and not gpu"

QUICK := tests/test_imports.py tests/base tests/utils/config tests/utils/checkpoint tests/data_loader/records tests/model/loss tests/trainer/test_learner.py

quick: $(READY)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -q -n 2 -m "not long and not gpu" $(QUICK)

lock: $(READY)
	$(BIN)/python -m pip install --quiet uv
	(echo "# Exact versions that were tested, for Python 3.11 and later. Made from requirements-dev.txt by: make lock"; \
	 $(BIN)/python -m uv pip compile requirements-dev.txt --universal --python-version 3.11 --no-annotate --no-header) > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
