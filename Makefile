# deputy - make builds everything into build/; `make help` lists what else there is.
VERSION := $(shell sed -n 's/^.define DEPUTY_VERSION "\(.*\)"/\1/p' include/deputy.h)
SOVERSION := 0
PREFIX  ?= /usr/local
DESTDIR ?=
BUILD   ?= build
CC      ?= cc
CXX     ?= c++
DATADIR := $(PREFIX)/share/deputy
LIBEXEC := $(PREFIX)/lib/deputy
LUADIR  := $(PREFIX)/lib/lua/5.4

PKGS    := lua5.4 lua5.4-cjson libcurl libuv yajl libcrypto
DEPS    := build-essential pkg-config liblua5.4-dev lua-cjson lua-cjson-dev libcurl4-openssl-dev libuv1-dev libyajl-dev libssl-dev \
           uthash-dev libhttp-parser-dev libjemalloc-dev libcmocka-dev lua5.4 lua-argparse lua-penlight lua-busted lua-luv lua-socket lua-sec \
           lua-filesystem lua-dbi-sqlite3 lua-dbi-postgresql lua-luaossl postgresql openssl curl util-linux
LINT_DEPS := clang-format clang-tidy lua-check

# Asked only when something is compiled, and once: before that `make deps` may still have to install pkg-config.
once    = $(eval $(1) := $$(shell $(2)))$($(1))
PKG_CFLAGS = $(call once,PKG_CFLAGS,pkg-config --cflags $(PKGS) | sed 's/-I/-isystem /g')
PKG_LIBS   = $(call once,PKG_LIBS,pkg-config --libs $(PKGS))
CMOCKA     = $(call once,CMOCKA,pkg-config --libs cmocka)
# llhttp where it is packaged, else its elder.
PARSER_CFLAGS = $(call once,PARSER_CFLAGS,pkg-config --exists libllhttp && { echo -DHTTP1_LLHTTP; pkg-config --cflags libllhttp; })
PARSER_LIBS = $(call once,PARSER_LIBS,pkg-config --libs libllhttp 2>/dev/null || echo -lhttp_parser)

# The allocator of the programs that serve; the library takes its host's. A sanitizer has its own.
MALLOC  ?= $(if $(findstring -fsanitize,$(CFLAGS)),libc,jemalloc)
MALLOC_CFLAGS := $(if $(filter jemalloc,$(MALLOC)),-DDEPUTY_JEMALLOC)
MALLOC_LIBS := $(if $(filter jemalloc,$(MALLOC)),-ljemalloc)

WARN    := -Wall -Wextra -Wpedantic -Wconversion -Werror
OPT     ?= -O2 -g
HARDEN  ?= -D_FORTIFY_SOURCE=2 -fstack-protector-strong
CFLAGS  ?=
LDFLAGS ?=
CPPFLAGS += -D_GNU_SOURCE -Iinclude -Isrc
ALL_CFLAGS = -std=c11 $(WARN) $(OPT) $(HARDEN) -fPIC -fno-plt -fvisibility=hidden -pthread $(CPPFLAGS) $(PKG_CFLAGS) $(CFLAGS)
ALL_LDFLAGS = $(LDFLAGS) -Wl,-z,relro,-z,now -Wl,--as-needed -pthread
DEFINED ?= -Wl,-z,defs

# The library is the engine with the script's side of a run; the Lua module is all of that plus what scripts of a host use.
MOD_SRC := $(wildcard $(addprefix src/lua/,module.c lua_registry.c lua_provider.c lua_proxy.c lua_router.c lua_options.c \
             lua_message.c))
