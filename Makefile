# make demo   set up, then show the whole thing on a real training run (under two minutes after set-up)
# make test   set up, then every check and every test; this is what CI runs
# make check  linter, types on three platforms, import contracts, C++ format
# make bench  every benchmark, beside those peers that are installed (benchmarks/peers.txt)

PYTHON ?= python3
VENV   ?= .venv
# The build that tests run on, for which their simulated accelerator is written. Any torch >= 2.6 will do for the demo:
# make TORCH=torch==2.6.0 demo
TORCH  ?= torch==2.13.0
# Where to get torch from; for the small CPU build: make TORCH_INDEX=https://download.pytorch.org/whl/cpu ...
TORCH_INDEX ?=

# One more than there are cores: tests wait for a third of their time, for servers, clusters and processes.
TESTERS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))

BENCHES ?= stall overhead throughput restore small_tensors incremental catalog serve memory python_bound interference chunks executor run_layer trainer survive upload download resume

BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test check bench clean

demo: $(VENV)/.ready
	$(BIN)/asyncckpt demo

test: check $(BIN)/prometheus-pushgateway $(VENV)/azurite $(VENV)/slurm $(VENV)/chromium
	@# Tests start thousands of processes; where PYTHONDONTWRITEBYTECODE is set, each would compile all that it imports.
	$(BIN)/python -m compileall -q asyncckpt benchmarks tests
	$(BIN)/python -m pytest --numprocesses $(TESTERS) --maxprocesses 5 --dist worksteal --durations 30

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy -p benchmarks
	$(BIN)/mypy deploy/train.py deploy/grafana/dashboard.py deploy/prometheus/prometheusrule.py
	$(BIN)/mypy --platform darwin
	$(BIN)/mypy --platform win32
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror asyncckpt/testing/simacc/csrc/*.h asyncckpt/testing/simacc/csrc/*.cpp

bench: $(VENV)/.ready
	for name in $(BENCHES); do $(BIN)/python -m benchmarks $$name || exit 1; done

$(VENV)/.ready: pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(not ((3, 11) <= v < (3, 12) or v >= (3, 12, 3)) and "asyncckpt needs Python 3.11, or 3.12.3 or newer: make PYTHON=/path/to/python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade "pip>=25.1"
	$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(PIP) install --editable ".[cli]" --group test --group check
	@touch $@

# Real servers that scrape the metrics, raise the alerts and take what is pushed, from Debian's archive (35 MB), for any
# user. Where there is no apt, have them on the PATH, or their tests are skipped; in CI they fail.
$(BIN)/prometheus-pushgateway: | $(VENV)/.ready
	@{ command -v promtool && command -v prometheus-alertmanager && command -v prometheus-pushgateway; } >/dev/null || .ci/prometheus $(BIN) || echo "no Prometheus is to be had here"

# Microsoft's emulator of Azure's Blob Storage, from npm (240 MB). Without it its tests are skipped; in CI they fail.
$(VENV)/azurite: | $(VENV)/.ready
	@.ci/azurite $(VENV) || echo "no Azurite is to be had here"

# A real Slurm, from Debian's archive (8 MB), for any user. Where there is no apt, have it on the PATH, or its tests are
# skipped; in CI they fail.
$(VENV)/slurm: | $(VENV)/.ready
	@{ command -v slurmctld && command -v slurmd && command -v sbatch; } >/dev/null || .ci/slurm $(VENV) || echo "no Slurm is to be had here"

# A real browser, from Debian's archive (100 MB), for any user. Where there is no apt, have it on the PATH, or its tests
# are skipped; in CI they fail.
$(VENV)/chromium: | $(VENV)/.ready
	@command -v chromium >/dev/null || .ci/chromium $(VENV) || echo "no Chromium is to be had here"

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
