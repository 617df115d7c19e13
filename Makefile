# make quickstart · make test · make check      each sets up .venv first, if it isn't there

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: quickstart test test-fast lint check docs format

quickstart: $(INSTALLED)
	$(BIN)/hpo run studies/quickstart.yaml

test: $(INSTALLED)          ## every test that can run here
	$(BIN)/pytest --cov --cov-report=term:skip-covered

test-fast: $(INSTALLED)     ## without those that take more than a few seconds
	$(BIN)/pytest -m "not slow" -n auto --dist loadfile   # whole files, which share what they set up

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test            ## exactly what CI checks

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
