PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help venv demo test check protos bench clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "epp-client needs Python 3.11 or newer; of python3 and" \
	  "python3.11 to python3.13 none on PATH is"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

venv: .venv/installed ## Make .venv and install everything into it

demo: venv ## Run the main job on this machine: Envoy, sidecar, pickers, model servers
	$(BIN)/epp-client demo

test: venv ## Run the tests
	$(BIN)/python -m pytest

check: venv protos ## Lint, types, import contracts, generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	git diff --exit-code -- epp_client/ext_proc/pb epp_client/xds/pb

protos: venv ## Compile protos/ anew
	$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=epp_client/ext_proc/pb \
	  --pyi_out=epp_client/ext_proc/pb protos/ext_proc.proto
	$(BIN)/python -m grpc_tools.protoc -Iprotos/xds --python_out=epp_client/xds/pb \
	  --pyi_out=epp_client/xds/pb protos/xds/*.proto

bench: venv ## Measure the sidecar side by side with what it replaces
	$(BIN)/python -m benchmarks

clean: ## Remove everything that make has made
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
