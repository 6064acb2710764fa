# make demo    seven nights of simulated traffic, from an empty folder
# make check   everything is right: lint, types, tests
# make servers the S3 servers and PostgreSQL that tests run, where they can be installed (tests/servers/README.md); part of make test
# make bench   CDRs to Parquet and files to a bucket, ours against their peers, and a year backfilled (docs/benchmarks.md)
# make soak    what random tests, faults and kills find in some hours: rooms twenty times as long, 10,000 faulty transfers,
#              fifty kills, six fortnights of two schedulers in bad weather
PYTHON ?= python3
BIN := .venv/bin
RECORDS ?= 200000
ROUNDS ?= 3
MIB ?= 512
DAYS ?= 365

.PHONY: install demo test servers bench soak lint types check lock clean
.DEFAULT_GOAL := check

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt pipeline/tables/normalize/_scanner.pyx
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Postroom needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install
	$(BIN)/postroom demo

test: install servers
	$(BIN)/python -m pytest -n 2 --dist worksteal

servers: install
	@tests/servers/install $(BIN)/python

bench: install servers .venv/.bench
	$(BIN)/python -m tests.bench --records $(RECORDS) --rounds $(ROUNDS)
	$(BIN)/python -m tests.bench.second_nightly
	$(BIN)/python -m tests.bench.backfill --days $(DAYS)
	$(BIN)/python -m tests.bench.query
	$(BIN)/python -m tests.bench.vault --mib $(MIB) --rounds $(ROUNDS)
	$(BIN)/python -m tests.bench.billing

.venv/.bench: pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	@touch $@

soak: install servers
	SOAK_TIMES=20 $(BIN)/python -m pytest -n 2 tests/flows/test_rooms_bars.py tests/flows/test_faulty_transfers.py \
		tests/flows/test_killed.py \
		tests/flows/test_vault_in_a_bucket.py tests/flows/test_simulated_weeks.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --quiet

types: install
	$(BIN)/mypy

check: lint types test

lock: install
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --upgrade pyproject.toml --output-file constraints.txt

clean:
	rm -rf .venv data/demo build pipeline/tables/normalize/_scanner.c pipeline/tables/normalize/_scanner.*.so
