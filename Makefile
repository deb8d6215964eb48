# Developer commands; `make help` lists them. PYTHON is the interpreter to build for.
include cengine/flags.mk

PYTHON  ?= python3
CC       = gcc
BUILD   ?= build/c
CLANG_FORMAT ?= clang-format-19
SANITIZE_FLAGS = -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1 -O1

# What reaches C; the rest of the suite is Python alone.
ASAN_TESTS ?= tests/unit tests/golden tests/attacks

# Of each fuzz target; libFuzzer takes 0 seconds, and -1 runs, for no limit.
FUZZ_SECONDS ?= 60
FUZZ_RUNS ?= -1
FUZZ_JOBS ?= $(shell nproc)

# What runs programs that CC compiled for another machine.
EMULATOR ?=
EMULATED_ARM = BUILD=build/arm CC=aarch64-linux-gnu-gcc EMULATOR='qemu-aarch64 -L /usr/aarch64-linux-gnu'

INCLUDES  = -Icengine/include -Icengine/kernels -Icengine/src -Icengine
HEADERS   = $(wildcard cengine/*.h cengine/*/*.h tests/c/*.h)
C_FILES   = $(wildcard cengine/*/*.c tests/c/*.c bench/*.c) $(HEADERS)
CORE      = $(wildcard cengine/src/*.c)
TIERS_x86_64 = avx2 avxvnni avx512vnni amx
TIERS_aarch64 = neon i8mm
MACHINE  := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine)))
TIERS     = generic $(TIERS_$(MACHINE))
ENGINE    = $(CORE) $(foreach tier,$(TIERS),$(wildcard cengine/kernels/$(tier)*.c))
OBJECTS   = $(ENGINE:%.c=$(BUILD)/%.o)
POOL      = $(addprefix cengine/src/,pool.c cpu.c error.c memory.c pages.c)
# What the checks link: the objects made here, or the libraries of a package that was built.
CHECKED  ?= $(OBJECTS)
CHECKS    = $(patsubst tests/c/%.c,$(BUILD)/%,$(wildcard tests/c/check_*.c))

.PHONY: help build test check-c check-arm test-amx tsan asan asan-c fuzz bench lint format wheel clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 12

build: ## editable install with the test and dev extras
	$(PYTHON) -m pip install -e '.[test,dev]'

test: ## the whole Python suite
	$(PYTHON) -m pytest -q

check-c: $(CHECKS) ## the C checks: every kernel against the generic one, the thread pool
	@printf '%s\n' $(CHECKS) | CHECK_EMULATED=1 xargs -P "$$(nproc)" -I CHECK sh -c '$(EMULATOR) CHECK || exit 255'

check-arm: ## the kernels' checks of the Arm tiers, cross-compiled and emulated
	CHECK_TIER=neon $(MAKE) $(EMULATED_ARM) CHECKS='$(addprefix build/arm/check_,kernels attention ops)' check-c
	CHECK_TIER=i8mm $(MAKE) $(EMULATED_ARM) CHECKS=build/arm/check_kernels check-c

test-amx: ## the Python tests of the AMX tier, its tile instructions emulated
	CC=$(CC) CFLAGS_EXTRA='-DCE_EMULATE_AMX -I$(CURDIR)/tests/c' $(PYTHON) setup.py -q build -b build/amx/setup --build-lib build/amx/site
	PYTHONSAFEPATH=1 PYTHONPATH=build/amx/site $(PYTHON) -m pytest -q -p no:cacheprovider -k amx tests/unit tests/golden

tsan: ## the thread pool's check under ThreadSanitizer
	$(MAKE) BUILD=build/tsan CFLAGS_EXTRA='-fsanitize=thread -g -O1' build/tsan/check_pool
	build/tsan/check_pool

asan-c: ## C checks under AddressSanitizer and UndefinedBehaviorSanitizer
	$(MAKE) BUILD=build/asan CFLAGS_EXTRA='$(SANITIZE_FLAGS)' check-c

asan: asan-c ## and the Python tests that reach C
	CC=$(CC) CFLAGS_EXTRA='$(SANITIZE_FLAGS)' LDFLAGS='$(SANITIZE_FLAGS)' $(PYTHON) setup.py -q build -b build/asan/setup --build-lib build/asan/site
	LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 PYTHONSAFEPATH=1 PYTHONPATH=build/asan/site PYTHONMALLOC=malloc \
	    $(PYTHON) -m pytest -q -p no:cacheprovider $(ASAN_TESTS)

fuzz: ## every fuzz target for FUZZ_SECONDS or FUZZ_RUNS, FUZZ_JOBS of them at once
	@mkdir -p build/fuzz
	@ls tests/fuzz/corpus | xargs -P $(FUZZ_JOBS) -I TARGET sh -c '\
	    $(PYTHON) tests/fuzz/libfuzzer.py TARGET -max_total_time=$(FUZZ_SECONDS) -runs=$(FUZZ_RUNS) >build/fuzz/TARGET.log 2>&1 \
	    || { cat build/fuzz/TARGET.log; exit 255; }; printf "%-16s" TARGET; grep "^Done" build/fuzz/TARGET.log'

bench: ## the kernels' speed, then the engine's on the model that ships
	$(MAKE) $(BUILD)/bench_kernels
	$(BUILD)/bench_kernels -r 3
	$(PYTHON) -m pymixtral bench

lint: ## ruff, mypy, clang-format
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(CLANG_FORMAT) --dry-run --Werror $(C_FILES)

format: ## reformat Python and C
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .
	$(CLANG_FORMAT) -i $(C_FILES)

wheel: ## one abi3 wheel for Python 3.11 and up, in dist/
	$(PYTHON) -m pip wheel --no-deps -w dist .

clean: ## everything that the build made
	rm -rf build dist *.egg-info pymixtral/*.so
	find . -name __pycache__ -type d -exec rm -rf {} +

$(BUILD)/check_cpu: LDFLAGS_CHECK = -Wl,--wrap=fopen
$(BUILD)/check_alloc: LDFLAGS_CHECK = -Wl,--wrap=ce_alloc,--wrap=ce_alloc_zeroed,--wrap=ce_alloc_large,--wrap=ce_free

$(BUILD)/cengine/kernels/generic%.o: CFLAGS_TIER = $(CFLAGS_GENERIC)
$(BUILD)/cengine/kernels/avx2%.o: CFLAGS_TIER = $(CFLAGS_AVX2)
$(BUILD)/cengine/kernels/avxvnni%.o: CFLAGS_TIER = $(CFLAGS_AVXVNNI)
$(BUILD)/cengine/kernels/avx512vnni%.o: CFLAGS_TIER = $(CFLAGS_AVX512VNNI)
$(BUILD)/cengine/kernels/amx%.o: CFLAGS_TIER = $(CFLAGS_AMX)
$(BUILD)/cengine/kernels/neon%.o: CFLAGS_TIER = $(CFLAGS_NEON)
$(BUILD)/cengine/kernels/i8mm%.o: CFLAGS_TIER = $(CFLAGS_I8MM)

$(BUILD)/%.o: %.c $(HEADERS) cengine/flags.mk
	@mkdir -p $(@D)
	@echo "CC $<"
	@$(CC) $(CFLAGS_COMMON) $(CFLAGS_TIER) $(CFLAGS_EXTRA) $(INCLUDES) -c $< -o $@

define LINK_CHECK
	@mkdir -p $(@D)
	@echo "LD $@"
	@$(CC) $(CFLAGS_COMMON) $(CFLAGS_EXTRA) $(INCLUDES) $< $(filter %.o %.a,$^) $(filter %.a,$^) -o $@ $(LDFLAGS_CHECK) -lm -lpthread
endef

$(BUILD)/check_%: tests/c/check_%.c $(CHECKED) $(HEADERS)
	$(LINK_CHECK)

$(BUILD)/bench_kernels: bench/kernels.c $(CHECKED) $(HEADERS)
	$(LINK_CHECK)

# Alone, so that ThreadSanitizer needs no build of every kernel.
$(BUILD)/check_pool: tests/c/check_pool.c $(POOL:%.c=$(BUILD)/%.o) $(HEADERS)
	$(LINK_CHECK)

.SECONDARY: $(OBJECTS)
