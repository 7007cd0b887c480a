# One command each; the first one sets up .venv, and the first one that tests adds to it what tests and lint need. Needs
# make, pip and a Python of 3.11 or newer.

PYTHON ?= python3
BIN = .venv/bin
unexport PYTHONDONTWRITEBYTECODE # each of the four that run the tests would compile them all, every time
SOAK = -m soak -o addopts="--strict-markers --strict-config --import-mode=importlib" -o timeout=1800

.PHONY: help setup dev demo demo-ec2 picture man test coverage test-most test-oldest test-oned lint compile soak bench lock \
	sbom version dist release clean distclean

help:
	@echo 'make setup      what the drivers need, into .venv; REPLACE=1 makes it anew'
	@echo 'make demo       an operator’s day with an embedded cloud, under a minute the first time'
	@echo 'make demo-ec2   the same with the provider ec2, on an EC2 endpoint of its own'
	@echo 'make picture    docs/demo.svg, drawn from a run of the demonstration'
	@echo 'make man        the man pages, in build/man'
	@echo 'make test       lint, types, tests'
	@echo 'make coverage   the tests, and how much of the code they run; .ci/run needs it, too'
	@echo 'make test-most  all tests but end to end: for another Python, make test-most PYTHON=python3.12'
	@echo 'make test-oldest  the same with the oldest versions of the libraries that pyproject.toml admits'
	@echo 'make test-oned  whole lives under an installed OpenNebula: make test-oned ONE=/opt/one-7.4.0'
	@echo 'make packages   the .deb and .rpm of each distribution, into dist/; TARGETS="deb12 el" names some'
	@echo 'make test-packages  install, upgrade, purge in fresh Debian roots, as root'
	@echo 'make test-guest  cloud-init and one-context read what is sent for a CONTEXT, as root; ONE_CONTEXT=/path/to/one-apps'
	@echo 'make lint       ruff and mypy alone'
	@echo 'make soak       the long proofs'
	@echo 'make bench      the figures, measured here'
	@echo 'make dist       the sdist and the wheel of this commit, built twice, compared and checked'
	@echo 'make release    make dist, tried and with checksums, up to the tag: KEY=... signs; CONTRIBUTING.md has the steps'
	@echo 'make lock       renew requirements/, and print what changed'
	@echo 'make sbom       what is shipped, with its licences: an SBOM and all texts, into OUT=dist'
	@echo 'make clean      remove what the tools left; make distclean: .venv too'

# Runs a program of tools/ with the first Python that is new enough; PYTHON=/path/to/python make ... names one.
with_python = @for python in $(PYTHON) python3.13 python3.12 python3.11; do \
	if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then exec $$python $(1); fi; \
	done; \
	echo 'make: Python 3.11 or newer is needed; PYTHON=/path/to/python names one' >&2; \
	exit 1
BOOTSTRAP = tools/bootstrap.py $(if $(filter file,$(origin PYTHON)),,--named) $(if $(filter 1,$(REPLACE)),--replace)

setup:
	$(call with_python,$(BOOTSTRAP))

dev:
	$(call with_python,$(BOOTSTRAP) --dev)

demo: setup
	@bin/one-provider demo

demo-ec2: setup
	@bin/one-provider demo --ec2

picture: dev
	$(BIN)/python tools/picture.py

man: setup
	$(BIN)/python tools/manual.py build/man

lint: dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The tests of a fresh checkout take as long to compile as mypy takes to read it. What is wrong with one, pytest tells.
compile: dev
	@$(BIN)/pytest --collect-only -q > /dev/null 2>&1 || true

# Half of the time of a test that starts processes is waiting: four workers for each of two cores.
TESTED = $(BIN)/pytest -n 8 --dist worksteal

test: dev
	@$(MAKE) --no-print-directory --jobs=2 REPLACE= lint compile
	$(TESTED)

# Apart from `test`, whose time it would double: every process that a test starts is measured, too.
coverage: dev
	$(TESTED) --cov --cov-report=term

test-most: dev
	$(TESTED) --ignore=tests/end_to_end $(LEFT_OUT)

# In a copy of the checkout, since the programs in bin/ start the Python of their checkout. This set is not shipped.
test-oldest:
	$(call with_python,tools/lock.py --oldest build/oldest)
	@$(MAKE) --no-print-directory -C build/oldest test-most LEFT_OUT=--ignore=tests/test_sbom.py

# An hour or so, since OpenNebula's periods are minutes; TESTS="tests/real_oned/test_lives.py" names some. Nothing in $(ONE)
# is changed: copies of it run on loopback, and end with the tests.
TESTS ?= tests/real_oned
test-oned: dev
	ONE='$(ONE)' ROOTS='$(ROOTS)' $(BIN)/pytest -m oned -rs -o session_timeout=5400 $(TESTS)

.PHONY: packages test-packages test-guest

# Each package needs a Python of its distribution's version, which compiles, and dpkg-deb or rpmbuild.
packages: dev
	$(BIN)/python packaging/build.py $(TARGETS)

# As root, with debootstrap, lintian and rpm. Nothing outside $(ROOTS) and the temporary folder is changed.
ROOTS ?= dist/roots
test-packages: dev
	ROOTS='$(ROOTS)' $(BIN)/pytest -m packages -rs -o timeout=1800 tests/packages

# As root, with debootstrap and util-linux: guests in namespaces, whose files are made once, in $(ROOTS). ONE_CONTEXT names
# the sources of one-context: a checkout of OpenNebula's one-apps.
test-guest: dev
	ROOTS='$(ROOTS)' ONE_CONTEXT='$(ONE_CONTEXT)' $(BIN)/pytest -m guest -rs -o timeout=600 tests/real_guest

soak: dev
	$(BIN)/pytest $(SOAK)
	$(BIN)/pytest -n 4 -m hypothesis --hypothesis-profile=thorough -o timeout=600

bench: dev
	$(BIN)/python -m benchmarks

# Writes a version, and its section in CHANGELOG.md: make version VERSION=0.2.0
version: dev
	@$(BIN)/python tools/release.py version '$(VERSION)'

dist: dev
	@$(BIN)/python tools/release.py build

# Each line stops the release if it fails. Nothing is tagged, pushed or uploaded.
release: dev
	@$(BIN)/python tools/release.py check $(if $(KEY),--key '$(KEY)')
	@$(MAKE) --no-print-directory dist
	@$(BIN)/python tools/release.py install
	@$(MAKE) --no-print-directory packages
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(MAKE) --no-print-directory sbom OUT=dist \
		PACKAGES="$$(echo build/released/lib/python*/site-packages)"
	@$(BIN)/python tools/release.py finish $(if $(KEY),--key '$(KEY)')

lock:
	$(call with_python,tools/lock.py)

# The packages and the release name the folder, OUT, and what they contain: PACKAGES=/.../site-packages
sbom: dev
	@$(BIN)/python tools/sbom.py $(if $(PACKAGES),--packages '$(PACKAGES)') '$(or $(OUT),dist)'

clean:
	rm -rf build dist *.egg-info .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean
	rm -rf .venv
