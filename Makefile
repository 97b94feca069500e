PYTHON ?= python3.11
export RAY_worker_niceness = 0
export RAY_USAGE_STATS_ENABLED = 0
installed := .venv/.installed
python := .venv/bin/python
# Two processes that take tests from each other.
two = $(python) -m pytest -q -n 2 --dist worksteal

# A network that nobody else uses, for those who may make one.
own_network = $(if $(shell unshare --net true 2>/dev/null && echo yes),unshare --net env OWN_NETWORK=yes sh -c 'ip link set lo up && exec "$$@"' sh)

.PHONY: help demo results test test-slow test-cluster test-chaos test-gpu gpu-check lint bench docs clean

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(installed): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q -c constraints.txt -e '.[test,lint,docs]'
	touch $@

demo: $(installed) ## distil the embedded teacher, then RL: runs/demo/report.html, 9 to 13 minutes on 2 cores
	$(python) jobs/distill.py --out runs/demo --overwrite

results: $(installed) ## measure docs/results.md and README anew, an hour; an interrupted one goes on where it was
	$(python) bench/results.py

test: $(installed) ## fast tests
	OMP_NUM_THREADS=1 $(two) -m "not slow and not cluster and not chaos and not gpu"

test-slow: $(installed) ## tests that take minutes
	$(two) -m slow

test-cluster: $(installed) ## three hosts as network namespaces: needs root, iproute2, openssh-server, rsync
	$(python) -m pytest -q -rs -m cluster

test-chaos: $(installed) ## ten minutes of killed and paused processes; with root also of a slow network
	$(own_network) $(python) -m pytest -q -s -m chaos

test-gpu: $(installed) ## what needs a GPU
	$(python) -m pytest -q -rs -m gpu

gpu-check: $(installed) ## what needs a GPU and the speed of each part there, 8 minutes; again: what is not done yet
	$(python) bench/gpu_check.py

lint: $(installed) ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/mypy

bench: $(installed) ## measure docs/performance.md anew, half an hour on an idle machine; MAR=PATH also beside a checkout of LTH14/mar
	$(python) bench/performance.py $(if $(MAR),--mar $(MAR))

clean: ## caches and the virtual environment; runs/ and data/ stay
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache *.egg-info

docs: $(installed) ## the documentation as a site, site/index.html; fails where a link leads nowhere
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet
