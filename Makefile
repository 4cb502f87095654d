# make train       set everything up in .venv and run the main job; ARGS adds flags: make train ARGS="--preset quick"
# make test        set everything up in .venv-test, then lint, check types and run the tests
# make test-ray    set everything up in .venv-ray and run the tests of actors on Ray
# make docs       check every page and build the site in build/site, in an environment of its own, .venv-docs
# make wheel-test  build the wheel, install it in a new environment and use it from an empty folder

PYTHON ?= $(shell python3.11 --version >/dev/null 2>&1 && echo python3.11 || echo python3)
TORCH  ?= torch==2.13.0
ARGS   ?=

.PHONY: train test test-ray docs wheel-test clean

train: .venv/installed
	.venv/bin/softflow-train --algo softflow --env tape_cut $(ARGS)

test: .venv-test/installed
	.venv-test/bin/ruff check .
	.venv-test/bin/codespell *.md docs softflow flows critics configs benchmarks examples tests
	.venv-test/bin/mypy
	.venv-test/bin/python -m pytest --numprocesses auto --dist worksteal

test-ray: .venv-ray/installed
	.venv-ray/bin/python -m pytest tests/ray

docs: .venv-docs/installed
	.venv-docs/bin/python -m pytest tests/docs tests/cli/test_start_pages.py tests/runs/test_public_names.py
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --clean

# The stamp is newer than the metadata as long as nothing has to be installed again.
.venv-test/installed: EXTRAS := [dev]
.venv-ray/installed: EXTRAS := [dev,ray]
.venv-docs/installed: EXTRAS := [dev,docs]
.venv/installed .venv-test/installed .venv-ray/installed .venv-docs/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install "$(TORCH)"
	$(@D)/bin/pip install "$(TORCH)" --editable ".$(EXTRAS)"
	touch $@

wheel-test:
	rm -rf build dist .venv-wheel
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/pip wheel --no-deps --wheel-dir dist .
	.venv-wheel/bin/pip install "$(TORCH)"
	.venv-wheel/bin/pip install dist/softflow-*.whl
	cd "$$(mktemp -d)" && "$(CURDIR)/.venv-wheel/bin/softflow-train" --algo softflow --env tape_cut --help

clean:
	rm -rf .venv .venv-test .venv-ray .venv-docs .venv-wheel build dist *.egg-info
