# SPDX-License-Identifier: GPL-2.0-or-later
# Two commands do everything on a fresh Debian machine, as root: "make run" and "make test". Each target installs
# what it needs by itself; what is there already costs nothing.

SHELL := /bin/sh
# Debian's own, whatever comes first in $PATH: the daemon and the guests of the lab run it too.
PYTHON := /usr/bin/python3
VENV := .venv
OBJECT := enforcer/kernel/enforcer.bpf.o
DESTDIR :=
PREFIX := /opt/mount-enforcer
SERIES := 6.12 6.18 newest

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

run: root packages-lab ready ## Watch mounts on this machine, or, where its kernel cannot, in virtual machines
	@exec $(VENV)/bin/python -m tools.run

test: root packages-lab ready ## Lint, unit tests, virtual machines with each kernel series, real clusters, chaos, the model
	@exec $(VENV)/bin/python -m tools.test

lint: packages-build ready ## ruff, mypy, clang -Werror
	@exec $(VENV)/bin/python -m tools.test lint

unit: packages-lab ready ## Tests that need no privilege
	@exec $(VENV)/bin/python -m tools.test unit

vm: series root packages-lab ready ## Tests in virtual machines; KERNEL=6.12 for one series
	@exec $(VENV)/bin/python -m tools.test $(if $(KERNEL),vm-$(KERNEL),vm)

model: python ready ## Every order of events for two nodes, one store and one disk; BREAK=NAME without an assumption
	@exec $(VENV)/bin/python -m tools.model $(if $(BREAK),--break $(BREAK))

mutants: root packages-lab ready ## Break one thing after the other and watch its test fail; MUTANTS="NAME..." for some
	@exec $(VENV)/bin/python -m tools.mutants $(MUTANTS)

chaos: root packages-lab ready ## Faults at random in virtual machines, and who wrote when; SEED=N STEPS=N
	@exec $(VENV)/bin/python -m tools.chaos $(if $(SEED),--seed $(SEED)) $(if $(STEPS),--steps $(STEPS))

bench: root packages-lab ready ## What a verdict costs, each figure beside its counterpart of the same run
	@exec $(VENV)/bin/python -m tools.bench

build: packages-build ready ## The compiled kernel programs, and the wheel in dist/
	@echo "build: the wheel in dist/"
	@rm -rf dist
	@$(VENV)/bin/pip -q wheel . --no-deps -w dist
	@ls dist

install: build ## Install on this node: $(PREFIX), units, policy, manual pages; DESTDIR= for a package
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' PYTHON='$(PYTHON)' tools/install.sh dist/*.whl

clean: ## Remove what was built here; downloaded kernels and packages stay
	@rm -rf $(VENV) $(OBJECT) dist build .cache-* .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find enforcer tools tests -name __pycache__ -prune -exec rm -rf {} +

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { gsub(/\$$\(PREFIX\)/, "$(PREFIX)", $$2); printf "  make %-8s %s\n", $$1, $$2 }' Makefile

# ---- what the targets stand on

ready: $(VENV)/installed $(OBJECT)
	@if [ -w enforcer ]; then $(PYTHON) -m compileall -q enforcer tools; fi # guests see the checkout read-only

series:
	@[ -z '$(filter-out $(SERIES),$(KERNEL))$(word 2,$(KERNEL))' ] || { \
	  echo "make vm: no kernel series '$(KERNEL)': KERNEL= is one of $(SERIES), or left out for all of them" >&2; exit 2; }

root:
	@[ "$$(id -u)" = 0 ] || { echo "make $(MAKECMDGOALS): run it as root, it installs packages and uses virtual machines" >&2; exit 4; }

python:
	@[ -x $(PYTHON) ] || { \
	  [ "$$(id -u)" = 0 ] || { echo "make: run it as root once, which is needed for: apt-get install python3" >&2; exit 4; }; \
	  echo "packages: installing python3"; \
	  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends python3; }

packages-build: python
	@$(PYTHON) -m tools.lab.prerequisites build

packages-lab: python
	@$(PYTHON) -m tools.lab.prerequisites

$(VENV)/bin/python:
	@echo "venv: $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)

$(VENV)/installed: pyproject.toml tools/hatch_build.py | $(VENV)/bin/python
	@echo "venv: installing the packages of pyproject.toml"
	@$(VENV)/bin/pip -q install --disable-pip-version-check -e '.[dev]'
	@touch $@

$(OBJECT): $(wildcard bpf/*.c bpf/*.h) tools/bpf.py
	@echo "bpf: compiling $@"
	@$(PYTHON) tools/bpf.py $@

.PHONY: run test lint unit vm model mutants chaos bench build install clean help ready series root python packages-build packages-lab
