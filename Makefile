# FitServe's commands. `make` alone lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
PY := $(VENV)/bin/python
UV := $(shell command -v uv 2>/dev/null || echo .venv-uv/bin/uv)
PYTHON_VERSION := >=3.11,<3.13
SWAGGER_UI := gateway/docs/node_modules/.package-lock.json
TYPED := service training predictors triton_runtime clients/python/fitserve demo scripts benchmarks

# The index of another torch build, such as https://download.pytorch.org/whl/cpu for the small one without CUDA.
TORCH_INDEX ?=
# Set it to install torch for the embedded Triton too.
TRITON_TORCH ?=
PYTEST_ARGS ?=
GRPCURL := v1.9.3
GHZ := v0.121.0
EVANS := v0.10.11
JSON ?=
CONFIG ?=
HOST ?=
SLO ?=
ONLY ?=
ROUNDS ?=
SECONDS ?=
SUBJECTS ?=

export PYTHONPATH := $(CURDIR):$(CURDIR)/clients/python
export PATH := $(CURDIR)/.tools:$(PATH)
export ORT_DISABLE_TELEMETRY := 1

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(VENV)/.complete .venv-triton/.complete $(if $(TRITON_TORCH),.venv-triton/.torch) ## make both environments: the service's (.venv) and Triton's (.venv-triton); TRITON_TORCH=1 for TorchScript

$(VENV)/.complete: requirements/service.txt requirements/training.txt requirements/torch.txt requirements/dev.txt | uv
	$(UV) venv -q --allow-existing --python '$(PYTHON_VERSION)' $(VENV)
ifeq ($(TORCH_INDEX),)
	$(UV) pip sync -q --compile-bytecode --python $(PY) --require-hashes requirements/{service,training,torch,dev}.txt
else
	$(UV) pip sync -q --compile-bytecode --python $(PY) --require-hashes requirements/{service,training,dev}.txt
	$(UV) pip install -q --python $(PY) --index $(TORCH_INDEX) --index-strategy unsafe-best-match "$$(grep -oE '^torch==[0-9.]+' requirements/torch.txt)"
endif
	$(UV) pip install -q --python $(PY) --no-deps -e clients/python
	touch $@

.venv-triton/.complete: requirements/triton.txt | uv
	$(UV) venv -q --allow-existing --python '$(PYTHON_VERSION)' .venv-triton
	$(UV) pip sync -q --compile-bytecode --python .venv-triton/bin/python --require-hashes requirements/triton.txt
	touch $@

.venv-triton/.torch: .venv-triton/.complete requirements/triton-torch.txt | uv
ifeq ($(TORCH_INDEX),)
	$(UV) pip install -q --compile-bytecode --python .venv-triton/bin/python --require-hashes -r requirements/triton-torch.txt
else
	$(UV) pip install -q --python .venv-triton/bin/python --index $(TORCH_INDEX) --index-strategy unsafe-best-match "$$(grep -oE '^torch==[0-9.]+' requirements/triton-torch.txt)"
endif
	touch $@

.PHONY: uv
uv:
	@command -v $(UV) >/dev/null || { python3 -m venv .venv-uv && .venv-uv/bin/pip install -q uv; }

.PHONY: serve
serve: setup ## run the service on LISTEN (default 127.0.0.1:50051)
	exec $(PY) -m service

