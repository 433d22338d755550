# deputy - make builds everything into build/; `make help` lists what else there is.
VERSION := $(shell sed -n 's/^.define DEPUTY_VERSION "\(.*\)"/\1/p' include/deputy.h)
PREFIX  ?= /usr/local
DESTDIR ?=
BUILD   ?= build
CC      ?= cc
PKGS    := lua5.4 lua5.4-cjson libcurl libuv yajl

WARN    := -Wall -Wextra -Wpedantic -Wconversion -Werror
OPT     ?= -O2 -g
HARDEN  ?= -D_FORTIFY_SOURCE=2 -fstack-protector-strong
CFLAGS  ?=
CPPFLAGS += -D_GNU_SOURCE -Iinclude -Isrc
PKG_CFLAGS = $(shell pkg-config --cflags $(PKGS) | sed 's/-I/-isystem /g')
PKG_LIBS   = $(shell pkg-config --libs $(PKGS))
ALL_CFLAGS = -std=c11 $(WARN) $(OPT) $(HARDEN) -fPIC -fvisibility=hidden -pthread $(CPPFLAGS) $(PKG_CFLAGS) $(CFLAGS)
ALL_LDFLAGS = $(LDFLAGS) -Wl,-z,relro,-z,now -pthread

LIB_SRC := $(wildcard src/base/*.c src/net/*.c src/core/*.c src/providers/*.c) src/lua/lua_policy.c src/lua/lua_run.c
MOD_SRC := $(filter-out $(LIB_SRC),$(wildcard src/lua/*.c))
CLI_SRC := $(wildcard src/cli/*.c)
LIB_OBJ := $(LIB_SRC:%.c=$(BUILD)/%.o)
MOD_OBJ := $(MOD_SRC:%.c=$(BUILD)/%.o)
CLI_OBJ := $(CLI_SRC:%.c=$(BUILD)/%.o)

.PHONY: all
all: $(BUILD)/libdeputy.a $(BUILD)/libdeputy.so $(BUILD)/deputy $(BUILD)/deputy.so

$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

-include $(LIB_OBJ:.o=.d) $(MOD_OBJ:.o=.d) $(CLI_OBJ:.o=.d)