LIB_SRC := $(filter-out $(MOD_SRC) src/managed/supervisor.c,$(wildcard src/base/*.c src/net/*.c src/core/*.c \
             src/managed/*.c src/providers/*.c src/lua/*.c))
# Modules that a policy may require travel inside the library.
EMBEDDED := $(addprefix lua/deputy/,breaker.lua judge.lua retry.lua settings.lua) $(wildcard lua/deputy/verify*.lua)
# The server side: for the CLI, not for the library.
HTTP1_SRC := $(wildcard src/http1/*.c)
HOST_SRC := $(wildcard src/relay/*.c src/gateway/*.c src/central/*.c)
CLI_SRC := $(wildcard src/cli/*.c)
TEST_SRC := $(wildcard spec/c/*_test.c)
BENCH_SRC := $(wildcard spec/bench/*.c)
FUZZ_SRC := $(wildcard spec/fuzz/*.c)

LIB_OBJ := $(LIB_SRC:%.c=$(BUILD)/%.o) $(BUILD)/src/lua/embedded.o
MOD_OBJ := $(MOD_SRC:%.c=$(BUILD)/%.o)
HTTP1_OBJ := $(HTTP1_SRC:%.c=$(BUILD)/%.o)
CLI_OBJ := $(CLI_SRC:%.c=$(BUILD)/%.o) $(HOST_SRC:%.c=$(BUILD)/%.o)
MODEL_SERVER := $(BUILD)/spec/support/model_server
TESTS   := $(TEST_SRC:%.c=$(BUILD)/%)
BENCHES := $(BENCH_SRC:%.c=$(BUILD)/%)
FUZZERS := $(FUZZ_SRC:%.c=$(BUILD)/%)
# The library with its internals visible: for C tests and fuzzers, never installed.
INTERNAL := $(BUILD)/internal.a
SONAME  := libdeputy.so.$(SOVERSION)

.PHONY: all
all: $(BUILD)/libdeputy.a $(BUILD)/libdeputy.so $(BUILD)/deputy $(BUILD)/deputy.so $(BUILD)/deputy-supervisor

# ---- objects and what is made of them --------------------------------------------------------------------------------

# Changes when the compiler's command line does, so that one directory never mixes two of them.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@$(call write_if_changed,$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) $(MALLOC_LIBS))
$(BUILD)/datadir: FORCE
	@mkdir -p $(@D)
	@$(call write_if_changed,$(DATADIR) $(LIBEXEC))
write_if_changed = printf '%s\n' '$(1)' | cmp -s - $@ || printf '%s\n' '$(1)' > $@
.PHONY: FORCE
FORCE:

$(CLI_OBJ) $(MOD_OBJ): DEFINES = -DDEPUTY_DATADIR='"$(DATADIR)"'
$(CLI_OBJ) $(MOD_OBJ): $(BUILD)/datadir
$(BUILD)/src/managed/find_supervisor.o: DEFINES = -DDEPUTY_LIBEXEC='"$(LIBEXEC)"'
$(BUILD)/src/managed/find_supervisor.o: $(BUILD)/datadir
$(BUILD)/src/gateway/page.o: src/gateway/page.html
$(BUILD)/src/relay/memory.o: DEFINES = $(MALLOC_CFLAGS)
$(HTTP1_OBJ) $(BUILD)/spec/fuzz/http1_fuzz.o: DEFINES = $(PARSER_CFLAGS)
$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(DEFINES) -MMD -MP -c $< -o $@

module_of = $(foreach f,$(1),$(patsubst lua/deputy/%.lua,deputy.%,$(f))=$(f))
$(BUILD)/src/lua/embedded.c: src/lua/embed.lua $(EMBEDDED) Makefile
	@mkdir -p $(@D)
	lua5.4 src/lua/embed.lua $(call module_of,$(EMBEDDED)) > $@.new && mv $@.new $@
$(BUILD)/src/lua/embedded.o: $(BUILD)/src/lua/embedded.c $(BUILD)/flags
	$(CC) $(ALL_CFLAGS) -Wno-overlength-strings -MMD -MP -c $< -o $@

$(INTERNAL): $(LIB_OBJ)
	@rm -f $@
	$(AR) rcs $@ $^

# One object, so that nothing but deputy_* can clash with a name of the host's.
$(BUILD)/libdeputy.a: $(LIB_OBJ)
	@rm -f $@
	$(LD) -r -o $(BUILD)/libdeputy.o $^
	objcopy --localize-hidden $(BUILD)/libdeputy.o
	$(AR) rcs $@ $(BUILD)/libdeputy.o

$(BUILD)/$(SONAME): $(LIB_OBJ)
	@printf '{ global: deputy_*; local: *; };\n' > $(BUILD)/libdeputy.map
	$(CC) -shared -Wl,-soname,$(SONAME) -Wl,--version-script,$(BUILD)/libdeputy.map $(DEFINED) $^ -o $@ $(ALL_LDFLAGS) \
	    $(PKG_LIBS)

$(BUILD)/libdeputy.so: $(BUILD)/$(SONAME)
	ln -sf $(SONAME) $@

# Not linked with liblua: the lua_* come from the Lua that loads it.
$(BUILD)/deputy.so: $(LIB_OBJ) $(MOD_OBJ)
	@printf '{ global: luaopen_deputy; local: *; };\n' > $(BUILD)/module.map
	$(CC) -shared -Wl,--version-script,$(BUILD)/module.map $^ -o $@ $(ALL_LDFLAGS) $(filter-out -llua5.4,$(PKG_LIBS))

$(BUILD)/deputy: $(CLI_OBJ) $(HTTP1_OBJ) $(BUILD)/libdeputy.a
	$(CC) $^ -o $@ $(ALL_LDFLAGS) $(PKG_LIBS) $(PARSER_LIBS) $(MALLOC_LIBS)

# What stands between deputy and a model server: small, so that there is little in it that can end it.
$(BUILD)/deputy-supervisor: $(BUILD)/src/managed/supervisor.o $(BUILD)/src/managed/family.o
	$(CC) $^ -o $@ $(ALL_LDFLAGS)

# A test that includes failing_malloc.h says itself which allocation fails.
WRAP_MALLOC := -Wl,--wrap=malloc,--wrap=realloc,--wrap=calloc,--wrap=strdup,--wrap=free
$(TESTS): $(BUILD)/%: $(BUILD)/%.o $(INTERNAL)
	$(CC) $(if $(shell grep -l 'failing_malloc\.h' $*.c),$(WRAP_MALLOC)) -Wl,--start-group $^ -Wl,--end-group -o $@ \
	    $(ALL_LDFLAGS) $(CMOCKA) $(PKG_LIBS) $(PARSER_LIBS)

# Without sanitizers: it is to crash as a program crashes.
$(MODEL_SERVER): spec/support/model_server.c Makefile
	@mkdir -p $(@D)
	$(CC) -std=c11 $(WARN) -O2 -g -D_GNU_SOURCE $< -o $@

$(BENCHES): $(BUILD)/%: $(BUILD)/%.o $(INTERNAL)
	$(CC) $^ -o $@ $(ALL_LDFLAGS) $(PKG_LIBS)

$(FUZZERS): $(BUILD)/%: $(BUILD)/%.o $(INTERNAL)
	$(CC) -fsanitize=fuzzer $^ -o $@ $(ALL_LDFLAGS) $(PKG_LIBS) $(PARSER_LIBS)

$(BUILD)/spec/c/http1_test $(BUILD)/spec/fuzz/http1_fuzz: $(HTTP1_OBJ)
$(BUILD)/spec/c/callers_test: $(HTTP1_OBJ) $(patsubst %.c,$(BUILD)/%.o,src/gateway/callers.c \
    $(addprefix src/relay/,address.c draft.c errors.c))
$(BUILD)/spec/c/central_test: $(HTTP1_OBJ) $(patsubst %.c,$(BUILD)/%.o,$(addprefix src/central/,app.c counts.c modules.c upstreams.c watchdog.c) \
    $(addprefix src/relay/,draft.c errors.c log.c))

-include $(LIB_OBJ:.o=.d) $(MOD_OBJ:.o=.d) $(HTTP1_OBJ:.o=.d) $(CLI_OBJ:.o=.d) $(TESTS:=.d) $(BENCHES:=.d) $(FUZZERS:=.d)
.SECONDARY: $(TESTS:=.o) $(BENCHES:=.o) $(FUZZERS:=.o)

.PHONY: tests
tests: all $(TESTS) $(MODEL_SERVER)

# ---- for people ------------------------------------------------------------------------------------------------------

# What needs packages installs them first and goes on in a make of its own, in which pkg-config can answer.
AGAIN = @$(MAKE) --no-print-directory
JOBS  ?= $(shell nproc 2>/dev/null || echo 1)

.PHONY: help deps clients run test install uninstall lint asan tsan valgrind coverage fuzz bench soak docs clean
help:
	@echo 'make            libdeputy.a, libdeputy.so, deputy (the CLI) and deputy.so (the Lua module), in $(BUILD)/'
	@echo 'make deps       installs the Debian packages that are missing'
	@echo 'make run        the main job in three acts, with real servers, which then stay up until it is stopped;'
	@echo '                make run ONCE=1 ends after the acts'
	@echo 'make clients    the clients from npm that the tests use'
	@echo 'make test       all tests; the last line is "N passed, N failed"'
	@echo 'make install    to PREFIX ($(PREFIX)), under DESTDIR; make uninstall takes it away again'
	@echo 'make lint       formats, floors, exported names, clang-tidy, luacheck'
	@echo 'make asan       C tests and specs with AddressSanitizer and UBSan; tsan, valgrind: the same with these'
	@echo 'make coverage   line and branch coverage, with its floors'
	@echo 'make fuzz       every fuzzer for FUZZ_SECONDS ($(FUZZ_SECONDS))'
	@echo 'make bench      the figures'
	@echo 'make soak       every allocation fails once; runs without end for SOAK_SECONDS ($(SOAK_SECONDS)), deputy serve for'
	@echo '                SERVE_SOAK_SECONDS ($(SERVE_SOAK_SECONDS)), watching memory and descriptors; crowds of callers'
	@echo 'make docs       the reference as one page, in $(BUILD)/docs/'
	@echo 'make clean      removes $(BUILD)/'

deps:
	@.ci/deps $(DEPS)

clients: deps
	@spec/clients/install

SAY_BUILD = @[ -e $(BUILD)/deputy ] || echo 'Building deputy, once: a minute or so.'

run: deps
	$(SAY_BUILD)
	$(AGAIN) -s -j$(JOBS) all
	@exec env DEPUTY_BUILD=$(BUILD) DEPUTY_LUA=$(CURDIR)/lua ONCE=$(ONCE) lua5.4 examples/quickstart/demo.lua

test: deps clients
	$(SAY_BUILD)
	$(AGAIN) -s -j$(JOBS) tests
	@BUILD=$(BUILD) spec/run

# The same without a look at packages and at what is to be built again: ONLY="spec/router_spec.lua spec/c/gate_test.c"
.PHONY: check
check:
	@BUILD=$(BUILD) spec/run $(ONLY)

# The loader knows /usr/local/lib by its cache alone. Who may not write that has a PREFIX of his own.
install: all
	install -d '$(DESTDIR)$(PREFIX)/include/deputy' '$(DESTDIR)$(PREFIX)/lib/pkgconfig' '$(DESTDIR)$(PREFIX)/bin' \
	    '$(DESTDIR)$(LUADIR)' '$(DESTDIR)$(DATADIR)'
	install -m 644 include/deputy.h '$(DESTDIR)$(PREFIX)/include/'
	install -m 644 include/deputy/provider.h include/deputy/managed.h '$(DESTDIR)$(PREFIX)/include/deputy/'
	install -D -m 755 $(BUILD)/deputy-supervisor '$(DESTDIR)$(LIBEXEC)/deputy-supervisor'
	install -m 644 $(BUILD)/libdeputy.a '$(DESTDIR)$(PREFIX)/lib/'
	install -m 755 $(BUILD)/$(SONAME) '$(DESTDIR)$(PREFIX)/lib/libdeputy.so.$(VERSION)'
	ln -sf libdeputy.so.$(VERSION) '$(DESTDIR)$(PREFIX)/lib/$(SONAME)'
	ln -sf $(SONAME) '$(DESTDIR)$(PREFIX)/lib/libdeputy.so'
	sed -e 's/@VERSION@/$(VERSION)/' -e 's/@PKGS@/$(PKGS)/' src/deputy.pc.in \
	    > '$(DESTDIR)$(PREFIX)/lib/pkgconfig/deputy.pc'
	install -m 755 $(BUILD)/deputy '$(DESTDIR)$(PREFIX)/bin/'
	install -m 755 $(BUILD)/deputy.so '$(DESTDIR)$(LUADIR)/'
	cd lua && find . -name '*.lua' -exec install -D -m 644 {} '$(abspath $(DESTDIR)$(DATADIR))/lua/{}' \;
	$(if $(DESTDIR),,PATH="$$PATH:/sbin:/usr/sbin" ldconfig 2>/dev/null || true)

uninstall:
	rm -f '$(DESTDIR)$(PREFIX)/include/deputy.h' '$(DESTDIR)$(PREFIX)/include/deputy/provider.h' \
	    '$(DESTDIR)$(PREFIX)/include/deputy/managed.h' '$(DESTDIR)$(LIBEXEC)/deputy-supervisor' \
	    '$(DESTDIR)$(PREFIX)/lib/libdeputy.a' '$(DESTDIR)$(PREFIX)/lib/libdeputy.so' \
	    '$(DESTDIR)$(PREFIX)/lib/$(SONAME)' '$(DESTDIR)$(PREFIX)/lib/libdeputy.so.$(VERSION)' \
	    '$(DESTDIR)$(PREFIX)/lib/pkgconfig/deputy.pc' '$(DESTDIR)$(PREFIX)/bin/deputy' '$(DESTDIR)$(LUADIR)/deputy.so'
	rm -rf '$(DESTDIR)$(DATADIR)'
	-rmdir '$(DESTDIR)$(PREFIX)/include/deputy' '$(DESTDIR)$(LIBEXEC)' 2>/dev/null

# ---- checks ----------------------------------------------------------------------------------------------------------

C_FILES = $(shell find src include spec examples -name '*.[ch]')

# All of it, even when some of it finds something.
lint: deps
	@.ci/deps $(LINT_DEPS)
	$(AGAIN) -s -j$(JOBS) all
	$(AGAIN) -k -s -j$(JOBS) lint-floors lint-format lint-lua tidy

TIDY := $(wildcard src/*/*.c)
.PHONY: lint-floors lint-format lint-lua tidy $(TIDY:%=tidy/%)
lint-floors:
	BUILD=$(BUILD) spec/lint
lint-format:
	clang-format --dry-run -Werror $(C_FILES)
lint-lua:
	luacheck -q lua spec examples spec/lint
tidy: $(TIDY:%=tidy/%)
$(TIDY:%=tidy/%): tidy/%:
	clang-tidy --quiet $* -- -std=c11 $(CPPFLAGS) $(PKG_CFLAGS) -DDEPUTY_DATADIR='""' -DDEPUTY_LIBEXEC='""' \
	    2>&1 | \
	    { ! grep -vE '^[0-9]+ warnings? (generated|treated)|^Suppressed|^Use -header-filter'; }

# Each in a directory of its own, so that they neither mix nor rebuild one another.
FLAVOUR = $(MAKE) --no-print-directory -s -j$(JOBS) HARDEN= DEFINED=
SAN_ASAN := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SAN_TSAN := -fsanitize=thread -fno-omit-frame-pointer
LSAN_OPTIONS := suppressions=$(CURDIR)/spec/support/lsan.supp:print_suppressions=0

MAKE_ASAN = $(FLAVOUR) BUILD=$(BUILD)/asan OPT='-O1 -g' CFLAGS='$(SAN_ASAN)' LDFLAGS='$(SAN_ASAN)'
asan: deps
	@$(MAKE_ASAN) tests
	@LUA_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
	    LSAN_OPTIONS='$(LSAN_OPTIONS)' EXAMPLE_FLAGS='$(SAN_ASAN)' $(MAKE_ASAN) check

# Newer kernels place libraries where this runtime does not look for them: hence setarch.
MAKE_TSAN = $(FLAVOUR) BUILD=$(BUILD)/tsan OPT='-O1 -g' CFLAGS='$(SAN_TSAN)' LDFLAGS='$(SAN_TSAN)'
tsan: deps
	@$(MAKE_TSAN) tests
	@LUA_PRELOAD="$$($(CC) -print-file-name=libtsan.so)" EXAMPLE_FLAGS='$(SAN_TSAN)' \
	    TSAN_OPTIONS='suppressions=$(CURDIR)/spec/support/tsan.supp' setarch -R $(MAKE_TSAN) check

VALGRIND := valgrind -q --error-exitcode=99 --leak-check=full --show-leak-kinds=definite,indirect \
            --errors-for-leak-kinds=definite,indirect --num-callers=30 \
            --suppressions=$(CURDIR)/spec/support/valgrind.supp
valgrind: deps
	@.ci/deps valgrind libc6-dbg
	$(AGAIN) -s -j$(JOBS) tests
	@C_RUNNER='$(VALGRIND)' EXAMPLE_RUNNER='$(VALGRIND)' FILE_LIMIT_S=900 \
	    $(MAKE) --no-print-directory -s check ONLY='$(or $(ONLY),$(TEST_SRC) spec/install_spec.lua)'

GCOVR = gcovr --root . --object-directory $(BUILD)/coverage
MAKE_COVERAGE = $(FLAVOUR) BUILD=$(BUILD)/coverage OPT='-O0 -g' CFLAGS='--coverage -fprofile-update=atomic' \
                LDFLAGS=--coverage
# The branches inside uthash's macros are uthash's to test.
NOT_OURS = --exclude-branches-by-pattern '.*\bHASH_[A-Z_]+ ?\('
coverage: deps
	@.ci/deps gcovr
	@$(MAKE_COVERAGE) tests
	@find $(BUILD)/coverage -name '*.gcda' -delete
	@failed=0; \
	EXAMPLE_FLAGS=--coverage $(MAKE_COVERAGE) check || failed=1; \
	echo 'all of src: at least 90 % of the lines'; \
	$(GCOVR) --filter src/ --exclude-unreachable-branches --fail-under-line 90 || failed=1; \
	echo 'gate and registry: every line and branch'; \
	$(GCOVR) --filter 'src/core/(gate|registry)\.c' --branches --exclude-unreachable-branches $(NOT_OURS) \
	    --fail-under-line 100 --fail-under-branch 100 || failed=1; \
	exit $$failed

FUZZ_SECONDS ?= 20
fuzz: deps
	@.ci/deps clang
	@$(FLAVOUR) BUILD=$(BUILD)/fuzz CC=clang WARN= OPT='-O1 -g' CFLAGS='-fsanitize=fuzzer-no-link,address,undefined' \
	    LDFLAGS='-fsanitize=address,undefined' fuzzers
	@for name in $(notdir $(FUZZ_SRC:.c=)); do \
	    echo "fuzz $$name"; \
	    mkdir -p $(BUILD)/fuzz/corpus/$$name; \
	    [ ! -d spec/fuzz/corpus/$$name ] || cp spec/fuzz/corpus/$$name/* $(BUILD)/fuzz/corpus/$$name/; \
	    $(BUILD)/fuzz/spec/fuzz/$$name -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=1024 -verbosity=0 \
	        -print_final_stats=1 -artifact_prefix=$(BUILD)/fuzz/$$name- $(BUILD)/fuzz/corpus/$$name || exit 1; \
	done
.PHONY: fuzzers
fuzzers: $(FUZZERS)

bench: deps
	$(AGAIN) -s -j$(JOBS) all benches
	@BUILD=$(BUILD) DEPUTY_BUILD=$(BUILD) spec/bench/run
.PHONY: benches
benches: $(BENCHES) $(MODEL_SERVER)

SOAK_SECONDS ?= 60
SERVE_SOAK_SECONDS ?= 600
SOAK_POLICIES ?= 10000000
soak: deps
	$(AGAIN) -s -j$(JOBS) tests
	@OOM_STRIDE=1 $(BUILD)/spec/c/oom_test
	@CYCLES=500 BUILD=$(BUILD) spec/run spec/c/managed_test.c
	@DEPUTY_BUILD=$(BUILD) SOAK_SECONDS=$(SOAK_SECONDS) lua5.4 spec/soak.lua
	@DEPUTY_BUILD=$(BUILD) SOAK_SECONDS=$(SERVE_SOAK_SECONDS) lua5.4 spec/soak_serve.lua
	@CROWD_FULL=1 DEPUTY_BUILD=$(BUILD) busted --lua=lua5.4 spec/crowd_spec.lua
	@FAULT_STRIDE=1 BUILD=$(BUILD) spec/run spec/fault_spec.lua
	@DEPUTY_BUILD=$(BUILD) POLICIES=$(SOAK_POLICIES) lua5.4 spec/fuzz/random_policies.lua
	@CRASH_KILLS=200 RANDOM_STEPS=200000 CLUSTER_ROUNDS=1000 FILE_LIMIT_S=1800 BUILD=$(BUILD) spec/run \
	    spec/central_crash_spec.lua spec/central_random_spec.lua spec/central_cluster_spec.lua

docs: deps
	@mkdir -p $(BUILD)/docs
	@lua5.4 spec/docs.lua > $(BUILD)/docs/index.html
	@echo $(BUILD)/docs/index.html

clean:
	rm -rf $(BUILD)
