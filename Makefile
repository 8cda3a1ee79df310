# Oubli. `make demo` and `make test` work on a fresh clone: they build .venv themselves.

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test test-all test-times drills fuzz model mutants check docs sbom bench bench-peers \
  bench-gpu clean

help:  ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Build .venv (the other targets do, where they need it)

demo: $(STAMP)  ## Show it all: contribute, predict, forget, prove (DEMO_ARGS=...)
	@$(BIN)/oubli demo $(DEMO_ARGS)

serve: $(STAMP)  ## Run the service: API and workers (SERVE_ARGS=...)
	@$(BIN)/oubli serve $(SERVE_ARGS)

# Two files at a time, also on a larger machine: tests of processes start a dozen of them, and wait for what they do.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 25

test: $(STAMP)  ## Run what a newcomer needs to believe, in minutes (TEST_ARGS=...)
	$(PYTEST) -m "not thorough" $(TEST_ARGS)

test-all: $(STAMP)  ## Run all tests, with coverage (TEST_ARGS=...)
	OUBLI_EXAMPLES=$${OUBLI_EXAMPLES:-30} $(PYTEST) --cov --cov-report=term $(TEST_ARGS)

test-times: $(STAMP)  ## Say what each test file protects, and what it cost in its last run
	@$(BIN)/python -m tests.times

drills: $(STAMP)  ## Before a release: faults x 5, counterfactuals x 20, 500 histories, mutants, wide model, soak
	OUBLI_DRILL_ROUNDS=5 $(BIN)/python -m pytest -s tests/integration/test_drills.py
	OUBLI_COUNTERFACTUALS=20 $(BIN)/python -m pytest \
	  tests/integration/test_counterfactual.py tests/integration/test_closed_form.py -k "never_contributed or no_bit"
	OUBLI_EXAMPLES=500 $(BIN)/python -m pytest tests/stateful
	$(BIN)/python -m tests.mutants
	$(BIN)/python -m tests.formal --wide
	$(BIN)/python -m benchmarks soak

fuzz: $(STAMP)  ## Send thousands of requests made from the API's description, as each kind of caller (FUZZ_ARGS=...)
	@$(BIN)/python -c 'import schemathesis' 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check --root-user-action=ignore -e '.[fuzz]'
	@$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

model: $(STAMP)  ## Explore the life cycle of clusters and erasures exhaustively (MODEL_ARGS=--wide)
	@$(BIN)/python -m tests.formal $(MODEL_ARGS)

mutants: $(STAMP)  ## Remove each safeguard in turn; some test must fail (MUTANTS_ARGS="--only NAME")
	@$(BIN)/python -m tests.mutants $(MUTANTS_ARGS)

check: $(STAMP)  ## Format, lint, types, layers and circles, dead code, citations, migrations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/vulture
	$(BIN)/python -m tools.cited_files
	$(BIN)/python -m tests.alembic_check

docs: $(STAMP)  ## Build the documentation site in site/; a broken link or a page in no menu fails
	@$(BIN)/python -m tools.site

sbom: $(STAMP)  ## Write sbom.json (CycloneDX): what the images install, with the sums of its files
	$(BIN)/cyclonedx-py requirements docker/requirements.lock --pyproject pyproject.toml \
	  --output-format JSON --output-reproducible --output-file sbom.json

bench: $(STAMP)  ## Measure: accuracy, latency, the cost of forgetting (BENCH_ARGS=...)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-peers: $(STAMP)  ## Install the peers of `make bench BENCH_ARGS=serving` into .venv-peers; it does without them
	$(BIN)/python -m venv .venv-peers
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > $$(.venv-peers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ours.pth
	.venv-peers/bin/python -m pip install --disable-pip-version-check -r benchmarks/peers.txt

bench-gpu: $(STAMP)  ## Measure serving's two passes on a GPU, with a vit-b-22k of random weights
	$(BIN)/python -m benchmarks serving_gpu

clean:  ## Remove .venv, caches and build leftovers; never oubli-data
	rm -rf $(VENV) build site *.egg-info sbom.json .coverage .coverage.* htmlcov \
	  .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is newer than pyproject.toml exactly when .venv holds what that file asks for.
$(STAMP): pyproject.toml
	@test -x $(BIN)/pip || { $(find_python); $(ensure_venv); "$$python" -m venv $(VENV); }
	@echo "Installing into $(VENV): a few minutes and a few GB the first time ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --root-user-action=ignore -e '.[dev]'
	@touch $@

# A name on PATH proves little (pyenv leaves shims of versions it does not run), so each candidate is asked.
define find_python
for python in python3.14 python3.13 python3.12 python3.11 python3 ""; do \
  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
done; \
test -n "$$python" || { echo "Oubli needs Python 3.11 or newer (on Debian or Ubuntu: apt-get install python3 python3-venv)." >&2; exit 1; }
endef

# Debian and Ubuntu ship Python without ensurepip; the package that adds it is named after the exact version.
define ensure_venv
"$$python" -c 'import ensurepip' 2>/dev/null || { \
  package=$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
  then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y "$$package" </dev/null; \
  else echo "Python cannot make virtual environments yet. Run: sudo apt-get install $$package" >&2; exit 1; fi; }
endef
