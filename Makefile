# The one door to the project. `make` alone lists what it can do.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
TOOLS   := .tools/bin
ENVOY   := .tools/bin/envoy
ENVOY_OLDEST := .tools/envoy-oldest/envoy
PYTHON  := .tools/python/installed.txt
CHROMIUM_BIN := .tools/chromium/chromium
export PATH := $(CURDIR)/$(TOOLS):$(PATH)

GO_BUILD := CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'

# Arguments of single doors.
SEED     ?= 1
LIMIT    ?=
FLIPS    ?= 10000
BENCH    ?=
FUZZTIME ?= 10s
RUN      ?=
PKG      ?= ./...
# So many tests may fail and be run once more, alone; see docs/adr/017. Empty: none.
RERUN    ?=

# Packages with tests that only test-long runs; such a test is called TestLong… and is in a file *_long_test.go.
LONG = $(sort $(dir $(shell find ./internal -name '*_long_test.go')))

.PHONY: help
help: ## List the doors
	@printf 'specproxy %s\n\n' '$(VERSION)'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: bin/xds bin/specproxy bin/specctl ## Build bin/xds, bin/specproxy and bin/specctl

# Go knows better than make what is stale.
.PHONY: bin/xds bin/specproxy bin/specctl
bin/xds bin/specproxy bin/specctl: bin/%:
	$(GO_BUILD) -o $@ ./cmd/$*

# The worked example's own programs.
.PHONY: refunds
refunds:
	$(GO_BUILD) -o bin/refunds/ ./examples/refunds/{agent,payments,traffic,check,demo}

# $(call go-test,PACKAGES,FLAGS) compiles everything before the first test runs, so that the compiler does not compete with the tests.
define go-test
	go list -export -deps -test $(filter -race -tags=%,$(2)) $(1) >/dev/null
	$(if $(RERUN),mkdir -p out && gotestsum --format standard-quiet --rerun-fails=1 --rerun-fails-max-failures=$(RERUN) --rerun-fails-abort-on-data-race \
	  --rerun-fails-run-root-test --rerun-fails-report out/rerun-$@.txt --packages '$(1)' -- $(2),go test $(2) $(1))
endef

.PHONY: test
test: $(ENVOY) $(PYTHON) oci-tools $(if $(RERUN),$(TOOLS)/gotestsum) ## Every test with -race, real Envoy included (RUN=regexp, PKG=./internal/...)
	$(call go-test,$(PKG),-race -timeout=10m $(if $(RUN),-run='$(RUN)'))
	@# The race detector allocates too, so this one is not compiled with it.
	$(if $(RUN),,go test -run Allocates ./internal/sidecar/proxy)

.PHONY: test-long
test-long: $(ENVOY) $(PYTHON) oci-tools $(TOOLS)/cosign $(TOOLS)/prometheus conformance-tools $(CHROMIUM_BIN) $(if $(RERUN),$(TOOLS)/gotestsum) ## The long matrices, kill tests and soaks (build tag "long")
	$(call go-test,$(or $(LONG),$(error no test of this tree is long)),-race -tags=long -timeout=60m -run='$(or $(RUN),^TestLong)')

.PHONY: test-oldest
test-oldest: $(ENVOY_OLDEST) $(PYTHON) oci-tools ## What needs an Envoy, with the oldest one that is supported
	ENVOY='$(CURDIR)/$(ENVOY_OLDEST)' go test -race -timeout 30m $(if $(RUN),-run '$(RUN)') ./internal/discovery ./internal/e2e

.PHONY: chaos
chaos: $(ENVOY) ## 10,000 flips under load with random kills (SEED=7 FLIPS=500)
	CHAOS_SEED='$(SEED)' CHAOS_FLIPS='$(FLIPS)' go test -tags chaos -timeout 60m -v -run '^TestChaosLong$$' ./internal/e2e

.PHONY: demo
demo: build refunds $(ENVOY) ## Run the worked example; writes out/demo.json (SEED=7 LIMIT=250)
	bin/refunds/demo --seed '$(SEED)' $(if $(LIMIT),--limit '$(LIMIT)')

.PHONY: demo-canary
demo-canary: build refunds $(ENVOY) ## The same with a canary in front, which stops by itself; writes out/demo-canary.json
	bin/refunds/demo --canary --seed '$(SEED)' $(if $(LIMIT),--limit '$(LIMIT)')

.PHONY: example
example: build refunds $(ENVOY) ## Run the worked example with a canary that is too small, and put its post-mortem into docs/examples/
	bin/refunds/demo --small-canary --seed '$(SEED)'
	rm -rf docs/examples/PM-1* docs/examples/conformance
	cp -r out/postmortem/. docs/examples/
	python3 docs/examples/recompute.py docs/examples/PM-1

.PHONY: bench
bench: build $(ENVOY) $(if $(filter-out hop,$(BENCH)),,$(TOOLS)/caddy) ## Run the benchmarks, write out/bench/*.json (BENCH=flip runs one)
	go run ./bench $(BENCH)

.PHONY: fuzz
fuzz: ## Fuzz every fuzz target for FUZZTIME each (default 10s)
	scripts/fuzz.sh '$(FUZZTIME)'

.PHONY: lint
lint: generate-check tidy-check vet alerts-check $(TOOLS)/golangci-lint ## Generated code, go.mod, gofmt, vet, the example alerts and golangci-lint
	golangci-lint run --build-tags long ./...

