# Everything a user or CI needs. `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.locked

.PHONY: demo setup test lint format bench graphs images verify-why verify-kernels live-aarch64 lock clean

demo: setup
	@$(BIN)/samepage demo

setup: $(STAMP)

# The stamp is written last, so that an interrupted set-up starts again.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "samepage needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@# Nothing here needs what venv brings, and it would run code whenever Python starts.
	@$(BIN)/python -m pip uninstall -qq --yes setuptools
	@# Bytecode is written now, so that the first command is as fast as the others.
	@$(BIN)/python -m compileall -q samepage
	@touch $@

test: setup
	$(BIN)/python -m pytest -n auto

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python -m benchmarks

# 200 random graphs of libraries against ld.so's order of constructors; eight are in the suite.
graphs: setup
	$(BIN)/python -m fuzz.graphs --count 200

# The README's pictures, from real runs on this machine.
images: setup
	$(BIN)/python docs/images/make.py

# The counts of the live side, and the model, on the other kernels of Debian 12, in QEMU; and the live
# side on arm64. Not a part of `make test`: they download kernels and take an hour (docs/kernels.md).
verify-kernels: setup
	$(BIN)/python -m kernels live --kernel 6.1 --kernel 6.12
	$(BIN)/python -m kernels verify --kernel 6.1 --kernel 6.12

live-aarch64: setup
	$(BIN)/python -m kernels live --architecture arm64 --kernel 6.1 --kernel 6.12

# `samepage why` on servers, ten times each, and killed at 200 moments (the suite does it once, and
# at 8 moments).
verify-why: setup
	SAMEPAGE_WHY_RUNS=10 SAMEPAGE_WHY_KILLS=200 $(BIN)/python -m pytest -n 0 -s --timeout 3600 \
		tests/cli/test_why_servers.py tests/trace/test_killed_watcher.py

# Resolves the newest versions that pyproject.toml admits and pins them with their hashes.
lock: setup
	$(BIN)/python -m pip install --quiet pip-tools
	$(BIN)/pip-compile --quiet --strip-extras --allow-unsafe --generate-hashes --all-extras \
		--all-build-deps --no-emit-index-url --no-emit-find-links -o requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