.PHONY: operator-requirements
operator-requirements: setup ## install what models with code of their own need into Triton's environment: MODEL=model_repository/NAME
	.venv-triton/bin/python -m triton_runtime install $(or $(MODEL),$(patsubst %/requirements.txt,%,$(wildcard model_repository/*/requirements.txt)))

.PHONY: gateway
gateway: $(SWAGGER_UI) ## build the REST gateway, gateway/bin/fitserve-gateway; needs Go 1.26 and npm
	go -C gateway build -trimpath -o bin/fitserve-gateway .

$(SWAGGER_UI): gateway/docs/package-lock.json
	npm --prefix gateway/docs ci --no-progress --loglevel=error >/dev/null
	touch $@

.PHONY: serve-rest
serve-rest: setup gateway ## run the service and the gateway, on GATEWAY_LISTEN (default 127.0.0.1:8080); /docs has a page
	exec bash scripts/serve_rest.sh

.PHONY: demo
demo: setup ## train, load, predict and remove real models, and check every figure; JSON=1 ends with one line of JSON
	exec $(PY) -m demo $(if $(JSON),--json)

.PHONY: test
test: setup third_party ## run all tests
	bash scripts/gateway_checks.sh test
	$(PY) -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

.PHONY: test-long
test-long: setup third_party ## run the tests that take minutes: rounds of kills, loads, conformance to HTTP/2 and gRPC
	$(PY) -m pytest -m long $(PYTEST_ARGS)

.PHONY: test-compose
test-compose: setup ## build and run docker-compose.yml on a container engine, as root: demo, REST, crashes
	bash scripts/with_engine.sh $(PY) -m pytest -m compose -x tests/compose $(PYTEST_ARGS)

.PHONY: lint
lint: setup third_party ## check style, types, layers, the contract and what is generated from it
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy $(TYPED)
	$(VENV)/bin/lint-imports
	$(VENV)/bin/buf lint
	$(VENV)/bin/buf format -d --exit-code
	bash scripts/breaking.sh
	$(PY) scripts/stubs.py --check
	bash scripts/gateway_checks.sh lint
	bash scripts/kubernetes_checks.sh $(UV)

.PHONY: format
format: setup third_party ## format the code and the contract
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/buf format -w

.PHONY: load
load: setup ## run a load: CONFIG=a configuration of ghz, HOST=host:port, SLO=a file with thresholds
	@$(PY) -m benchmarks.ghz --config $(CONFIG) $(if $(SLO),--slo $(SLO)) $(HOST)

.PHONY: bench
bench: setup | uv ## measure FitServe, its limits and its peers side by side; ONLY=unary,stream ROUNDS=3 for a part of it
	@UV=$(UV) $(PY) -m benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	  $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SUBJECTS),--subjects $(SUBJECTS))

.PHONY: tools
tools: ## install what tests use: grpcurl, evans, ghz and conformance tests, where there is a Go; Chromium and h2load, where they can be
	@$(call go_tool,grpcurl,github.com/fullstorydev/grpcurl,$(GRPCURL),/cmd/grpcurl)
	@$(call go_tool,evans,github.com/ktr0731/evans,$(EVANS))
	@$(call go_tool,ghz,github.com/bojand/ghz,$(GHZ),/cmd/ghz)
	@$(call conformance_tool,h2spec,github.com/summerwind/h2spec/cmd/h2spec)
	@$(call conformance_tool,grpc-interop-client,google.golang.org/grpc/interop/client)
	@bash scripts/chromium.sh
	@bash scripts/h2load.sh

# Builds a tool of Go, $(2)$(4) of the version $(3), as .tools/$(1). As a module's requirement, since `go install` also asks
# for the list of all versions, which not every proxy gives.
define go_tool
if [ ! -x .tools/$(1) ] && command -v go >/dev/null; then \
  module=$$(mktemp -d) && trap 'rm -rf "$$module"' EXIT && cd "$$module" && \
  go mod init tools 2>/dev/null && go mod edit -require=$(2)@$(3) && go build -mod=mod -o $(CURDIR)/.tools/$(1) $(2)$(4); \
fi
endef

# Builds the package $(2) as .tools/$(1), of the version in tests/conformance/go.mod.
define conformance_tool
if [ ! -x .tools/$(1) ] && command -v go >/dev/null; then \
  go -C tests/conformance build -o $(CURDIR)/.tools/$(1) $(2); \
fi
endef

.PHONY: generate
generate: setup third_party ## generate what comes from protos/: stubs, descriptors, and where there is a Go the gateway's code
	$(PY) scripts/stubs.py

.PHONY: algorithms
algorithms: setup ## measure every algorithm and write docs/algorithms.md
	$(PY) scripts/algorithms_table.py

.PHONY: third_party
third_party: setup
	@$(PY) scripts/third_party.py

.PHONY: lock
lock: | uv ## resolve requirements/*.in, and those of the benchmark's peers, to locks with hashes
	for wanted in requirements/{service,training,torch,triton,triton-torch,dev}.in benchmarks/{peers/*,plots}/requirements.in; do \
	  $(UV) pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
	    $$wanted -o $${wanted%.in}.txt; \
	done

.PHONY: clean
clean: ## delete the environments and what tests and the demo left behind
	rm -rf $(VENV) .venv-triton .venv-uv benchmarks/{peers/*,plots}/.venv .tools third_party .mypy_cache .pytest_cache .ruff_cache .import_linter_cache gateway/bin gateway/docs/node_modules load-reports
