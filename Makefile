# The whole build. `make help` lists the targets; CONTRIBUTING.md says how they are meant.

VERSION := 0.1.0
SOVERSION := 1

.DEFAULT_GOAL := all
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory

# Everything is built by parallel sub-makes, so that a plain `make test` uses the machine; `make JOBS=1` does not.
JOBS ?= $(shell nproc)
SUBMAKE = $(MAKE) $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(JOBS))
PYTHON := /usr/bin/python3
PREFIX ?= /usr/local
DESTDIR ?=
FUZZ_SECONDS ?= 60
V ?=
Q := $(if $(V),,@)

# ---- variants: release (build/), asan, tsan, fuzz and clang (build/<variant>/) ----

VARIANT ?= release
OUT := $(if $(filter release,$(VARIANT)),build,build/$(VARIANT))
OBJ := build/obj/$(VARIANT)

WARNINGS := -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wcast-qual -Wvla -Werror
HARDENING := -D_FORTIFY_SOURCE=3 -fstack-protector-strong -fstack-clash-protection
HARDENING += $(if $(filter x86_64,$(shell uname -m)),-fcf-protection)

CC_release := gcc
CC_clang := clang
CC_asan := gcc
CC_tsan := gcc
CC_fuzz := clang
CC_sim := gcc
CC_simasan := gcc
MODE_release := -O2 $(HARDENING)
MODE_clang := -O2 $(HARDENING)
MODE_asan := -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
MODE_tsan := -O1 -fno-omit-frame-pointer -fsanitize=thread
# The simulator leaves stacks by longjmp and switches them: no fortifying.
MODE_sim := -O2
MODE_simasan := $(MODE_asan)
MODE_fuzz := -O1 -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all

CC := $(CC_$(VARIANT))
CPPFLAGS := -D_GNU_SOURCE -Isrc -I. -DKVD_VERSION='"$(VERSION)"'
CFLAGS := -std=gnu11 -g $(MODE_$(VARIANT)) $(WARNINGS)
LDFLAGS := $(filter -fsanitize% -fno-sanitize%,$(MODE_$(VARIANT))) -Wl,-z,relro,-z,now
ifeq ($(CC_$(VARIANT)),)
$(error VARIANT is one of release, asan, tsan, fuzz, clang)
endif

SERVER_LIBS := -luv -luring -lmsgpackc -lxxhash -linih -lcrypto -lpthread -lm
CLIENT_LIBS := -lmsgpackc -lxxhash -lcrypto -lpthread -lm
KVCTL_LIBS := $(CLIENT_LIBS) -lcjson -luring

# ---- sources, by folder; main.c is what tests leave out ----

