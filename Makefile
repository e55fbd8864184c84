# make demo · make test · make test-slow · make test-reference · make lint · make docs · make dist · make bench · make faults
# make goldens
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow test-reference lint docs dist bench faults goldens clean

demo: $(VENV)/.installed
	$(BIN)/python -m training demo $(if $(demo),demo=$(demo))

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -n auto --dist loadfile --ignore tests/rl/sandbox/test_sandbox.py
	$(BIN)/python -m pytest -q tests/rl/sandbox/test_sandbox.py  # its time limits are seconds of a free core

# The numerical tests on one thread, without XLA's library kernels and vector instructions newer than SSE 4.2:
# what they assert does not hang on the order in which a processor adds. How much memory a program takes does hang on
# such settings.
REFERENCE := --xla_cpu_max_isa=SSE4_2 --xla_cpu_multi_thread_eigen=false --xla_cpu_experimental_ynn_fusion_type= \
	--xla_allow_excess_precision=false --xla_backend_optimization_level=3 --xla_cpu_use_fusion_emitters=true
test-reference: $(VENV)/.installed-test
	XLA_FLAGS="$(REFERENCE)" taskset -c 0 $(BIN)/python -m pytest -q tests/test_tolerances.py tests/jaxmoe/model \
		tests/jaxmoe/generation tests/jaxmoe/adapters tests/jaxmoe/weights tests/jaxmoe/test_*.py tests/rl/policy \
		tests/evals/models tests/training/supervised -k "not keeps_no_float_copy"

# What takes minutes, beside the docs' own.
test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -m slow tests --ignore tests/docs

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

docs: $(VENV)/.installed-docs
	$(BIN)/python -m pytest -q -m slow tests/docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

# The wheel and the sdist, checked, and the wheel tried in an environment and a folder of its own.
dist: $(VENV)/.installed-dist
	rm -rf dist build/try && $(BIN)/python -m build -q .
	$(BIN)/python -m twine check --strict dist/* && $(BIN)/check-wheel-contents dist/*.whl
	$(PYTHON) -m venv build/try && build/try/bin/python -m pip install -q dist/*.whl && mkdir build/try/empty
	cd build/try/empty && ../bin/jaxmoe --version && ../bin/python -m training demo --help > /dev/null
	cd build/try/empty && ../bin/python -m evals.score --help > /dev/null
	cd build/try/empty && ../bin/jaxmoe pretrain --config pretrain/tiny && ../bin/jaxmoe sft --config sft/tiny

# what measures speed; the others take an hour or have their own tests, or are no program
APART := faults fuzz_readers turns ppo_trl
BENCHMARKS := $(filter-out $(APART),$(basename $(notdir $(wildcard benchmarks/*.py))))
bench: $(VENV)/.installed-test
	for b in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$b || exit 1; done

faults: $(VENV)/.installed-test
	$(BIN)/python benchmarks/faults.py

# Reference values of R for the tests of statistics; tests/goldens/psych/make.R says which packages it needs.
goldens:
	cd tests/goldens/psych && Rscript make.R

# Each stamp is renewed when pyproject.toml changes.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install -q -e '.[test]'
	@touch $@

$(VENV)/.installed-lint: $(VENV)/.installed-test
	$(BIN)/python -m pip install -q -e '.[lint]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install -q -e '.[docs]'
	@touch $@

$(VENV)/.installed-dist: $(VENV)/.installed
	$(BIN)/python -m pip install -q -e '.[dist]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info docs/_build docs/reference/faces docs/reference/rooms docs/reference/commands