.PHONY: vet
vet:
	@unformatted=$$(git ls-files -co --exclude-standard '*.go' | grep -v '^gen/' | xargs -r gofmt -l); \
	if [ -n "$$unformatted" ]; then printf 'not gofmt-ed:\n%s\n' "$$unformatted" >&2; exit 1; fi
	go vet ./...
	go vet -tags long ./...

.PHONY: tidy-check
tidy-check:
	@go mod tidy -diff || { echo 'go.mod is not tidy: run go mod tidy' >&2; exit 1; }

# Prometheus's own parser reads them.
.PHONY: alerts-check
alerts-check: $(TOOLS)/alerts
	@alerts docs/alerts.yaml

.PHONY: generate
generate: $(TOOLS)/buf ## Regenerate gen/ from proto/
	buf lint
	buf generate

# Generates beside the tree, so that a check never changes what it checks.
.PHONY: generate-check
generate-check: $(TOOLS)/buf
	@buf lint
	@tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; \
	buf generate -o "$$tmp"; \
	diff -r gen "$$tmp/gen" || { echo 'gen/ is not what proto/ generates: run make generate' >&2; exit 1; }

.PHONY: python
python: $(PYTHON) ## Install what the Python helpers are tested with into .tools/python

$(PYTHON): sdk/python/requirements-test.txt scripts/install-python.sh
	scripts/install-python.sh
	@touch $@

.PHONY: chromium
chromium: $(CHROMIUM_BIN) ## Find a Chromium, or bring one into .tools/chromium, for the dashboard's test

# A browser that was found on this machine is a link, whose age says nothing.
$(CHROMIUM_BIN):
	scripts/install-chromium.sh

.PHONY: envoy
envoy: $(ENVOY) ## Install the pinned Envoy into .tools/bin

$(ENVOY): scripts/install-envoy.sh
	scripts/install-envoy.sh
	@# An Envoy that was found on PATH instead is linked, so that everything finds it in one place.
	@[ -x $@ ] || { mkdir -p $(@D); ln -sf "$$(command -v envoy)" $@; }
	@[ -L $@ ] || touch $@

$(ENVOY_OLDEST): scripts/install-envoy.sh
	scripts/install-envoy.sh oldest
	@touch $@

# A registry to test against, and other tools that must be able to read what we write.
.PHONY: oci-tools
oci-tools: $(TOOLS)/registry $(TOOLS)/oras

$(TOOLS)/registry $(TOOLS)/oras &: tools/oci/go.mod tools/oci/go.sum
	CGO_ENABLED=0 GOBIN='$(CURDIR)/$(TOOLS)' go -C tools/oci install tool
	@touch $(TOOLS)/registry $(TOOLS)/oras

# Suites that others wrote, and that the sidecar's data path is held against.
.PHONY: conformance
conformance: $(ENVOY) conformance-tools ## h2spec and grpc-go's interop suite against the sidecar, every case by name
	go test -count=1 -v -tags long -timeout 20m -run '^(TestLongH2SpecIsNoWorseThanPlainNetHTTP|TestLongGRPCInterop)$$' ./internal/e2e

.PHONY: conformance-tools
conformance-tools: $(TOOLS)/h2spec $(TOOLS)/grpc-interop-client $(TOOLS)/grpc-interop-server

$(TOOLS)/h2spec: package := github.com/summerwind/h2spec/cmd/h2spec
$(TOOLS)/grpc-interop-client: package := google.golang.org/grpc/interop/client
$(TOOLS)/grpc-interop-server: package := google.golang.org/grpc/interop/server
$(TOOLS)/h2spec $(TOOLS)/grpc-interop-client $(TOOLS)/grpc-interop-server: tools/conformance/go.mod tools/conformance/go.sum
	CGO_ENABLED=0 go -C tools/conformance build -o '$(CURDIR)/$@' $(package)

$(TOOLS)/alerts: tools/alerts/go.mod tools/alerts/go.sum tools/alerts/main.go
	CGO_ENABLED=0 go -C tools/alerts build -o '$(CURDIR)/$@' .

$(TOOLS)/cosign: tools/cosign/go.mod tools/cosign/go.sum
	CGO_ENABLED=0 GOBIN='$(CURDIR)/$(TOOLS)' go -C tools/cosign install tool
	@touch $@

# A Prometheus without its service discovery, which is most of it.
$(TOOLS)/prometheus: tools/prometheus/go.mod tools/prometheus/go.sum
	CGO_ENABLED=0 go -C tools/prometheus build -tags remove_all_sd -ldflags '-s -w' -o '$(CURDIR)/$@' github.com/prometheus/prometheus/cmd/prometheus

$(TOOLS)/gotestsum: tools/gotestsum/go.mod tools/gotestsum/go.sum
	CGO_ENABLED=0 GOBIN='$(CURDIR)/$(TOOLS)' go -C tools/gotestsum install tool
	@touch $@

# Only the hop benchmark wants it.
$(TOOLS)/caddy: tools/caddy/go.mod tools/caddy/go.sum
	CGO_ENABLED=0 GOBIN='$(CURDIR)/$(TOOLS)' go -C tools/caddy install tool
	@touch $@

$(TOOLS)/buf: tools/go.mod tools/go.sum
	GOBIN='$(CURDIR)/$(TOOLS)' go -C tools install tool
	@touch $@

$(TOOLS)/golangci-lint: tools/lint/go.mod tools/lint/go.sum
	GOBIN='$(CURDIR)/$(TOOLS)' go -C tools/lint install tool
	@touch $@

.PHONY: clean
clean: ## Remove bin/ and out/ (tools and data stay)
	rm -rf bin out