SHARED_SRC := $(sort $(wildcard src/base/*.c src/proto/*.c src/auth/*.c))
SERVER_SRC := $(SHARED_SRC) $(sort $(wildcard src/loop/*.c src/cluster/*.c src/tier/*.c src/meta/*.c src/store/*.c src/*.c))
CLIENT_SRC := $(sort $(wildcard client/*.c))
KVCTL_SRC := $(sort $(wildcard client/kvctl/*.c))
# The pure part of the disk tier, which kvctl inspect and locate use as well.
FORMAT_SRC := $(patsubst %,src/tier/%.c,record layout index log_frame node_state object_name)
MAINS := src/main.c client/kvctl/main.c
TEST_SRC := $(sort $(wildcard test/unit/test_*.c test/fault/test_*.c))
SUPPORT_SRC := $(sort $(filter-out $(TEST_SRC),$(wildcard test/unit/*.c test/fault/*.c test/support/*.c)))
FUZZ_SRC := $(sort $(wildcard test/fuzz/fuzz_*.c))
ALL_SRC := $(SERVER_SRC) $(CLIENT_SRC) $(KVCTL_SRC)

objects = $(patsubst %.c,$(OBJ)/%.o,$(1))
pic_objects = $(patsubst %.c,$(OBJ)/%.pic.o,$(1))

TESTS := $(patsubst %.c,$(OUT)/test/%,$(notdir $(TEST_SRC)))
FUZZERS := $(patsubst %.c,$(OUT)/%,$(notdir $(FUZZ_SRC)))

# ---- the products ----

PRODUCTS := $(OUT)/kvd $(OUT)/kvctl $(OUT)/libkvd.a $(OUT)/libkvd.so

.PHONY: all build build-tests build-fuzzers
all: ## build kvd, kvctl, libkvd.a and libkvd.so into build/ (the default)
	+@$(SUBMAKE) build

build: $(PRODUCTS)
	@:
build-tests: $(TESTS)
	@:
build-fuzzers: $(FUZZERS)
	@:

$(OUT)/kvd: $(call objects,$(SERVER_SRC))
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(Q)$(CC) -pie $(LDFLAGS) -o $@ $^ $(SERVER_LIBS)

$(OUT)/kvctl: $(call objects,$(KVCTL_SRC) $(FORMAT_SRC) $(SHARED_SRC)) $(OUT)/libkvd.a
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(Q)$(CC) -pie $(LDFLAGS) -o $@ $^ $(KVCTL_LIBS)

# One object that shows nothing but what kvd.h marks KVD_API: a program's own list_* or log_* does not meet ours.
$(OUT)/libkvd.a: $(call pic_objects,$(CLIENT_SRC) $(SHARED_SRC))
	@mkdir -p $(@D) $(OBJ)
	@echo "  AR    $@"
	$(Q)ld -r -o $(OBJ)/libkvd.all.o $^
	$(Q)objcopy --localize-hidden $(OBJ)/libkvd.all.o $(OBJ)/libkvd.o
	$(Q)rm -f $@
	$(Q)ar rcs $@ $(OBJ)/libkvd.o

$(OUT)/libkvd.so: $(call pic_objects,$(CLIENT_SRC) $(SHARED_SRC))
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(Q)$(CC) -shared $(LDFLAGS) -Wl,-soname,libkvd.so.$(SOVERSION) -Wl,-z,defs -o $@.$(VERSION) $^ $(CLIENT_LIBS)
	$(Q)ln -sf libkvd.so.$(VERSION) $@.$(SOVERSION)
	$(Q)ln -sf libkvd.so.$(VERSION) $@

# ---- objects; all of them again when the flags change ----

$(OBJ)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(subst ','\'',$(CC) $(CPPFLAGS) $(CFLAGS))' | cmp -s - $@ || echo '$(subst ','\'',$(CC) $(CPPFLAGS) $(CFLAGS))' > $@
.PHONY: FORCE
FORCE:

$(OBJ)/%.pic.o: %.c $(OBJ)/flags
	@mkdir -p $(@D)
	@echo "  CC    $< (pic)"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -fPIC -fvisibility=hidden -MMD -MP -c -o $@ $<

$(OBJ)/%.o: %.c $(OBJ)/flags
	@mkdir -p $(@D)
	@echo "  CC    $<"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -fPIE -MMD -MP -c -o $@ $<

# Tests link what they use out of archives of everything but the two mains.
$(OBJ)/tested.a: $(call objects,$(filter-out $(MAINS),$(ALL_SRC)) $(SUPPORT_SRC))
	$(Q)rm -f $@
	$(Q)ar rcs $@ $^

# The fault tests stand between the disk tier and the file system.
WRAPPED := fs_open fs_read fs_write fs_sync fs_truncate fs_size fs_unlink fs_rename fs_sync_dir fs_make_dirs fs_dir_info fs_list fs_lock \
    file_read_start file_write_start file_sync_start calloc
LDFLAGS_test_disk_faults := $(WRAPPED:%=-Wl,--wrap=%)

# Likewise what a cluster has there.
CLUSTER_WRAPPED := fs_open fs_read fs_write fs_sync fs_unlink fs_link fs_sync_dir fs_make_dirs
LDFLAGS_test_cluster_files := $(CLUSTER_WRAPPED:%=-Wl,--wrap=%)

# The heap is out for a segment when a test says so; and one looks how much is summed at once.
LDFLAGS_test_disk := -Wl,--wrap=segment_new,--wrap=blob_range_sum

# Those of what expires have clocks of their own, and a heap that is out when they say so.
LDFLAGS_test_expire := -Wl,--wrap=loop_wall_ms,--wrap=loop_now_us,--wrap=malloc

# That of a session has a connection that does as it is told.
LDFLAGS_test_session := -Wl,--wrap=conn_sent_bytes,--wrap=conn_unsent_bytes,--wrap=conn_received_bytes,--wrap=conn_peer_text,--wrap=conn_close \
    -Wl,--wrap=store_owner_end,--wrap=task_cancel

# The kernel has no memory for a notice, or is late with it, when a test says so.
LDFLAGS_test_conn := -Wl,--wrap=sendmsg,--wrap=recvmsg,--wrap=setsockopt

# One counts the system calls for what is sent.
LDFLAGS_test_peer := -Wl,--wrap=sendmsg

# What breaks the rules of views must be found.
LDFLAGS_test_member := -Wl,--wrap=rule_wait_us,--wrap=rule_lease_end,--wrap=rule_may_promise,--wrap=rivals_add
LDFLAGS_test_owner := -Wl,--wrap=owner_complete,--wrap=rivals_add,--wrap=owner_keep_kill,--wrap=owner_note_loss

$(OUT)/test/%: $(OBJ)/test/unit/%.o $(OBJ)/tested.a
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(Q)$(CC) -pie $(LDFLAGS) $(LDFLAGS_$*) -o $@ $^ $(SERVER_LIBS) -lcjson -lcriterion

$(OUT)/test/%: $(OBJ)/test/fault/%.o $(OBJ)/tested.a
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(Q)$(CC) -pie $(LDFLAGS) $(LDFLAGS_$*) -o $@ $^ $(SERVER_LIBS) -lcjson -lcriterion

$(OUT)/fuzz_%: $(OBJ)/test/fuzz/fuzz_%.o $(OBJ)/tested.a
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(Q)$(CC) -pie $(LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(SERVER_LIBS) -lcjson

.PRECIOUS: $(OBJ)/%.o
-include $(patsubst %.o,%.d,$(call objects,$(ALL_SRC) $(TEST_SRC) $(SUPPORT_SRC) $(FUZZ_SRC)) $(call pic_objects,$(CLIENT_SRC) $(SHARED_SRC)))

# ---- what Debian packages it takes ----

PACKAGES := gcc libc6-dev binutils libuv1-dev libmsgpack-dev liburing-dev libxxhash-dev libinih-dev libcjson-dev libssl-dev libcriterion-dev \
    clang clang-format clang-tidy libclang-rt-14-dev cppcheck pkg-config \
    python3 python3-pytest python3-msgpack python3-xxhash bindfs fuse3 iproute2 strace procps

.PHONY: deps
deps: ## install the Debian packages that are missing (quick when none is)
	@scripts/deps $(PACKAGES)

# ---- tests ----

.PHONY: test unit integration asan fuzz soak demo
test: deps ## build; unit, fault and integration tests, 2,000 seeds of the simulator, a short run of the fuzz targets (under 5 minutes on two cores)
	+@$(SUBMAKE) build build-tests
	+@$(SUBMAKE) VARIANT=fuzz build-fuzzers
	+@$(MAKE) sim SEEDS=1-2000
	+@$(MAKE) sim-crash
	@scripts/run-tests --build build --fuzz-runs 20000 $(TESTS) $(FUZZ_SRC:test/fuzz/%.c=build/fuzz/%) test/integration

unit: ## build and run the unit and fault tests alone
	+@$(SUBMAKE) build-tests
	@scripts/run-tests --build build $(TESTS)

integration: ## build and run the integration tests alone
	+@$(SUBMAKE) build
	@scripts/run-tests --build build test/integration

asan: deps ## the same tests against a build with AddressSanitizer and UndefinedBehaviorSanitizer
	+@$(SUBMAKE) VARIANT=asan build build-tests
	@scripts/run-tests --build build/asan --sanitized $(TESTS:build/%=build/asan/%) test/integration

TSAN_LOOPS ?= 2
.PHONY: tsan
tsan: deps ## the integration tests, and a minute of many clients on a file system that fails at random, against a build with ThreadSanitizer and TSAN_LOOPS (2) loops
	+@$(SUBMAKE) VARIANT=tsan build
	@KVD_TEST_LOOPS=$(TSAN_LOOPS) KVD_SOAK_SECONDS=60 scripts/run-tests --build build/tsan --sanitized test/integration test/integration/soak_faultfs.py

fuzz: deps ## every fuzz target for FUZZ_SECONDS (60) each, from its seeds and build/corpus/
	+@$(SUBMAKE) VARIANT=fuzz build-fuzzers
	@scripts/run-tests --build build --fuzz-seconds $(FUZZ_SECONDS) $(FUZZ_SRC:test/fuzz/%.c=build/fuzz/%)

SOAK_SEEDS ?= 1000000-1100000
SOAK_SECONDS ?=
soak: deps ## the long tests: the simulator over SOAK_SEEDS (or from there on for SOAK_SECONDS; 0: until ^C), crashes at every write over 50 workloads and of real processes, a whole trace through both tiers (12 GiB of disk under TMPDIR), faults at random (SOAK_SECONDS, an hour)
	+@$(SUBMAKE) build
	+@$(SUBMAKE) VARIANT=sim build/sim
	@build/sim --seeds $(SOAK_SEEDS) $(if $(SOAK_SECONDS),--seconds $(SOAK_SECONDS))
	+@$(MAKE) sim-crash SWEEP_SEEDS=1-50
	@KVD_SOAK_SECONDS=$(or $(filter-out 0,$(SOAK_SECONDS)),3600) scripts/run-tests --build build --limit $$((3600 + $(or $(filter-out 0,$(SOAK_SECONDS)),3600))) \
	    $(wildcard test/integration/soak_*.py)

demo: deps ## start kvd, replay and verify a trace through both tiers, restart it in the middle (TRACE=FILE for one of your own)
	+@$(SUBMAKE) build
	@scripts/demo

# ---- the file system for tests (test/fuse/): plain in every variant, and needed wherever integration tests run ----

PACKAGES += libfuse3-dev
FAULTFS_SRC := $(sort $(wildcard test/fuse/*.c))

.PHONY: faultfs lives
test integration asan tsan soak lives: faultfs
faultfs: deps
	+@$(SUBMAKE) build/faultfs

lives: deps ## a minute of many clients on a file system that fails at random, with kills and power cuts, judged (part of CI; an hour in soak)
	+@$(SUBMAKE) build
	@KVD_SOAK_SECONDS=60 scripts/run-tests --build build test/integration/soak_faultfs.py

# ---- a real distributed file system ----

DFS_PACKAGES := moosefs-master moosefs-chunkserver moosefs-client

.PHONY: test-dfs
test-dfs: faultfs ## the integration tests on MooseFS, which it installs and runs in namespaces of its own (as root; DFS_TESTS=FILES for some)
	@scripts/deps $(DFS_PACKAGES)
	+@$(SUBMAKE) build
	@scripts/test-dfs $(DFS_TESTS)

build/faultfs: $(FAULTFS_SRC) $(wildcard test/fuse/*.h) src/base/list.h
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(Q)gcc $(CPPFLAGS) -std=gnu11 -g $(MODE_release) $(WARNINGS) $$(pkg-config --cflags fuse3 | sed 's/-I/-isystem /g') \
	    -o $@ $(FAULTFS_SRC) $$(pkg-config --libs fuse3)

# ---- the simulator: the server without src/loop, in virtual time (test/sim) ----

SEEDS ?= 1-2000
SIM_SRC := $(filter-out src/loop/% src/main.c,$(SERVER_SRC)) $(sort $(wildcard test/sim/*.c))
# What is looked at, or broken on purpose, on its way: heap.c, sim_loop.c, plant.c.
SIM_WRAPS := malloc calloc realloc aligned_alloc free strdup asprintf check_failed table_drop table_set_place disk_segment_kill_start \
    disk_kill_start disk_kill_pending disk_sync_start disk_read_start disk_write_start persist_detach lease_add blob_unref session_reply \
    probe_first
SIM_PLANTS := version-unseen remove-forgets-write remove-at-once short-unseen torn-unseen lease-ignored buffer-reused sync-lies ack-early \
    lost-reply leak lent-early
# Of what only a second host sees.
TWO_HOSTS_PLANTS := file-unchecked remove-own-only
SWEEP_PLANTS := kill-unseen

SWEEP_SEEDS ?= 1-2

.PHONY: sim sim-crash sim-plants sim-asan
sim: ## the simulator over SEEDS (1-2000): crashes, faults, and the judge of every answer; build/sim --seed N --trace replays one
	+@$(SUBMAKE) VARIANT=sim build/sim
	@build/sim --self-test
	@build/sim --seeds $(SEEDS)

sim-crash: ## crash after the k-th change of the disk, for every k of the workloads SWEEP_SEEDS (1-2): kill, and power cuts of three kinds
	+@$(SUBMAKE) VARIANT=sim build/sim
	@build/sim --crash-sweep --seeds $(SWEEP_SEEDS)

sim-plants: ## does the judge find each of the bugs that are planted on purpose?
	+@$(SUBMAKE) VARIANT=sim build/sim
	@for plant in $(SIM_PLANTS); do echo "  PLANT $$plant"; build/sim --plant $$plant --seeds 1-20000 --must-fail; done
	@for plant in $(TWO_HOSTS_PLANTS); do echo "  PLANT $$plant, with two hosts"; build/sim --plant $$plant --two-hosts --seeds 1-20000 --must-fail; done
	@for plant in $(SWEEP_PLANTS); do echo "  PLANT $$plant, by crashes at every write"; build/sim --plant $$plant --crash-sweep --seeds 10-13 --must-fail; done

sim-asan: ## the simulator with AddressSanitizer and UndefinedBehaviorSanitizer
	+@$(SUBMAKE) VARIANT=simasan build/sim-asan
	@ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 build/sim-asan --seeds $(SEEDS)

build/sim build/sim-asan: $(call objects,$(SIM_SRC))
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(Q)$(CC) -pie $(LDFLAGS) -o $@ $^ $(SIM_WRAPS:%=-Wl,--wrap=%) -l:libmsgpackc.a -lxxhash -linih -lcrypto -lm
-include $(patsubst %.o,%.d,$(call objects,$(SIM_SRC)))

# ---- benchmarks: kvd beside a bare pair of sockets and beside others (test/bench) ----

BENCH_PACKAGES := redis-server redis-tools memcached fio iperf3 gnuplot-nox
BENCHERS := build/bench/pair build/bench/drive

.PHONY: bench bench-quick bench-policies bench-restart benchers
test integration asan: benchers
benchers: deps
	+@$(SUBMAKE) $(BENCHERS)

bench: faultfs benchers ## kvd against a bare pair of sockets, redis-server, memcached, iperf3 and fio, all rows: a table of medians and ratios, build/bench.json, build/bench.svg (5 GiB of disk under TMPDIR)
	@scripts/deps $(BENCH_PACKAGES)
	+@$(SUBMAKE) build
	@scripts/bench

bench-quick: faultfs benchers ## fewer rows, shorter: two minutes
	@scripts/deps $(BENCH_PACKAGES)
	+@$(SUBMAKE) build
	@scripts/bench --quick

bench-policies: deps ## replay TRACE=FILE under each persist policy: what each writes, and what that buys (5 GiB of disk under TMPDIR)
	+@$(SUBMAKE) build
	@scripts/compare-policies $(TRACE)

bench-restart: deps ## a million objects on disk, kvd killed and started again: they are known within 2 s (7 GiB of disk under TMPDIR)
	+@$(SUBMAKE) build
	@scripts/bench-restart --limit 2

build/bench/pair: $(call objects,$(patsubst %,test/bench/%.c,pair pool) client/kvctl/histogram.c src/base/text.c src/base/check.c)
build/bench/drive: $(call objects,$(patsubst %,test/bench/%.c,drive conn pool talk) client/kvctl/crew.c client/kvctl/histogram.c $(SHARED_SRC))
$(BENCHERS):
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(Q)$(CC) -pie $(LDFLAGS) -o $@ $^ $(CLIENT_LIBS)
-include $(patsubst %.c,$(OBJ)/%.d,$(wildcard test/bench/*.c))

# ---- what is checked before every commit ----

C_FILES := $(sort $(wildcard src/*.[ch] src/*/*.[ch] client/*.[ch] client/*/*.[ch] test/*/*.[ch]))
CHECKED_SRC := $(ALL_SRC)
RELEASE_OBJ := build/obj/release

.PHONY: check format check-format check-arrows check-seam check-compilers check-cppcheck check-tidy check-scripts build-objects
check: deps ## format, arrows, seam, warnings as errors (gcc, clang), static analysis, unit tests: before every commit
	+@$(SUBMAKE) build build-tests
	+@$(SUBMAKE) -k -Otarget check-format check-arrows check-seam check-scripts check-compilers check-cppcheck check-tidy
	@scripts/run-tests --build build $(TESTS)

check-format:
	@clang-format --dry-run -Werror $(C_FILES) && echo "  ok    format" || { echo "make format mends it" >&2; exit 1; }

format: ## lay all C files out by .clang-format
	@clang-format -i $(C_FILES)

check-arrows:
	@scripts/check-arrows --self-test
	@scripts/check-arrows --objects $(RELEASE_OBJ)

check-seam:
	@scripts/check-seam --self-test
	@scripts/check-seam --objects $(RELEASE_OBJ)

check-scripts:
	@for f in scripts/* .ci/run; do if head -1 "$$f" | grep -q bash; then bash -n "$$f"; fi; done
	@PYTHONPYCACHEPREFIX=build/pycache $(PYTHON) -m py_compile $(wildcard test/integration/*.py test/bench/*.py) scripts/run-tests scripts/bench scripts/compare-policies scripts/bench-restart scripts/cluster && echo "  ok    scripts"

# gcc's part is the release build itself; clang compiles as well, since some warnings need its optimizer.
check-compilers:
	+@$(MAKE) VARIANT=clang build build-tests

# cppcheck takes what a callee fills in through a struct of pointers for uninitialized; the compilers and clang-tidy look at that.
check-cppcheck:
	@mkdir -p build/cppcheck
	$(Q)cppcheck -q -j2 --cppcheck-build-dir=build/cppcheck --std=c11 --enable=warning,performance,portability --inline-suppr \
	    --error-exitcode=1 --suppress=missingInclude --suppress=missingIncludeSystem --suppress=uninitvar -D_GNU_SOURCE -DKVD_VERSION='""' \
	    -D__x86_64__ -Isrc -I. $(CHECKED_SRC) && echo "  ok    cppcheck"

# A file is looked at again when its object was made again, so when a header of its has changed.
check-tidy: $(CHECKED_SRC:%=build/tidy/%.ok)
	@echo "  ok    clang-tidy"

build/tidy/%.c.ok: $(RELEASE_OBJ)/%.o .clang-tidy
	@mkdir -p $(@D)
	@echo "  TIDY  $*.c"
	$(Q)clang-tidy --quiet --warnings-as-errors='*' $*.c -- -std=gnu11 $(CPPFLAGS) 2>build/tidy/$*.err || { cat build/tidy/$*.err; exit 1; }
	@touch $@

# ---- install ----

LIBDIR ?= $(PREFIX)/lib
UNITDIR ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d
DOCS := $(wildcard README.md LICENSE docs/*.md)

.PHONY: install clean help
install: all ## install programs, library, header, kvd.pc, systemd unit and documents below DESTDIR/PREFIX (/usr/local)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/share/doc/kvd
	install -m 755 build/kvd build/kvctl $(DESTDIR)$(PREFIX)/bin
	install -m 644 build/libkvd.a $(DESTDIR)$(LIBDIR)
	install -m 755 build/libkvd.so.$(VERSION) $(DESTDIR)$(LIBDIR)
	ln -sf libkvd.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libkvd.so.$(SOVERSION)
	ln -sf libkvd.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libkvd.so
	install -m 644 client/kvd.h $(DESTDIR)$(PREFIX)/include
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@VERSION@|$(VERSION)|' packaging/kvd.pc.in > $(DESTDIR)$(LIBDIR)/pkgconfig/kvd.pc
	chmod 644 $(DESTDIR)$(LIBDIR)/pkgconfig/kvd.pc
	install -d $(DESTDIR)$(UNITDIR) $(DESTDIR)$(SYSUSERSDIR)
	sed -e 's|@PREFIX@|$(PREFIX)|' packaging/kvd.service.in > $(DESTDIR)$(UNITDIR)/kvd.service
	chmod 644 $(DESTDIR)$(UNITDIR)/kvd.service
	install -m 644 packaging/kvd.sysusers $(DESTDIR)$(SYSUSERSDIR)/kvd.conf
	install -m 644 $(DOCS) $(DESTDIR)$(PREFIX)/share/doc/kvd

clean: ## remove build/
	rm -rf build

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
