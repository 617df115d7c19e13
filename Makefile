# make quickstart · make test · make check      each sets up .venv first, if it isn't there

PYTHON ?= python3
BIN := .venv/bin
# Processes take whole files, which share what they set up; how many, in which order, and which files
# are given out test by test: tests/conftest.py.
PYTEST := $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder
INSTALLED := .venv/.installed

.PHONY: quickstart test test-fast coverage campaign fuzz lint audit check docs format

quickstart: $(INSTALLED)
	$(BIN)/hpo run studies/quickstart.yaml

test: $(INSTALLED)          ## every test that can run here
	$(PYTEST)

test-fast: $(INSTALLED)     ## without those that take more than two seconds
	$(PYTEST) -m "not slow"

coverage: $(INSTALLED)      ## every test, and which lines none of them reaches in its own process
	$(PYTEST) --cov --cov-report=term:skip-covered

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: $(INSTALLED)         ## whether a package is known to be vulnerable; needs the internet
	$(BIN)/python .ci/audit.py

check: lint audit test      ## exactly what CI checks

campaign: $(INSTALLED)      ## N kills at random, from the study of SEED on; then at each fault point
	$(BIN)/python tests/campaign/kills.py $(or $(N),1000) --seed $(or $(SEED),0)
	$(BIN)/python tests/campaign/kills.py points

fuzz: $(INSTALLED)          ## N spoilt study files; a hundred or so a second
	$(BIN)/python tests/fuzz.py $(or $(N),10000)

docs: $(INSTALLED)          ## write the generated pages of docs/reference anew
	$(BIN)/python -m hpo.spec.reference > docs/reference/study-file.md
	$(BIN)/hpo schema > docs/reference/study.schema.json
	$(BIN)/python -m hpo.cli_reference > docs/reference/commands.md

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Setting up .venv (PyTorch is several gigabytes; this takes some minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@
