PYTHON ?= python3.11
export RAY_worker_niceness = 0
export RAY_USAGE_STATS_ENABLED = 0
installed := .venv/.installed

.PHONY: test test-slow lint bench clean

$(installed): setup.cfg constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q -c constraints.txt -e '.[test,lint]'
	touch $@

test: $(installed) ## fast tests
	.venv/bin/python -m pytest -q -m "not slow"

test-slow: $(installed) ## tests that take minutes
	.venv/bin/python -m pytest -q -m slow

lint: $(installed)
	.venv/bin/ruff check .

bench: $(installed)
	.venv/bin/python bench/sampling.py

clean: ## caches and the virtual environment; runs/ and data/ stay
	rm -rf .venv .pytest_cache .ruff_cache *.egg-info
