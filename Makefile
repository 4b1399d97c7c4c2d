# r1d. Two commands do all set-up:
#   make demo   builds everything, starts a daemon, trains a model by reinforcement learning, and
#               shows the result
#   make test   builds everything and tests all that a change can break
# What is downloaded (libtorch, the Python packages that tests compare with) is kept under CACHE and
# shared between clones.

CACHE ?= $(or $(R1D_CACHE),$(HOME)/.cache/r1d)
TORCH_VERSION := 2.11.0
# Without an NVIDIA device these wheels are enough to link and run; the crt and cccl wheels hold
# headers.
TORCH_CPU_WHEELS := torch==$(TORCH_VERSION) nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85 nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85
PLUGINS := accuracy correctness format language-consistency helpfulness harmlessness length readability repetition soft-overlong
BIN := target/release

.PHONY: toolchain build plugins plugins-python templates demo recipe test test-all test-rust test-python properties control bench mutations libtorch python lint clean

# Always the whole workspace: a selection of packages would select other features of shared
# dependencies, and build them again.
build: toolchain libtorch
	cargo build --release --workspace
	sh plugins/build $(PLUGINS)

# Every plugin. Those in Python take a minute and a package from PyPI, and no demo needs them.
plugins: build plugins-python

plugins-python: $(BIN)/plugins/code.wasm

$(BIN)/plugins/code.wasm: plugins/build-python plugins/reproducible.c $(wildcard plugins/code/*.py) reward-sdk/wit/reward.wit
	sh plugins/build-python code

# What authors in other languages start from, tried as they would: Python, and JavaScript where
# there is node.
templates:
	sh reward-sdk/templates/build python $$(command -v node >/dev/null && command -v npm >/dev/null && echo js)

# --- what is fetched ------------------------------------------------------------------------------

# What rust-toolchain.toml asks for. rustup fetches it by itself where it may; this is for where
# RUSTUP_AUTO_INSTALL is off.
toolchain:
	@command -v rustup >/dev/null || exit 0; \
	channel=$$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml); wasm=wasm32-unknown-unknown; \
	rustup run "$$channel" true 2>/dev/null || rustup toolchain install "$$channel" --profile minimal; \
	[ -d "$$(rustc --print sysroot)/lib/rustlib/$$wasm" ] || rustup target add "$$wasm"; \
	cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || rustup component add rustfmt clippy

libtorch: .libtorch/torch

# LIBTORCH in the environment is honoured; else the PyPI wheel, with all its CUDA libraries where
# there is an NVIDIA device.
.libtorch/torch:
	@mkdir -p .libtorch
	@if [ -n "$$LIBTORCH" ]; then ln -sfn "$$LIBTORCH" .libtorch/torch; else \
	  set -e; kind=cpu; deps=--no-deps; wheels="$(TORCH_CPU_WHEELS)"; \
	  if [ -e /dev/nvidiactl ]; then kind=cuda; deps=; wheels="torch==$(TORCH_VERSION) nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85"; fi; \
	  into="$(CACHE)/libtorch-$(TORCH_VERSION)-$$kind"; \
	  if [ ! -d "$$into" ]; then \
	    echo "fetching libtorch $(TORCH_VERSION) ($$kind) into $$into"; mkdir -p "$(CACHE)"; rm -rf "$$into.part"; \
	    python3 -m venv "$$into.part/venv"; \
	    "$$into.part/venv/bin/pip" install --quiet --disable-pip-version-check $$deps --target "$$into.part/site" $$wheels; \
	    mv "$$into.part/site" "$$into"; rm -rf "$$into.part"; \
	  fi; \
	  ln -sfn "$$into/torch" .libtorch/torch; \
	fi

# The Python environment of the tests: transformers, TRL and torch, to compare with. Nothing of it
# is needed at run time.
python: .venv/ready

.venv/ready: tests/requirements.txt
	@set -e; into="$(CACHE)/python-$$(sha256sum tests/requirements.txt | cut -c1-12)"; \
	if [ ! -e "$$into/ready" ]; then \
	  echo "fetching the tests' Python packages into $$into"; mkdir -p "$(CACHE)"; rm -rf "$$into"; \
	  python3 -m venv "$$into"; "$$into/bin/pip" install --quiet --disable-pip-version-check -r tests/requirements.txt; touch "$$into/ready"; \
	fi; \
	rm -rf .venv; ln -sfn "$$into" .venv

# --- run ------------------------------------------------------------------------------------------

demo: build
	sh examples/arithmetic/demo

# The whole R1 recipe, from a base to distilled students; its report is .state/r1/report.html. About
# a quarter of an hour on two idle cores.
recipe: build
	sh examples/r1/run

# The same compute spent on more supervised fine-tuning, to see what reinforcement learning is
# worth; then three seeds of the demo.
control: build
	sh examples/arithmetic/control

# --- test -----------------------------------------------------------------------------------------

test: test-rust test-python

# One seed, so that a change is not blamed for another's luck; `make properties` looks with new
# ones.
test-rust: build plugins-python templates
	PROPTEST_RNG_SEED=$${PROPTEST_RNG_SEED:-1} cargo test --release --workspace --no-fail-fast

# The properties of `accuracy` on many more formulas, others each time.
properties:
	PROPTEST_CASES=100000 cargo test --release --workspace --test properties

test-python: build python
	.venv/bin/python -m pytest -q -c tests/pytest.ini tests

# The long ones: planted bugs must turn tests red, the demo's claim over three seeds, the benches.
test-all: test properties mutations control bench

mutations: python
	tests/mutations/run

bench: build python
	tests/bench/decode_cpu/run
	tests/bench/grpo_step_cpu/run
	tests/bench/load/run
	tests/bench/parallel/run
	tests/bench/rewards/run

lint:
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings

clean:
	rm -rf target .libtorch .venv .state
