# make demo     seven nights of simulated traffic, from an empty folder
# make check    lint, all tests with coverage, docs; CI runs this
# make test     all tests, without coverage
# make servers  the S3 servers and PostgreSQL that tests start, where they can be installed (tests/support/servers/README.md)
# make bench    benchmarks against other tools (docs/benchmarks.md)
# make asan     unit tests of the compiled scanner under AddressSanitizer, where gcc has it
# make soak     random tests, faults, kills and simulated weeks, for hours
# make mutants  mutation tests of the pure modules (docs/contributing/style.md)
# make docs     the documentation site, in site/
PYTHON ?= python3
BIN := .venv/bin
EXTRAS := dask,notebooks,otel,postgres
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
RECORDS ?= 200000
ROUNDS ?= 3
MIB ?= 512
DAYS ?= 365

.PHONY: install demo test test-unit test-integration coverage servers bench asan soak mutants docs lint check lock clean
.DEFAULT_GOAL := check

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt pipeline/tables/normalize/_scanner.pyx
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Postroom needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(PIP) --group dev --editable '.[$(EXTRAS)]'
	@touch $@

demo: install
	$(BIN)/postroom demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell pipeline jobs tests docs config notebooks *.md
	$(BIN)/mypy
	$(BIN)/lint-imports

test: install servers
	$(PYTEST)

test-unit: install
	$(PYTEST) -m unit

test-integration: install
	$(PYTEST) -m integration

check: lint coverage docs

coverage: install servers
	$(PYTEST) --cov --cov-report=
	$(BIN)/python -m tests.support.coverage_floors

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

servers: install
	@tests/support/servers/install $(BIN)/python

bench: install servers .venv/.bench
	$(BIN)/python -m tests.benchmarks --records $(RECORDS) --rounds $(ROUNDS)
	$(BIN)/python -m tests.benchmarks.schema_drift
	$(BIN)/python -m tests.benchmarks.second_nightly
	$(BIN)/python -m tests.benchmarks.backfill --days $(DAYS)
	$(BIN)/python -m tests.benchmarks.query
	$(BIN)/python -m tests.benchmarks.vault --mib $(MIB) --rounds $(ROUNDS)
	$(BIN)/python -m tests.benchmarks.billing

.venv/.bench: pyproject.toml constraints.txt
	$(PIP) --group bench --editable .
	@touch $@

asan: install
	@tests/support/asan $(BIN)/python

soak: install servers
	SOAK_TIMES=20 $(BIN)/python -m pytest -n 2 tests/integration/rooms/test_plan_apply.py \
		tests/integration/media/test_faulty_transfers.py tests/integration/media/test_killed.py \
		tests/integration/media/test_s3_vault.py tests/integration/jobs/test_simulated_weeks.py \
		tests/integration/tables/test_bad_documents.py \
		tests/integration/tables/test_oracle.py

mutants: install
	$(PIP) --group mutants
	$(BIN)/mutmut run
	$(BIN)/mutmut results

lock: install
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --group dev --group bench --group mutants --no-header \
		--no-annotate --no-emit-index-url --no-emit-find-links --upgrade pyproject.toml --output-file constraints.txt

clean:
	rm -rf .venv data/demo build site pipeline/tables/normalize/_scanner.c pipeline/tables/normalize/_scanner.*.so
