# make demo    plant a backdoor, find it, repair it, export it (installs clipguard first)
# make test      run the tests                                  (installs clipguard[dev] first)
# make coverage  run the tests, say which share of branches they cover; slower
# make lint    ruff, mypy over the package and its tests, zizmor and actionlint over the workflows
# make docs    build the documentation as a site into build/site; a broken link is an error
# make clean   remove what make, the tests and the demo made
.POSIX:

PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin

demo: $(VENV)/.installed
	$(BIN)/clipguard demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q

coverage: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q --cov --cov-report= --cov-fail-under=75

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/zizmor --offline --persona auditor --quiet action.yml .github examples/gate-release.yml
	$(BIN)/actionlint .github/workflows/*.yml examples/gate-release.yml

docs: $(VENV)/.installed-dev
	$(BIN)/python -m pip install -q -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) build dist demo-out clipguard-report
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*

# The stamps are written last, so an install that was broken off is done again.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e '.[dev]'
	touch $(VENV)/.installed $@

.PHONY: demo test coverage lint docs clean
