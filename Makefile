# PyFlare: the commands a person would guess. `make help` lists them.

SHELL := /bin/bash
BINARY = $(shell cargo metadata --format-version 1 --no-deps --offline 2>/dev/null | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')/release/pyflare

.PHONY: help setup ui build run test test-rust test-ui test-e2e test-crash lint fmt bench fuzz reference docs

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup:  ## install missing system packages, or say which
	@tools/setup.sh

ui/dist/index.html: $(shell find ui/src ui/public ui/index.html ui/package-lock.json -type f 2>/dev/null)
	cd ui && npm ci --no-audit --no-fund && npm run build
	@touch ui/dist/index.html

ui: ui/dist/index.html  ## build the web UI

build: setup ui  ## build everything (the first time takes 20 to 40 minutes on two cores)
	cargo build --release --workspace --bin pyflare

run: build  ## build, start on embedded defaults with demo traffic, print the addresses
	@tools/run.sh "$(BINARY)"

test: build test-rust test-ui test-e2e  ## all tests

test-rust:
	cargo test --release --workspace

test-ui: ui
	@tools/setup.sh tests
	cd ui && npm test

test-e2e: build
	tests/run-all.sh "$(BINARY)"

test-crash: build  ## KILLS (1,000) kills in rounds of harm of every kind; the report goes to CRASH_REPORT
	@tools/setup.sh tests
	@tests/clients/install.sh --quiet
	tests/support/python tests/crash/planted_faults.py
	tests/support/python tests/crash/planted_faults.py --binary "$(BINARY)"
	rm -f target/crash-rounds.jsonl && mkdir -p target
	tests/support/python tests/crash/run.py --binary "$(BINARY)" --kills "$(or $(KILLS),1000)" --jobs "$(or $(JOBS),2)" \
		--report target/crash-rounds.jsonl; status=$$?; \
		tests/support/python tests/crash/page.py target/crash-rounds.jsonl > "$(or $(CRASH_REPORT),target/crash-report.md)"; \
		exit $$status

lint: setup ui  ## formatting, clippy, arrows between crates, UI and Python linters
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	tools/check-arrows.sh
	cd ui && npm run typecheck && npm run lint

fmt:  ## format the code
	cargo fmt --all

bench: build  ## measure this machine against the targets
	"$(BINARY)" bench

fuzz:  ## for FUZZ_SECONDS (600) each: mutated requests to the decoder, random queries against the batch
	tools/fuzz.sh "$(or $(FUZZ_SECONDS),600)"
	tools/fuzz_queries.sh "$(or $(FUZZ_SECONDS),600)"

reference:  ## write the generated pages of the reference anew
	PYFLARE_WRITE_FIELDS=1 PYFLARE_WRITE_REFERENCE=1 cargo test --release --workspace --test sql --test fields_page

docs:  ## build the book (needs mdbook)
	mdbook build docs
