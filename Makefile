# make demo   sets everything up and runs the demonstration
# make test   sets everything up and passes the tests (minutes); make test-slow the long ones
# make setup  only sets up: .venv, with weft in it, editable
# make bench | lint | clean
#
# Only Python 3.10 or newer has to be there. PYTHON=... chooses which, TESTS=... what to test.

VENV := .venv
BOARD := .venv-pynq
BOARD3 := .venv-pynq3
BOARD_TESTS = $(addprefix tests/device/test_,pynq.py board_faults.py remote.py notebooks.py contract.py)
BIN := $(VENV)/bin
TESTS ?= tests
JOBS ?= 2
CXX_FILES = $(shell find hls host -name '*.hpp' -o -name '*.cpp' -o -name '*.h')

.PHONY: help demo test test-slow setup bench lint format clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile

demo: $(VENV)/.run
	$(BIN)/weft demo

test: $(VENV)/.dev $(BOARD)/.ready
	rm -f .coverage
	@if test -e $(BOARD)/skipped; then cat $(BOARD)/skipped; elif test "$(TESTS)" = tests; then \
	  $(BOARD)/bin/python -m pytest -q --cov --cov-report= -m "not slow" $(BOARD_TESTS); fi
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow" --cov --cov-append --cov-fail-under=90 $(TESTS)

# Fuzzing, whole data sets, and every overlay through every compiler; real networks on boards, and
# all of boards with the pynq of Zynq-7000 images.
test-slow: $(VENV)/.dev $(BOARD)/.ready $(BOARD3)/.ready
	@if test -e $(BOARD)/skipped; then cat $(BOARD)/skipped; elif test "$(TESTS)" = tests; then \
	  $(BOARD)/bin/python -m pytest -q -m slow tests/device/test_networks.py; fi
	@if test -e $(BOARD3)/skipped; then cat $(BOARD3)/skipped; elif test "$(TESTS)" = tests; then \
	  $(BOARD3)/bin/python -m pytest -q $(BOARD_TESTS) tests/device/test_networks.py; fi
	$(BIN)/python -m pytest -n $(JOBS) -m slow $(TESTS)

setup: $(VENV)/.dev

bench: $(VENV)/.dev
	$(BIN)/python -m bench

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@test -z "$(CXX_FILES)" || $(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	$(BIN)/weft lint tiny edge

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	@test -z "$(CXX_FILES)" || $(BIN)/clang-format -i $(CXX_FILES)

clean:
	rm -rf $(VENV) $(BOARD) $(BOARD3) build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make a second run instant; a changed pyproject.toml installs again.
$(VENV)/.run: pyproject.toml .ci/setup
	.ci/setup $(VENV) '.[compile,plot,cxx]'
	@touch $@

$(VENV)/.dev: pyproject.toml .ci/setup
	.ci/setup $(VENV) '.[dev]'
	@touch $@ $(VENV)/.run

$(BOARD)/.ready: pyproject.toml .ci/setup_board
	PYNQ=$(PYNQ) .ci/setup_board $(BOARD)
	@touch $@

$(BOARD3)/.ready: pyproject.toml .ci/setup_board
	PYNQ=pynq==3.1.2 .ci/setup_board $(BOARD3)
	@touch $@
