# Each target bootstraps its own .venv from nothing; nothing outside this folder is needed but Python 3.11 to 3.13.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Uninstalled, by whatever Python has the libraries: GPU images bring their own.
ON_GPU := ADAPTHUB_HOME=$(or $(ADAPTHUB_HOME),/tmp/adapthub) PYTHONPATH=.src:.:$(PYTHONPATH) $(or $(wildcard $(BIN)/python),$(PYTHON))
# One thread a process: with more, small-operator loops stall on shared cores (see docs/benchmarks.md).
RUN := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: demo test test-all test-gpu bench bench-gpu lint docs screenshots clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,gguf,telemetry]'
	touch $@

demo: $(STAMP)
	$(RUN) $(BIN)/adapt demo

test: $(STAMP) lint
	$(RUN) $(BIN)/python -m pytest -n 2 --dist worksteal

test-all: $(STAMP) lint
	$(RUN) $(BIN)/python -m pytest -n 2 --dist worksteal -m "not gpu"

test-gpu:
	$(ON_GPU) -m pytest -p no:benchmark -n 8 -m gpu $$(grep -rl --include='test_*.py' 'mark\.gpu' tests)
	$(ON_GPU) -m pytest -p no:benchmark -n 8 tests/kernels tests/adapters/test_entries.py tests/adapters/test_siblings.py tests/adapters/test_telling.py tests/adapters/test_token_runs.py tests/recipes/test_captured_layers.py tests/recipes/test_fused_layers.py tests/recipes/test_joined_layers.py tests/recipes/test_rounded.py tests/runtime/test_block.py tests/runtime/test_graphs.py tests/runtime/test_engine.py

bench: $(STAMP)
	$(RUN) $(BIN)/python -m benchmarks.mixed_predict
	$(RUN) $(BIN)/python -m benchmarks.attach
	$(RUN) $(BIN)/python -m benchmarks.delta
	$(RUN) $(BIN)/python -m benchmarks.products
	$(RUN) $(BIN)/python -m benchmarks.decode
	$(RUN) $(BIN)/python -m benchmarks.generate
	$(RUN) $(BIN)/python -m benchmarks.serve
	$(RUN) $(BIN)/python -m benchmarks.hub

# Peers that decode one adapter at a time take minutes there: python -m benchmarks.generate --device cuda.
# What has a dash stops nothing where it fails: training needs bitsandbytes. VLLM and SGLANG: folders with those packages.
bench-gpu:
	$(ON_GPU) -m benchmarks.roofline
	$(ON_GPU) -m benchmarks.low_rank $(if $(VLLM),--vllm $(VLLM)) $(if $(SGLANG),--sglang $(SGLANG))
	-$(ON_GPU) -m benchmarks.train_nf4
	$(ON_GPU) -m benchmarks.nf4_pairs
	$(ON_GPU) -m benchmarks.graphs
	$(ON_GPU) -m benchmarks.nf4 --rows 1 4 8 16 32 128
	$(ON_GPU) -m benchmarks.mixed_predict --device cuda --rounds 3

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=.src $(BIN)/lint-imports

docs: $(STAMP)
	$(BIN)/python -m adapthub.cli.reference docs/cli.md
	$(BIN)/python -m adapthub.runtime.server.reference docs/http.md
	$(BIN)/python -m benchmarks.report docs/benchmarks.md

screenshots: $(STAMP)
	$(RUN) $(BIN)/python -m docs.screenshots
	$(RUN) $(BIN)/python -m docs.hub_screenshots

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
