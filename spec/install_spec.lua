-- What `make install` leaves behind, used as a stranger would: from another directory, through pkg-config.
local peers = require "spec.support.peers"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local build = os.getenv("DEPUTY_BUILD") or "build"
local root = require("lfs").currentdir()
local REQUEST = '{"model":"claude","messages":[{"role":"user","content":"Hi"}]}'

local function words(text)
  local list = {}
  for word in (text or ""):gmatch("%S+") do list[#list + 1] = word end
  return list
end

-- A sanitizer's flags, and what a program is to be run by (valgrind, say): make sets them.
local flags, runner = words(os.getenv("EXAMPLE_FLAGS")), words(os.getenv("EXAMPLE_RUNNER"))

local function run(command)
  local r = shell.run(command)
  assert.equal(0, r.status, table.concat(command, " ") .. "\n" .. r.stdout .. r.stderr)
  return r
end

-- One command of many parts; what shell.run knows by name (cwd, env) may stand in any of them.
local function join(...)
  local all = {}
  for _, list in ipairs{ ... } do
    for key, value in pairs(list) do
      if type(key) == "string" then all[key] = value end
    end
    table.move(list, 1, #list, #all + 1, all)
  end
  return all
end

local function exists(path)
  local file = io.open(path)
  return file and file:close() or false
end

describe("an installed copy", function()
  local dest, prefix

  local function make(target)
    return run{ "make", "-s", target, "BUILD=" .. build, "DESTDIR=" .. dest, cwd = root, timeout_ms = 300000 }
  end

  local function pkg_config(...)
    local command = { "pkg-config", ... }
    command.env = { PKG_CONFIG_PATH = prefix .. "/lib/pkgconfig" }
    return words(run(command).stdout)
  end

  local function compile(compiler, source, name, libs)
    local out = dest .. "/" .. name
    run(join({ table.unpack(compiler) }, { "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g", source }, { "-o", out },
      flags, pkg_config("--cflags", "deputy"), libs or pkg_config("--libs", "deputy"),
      { cwd = dest, timeout_ms = 60000 }))
    return out
  end

  setup(function()
    dest = tmp.dir()
    prefix = dest .. "/usr/local"
    make "install"
  end)

  after_each(peers.stop_all)

  it("has headers, libraries, the Lua module, the policy and the command line", function()
    for _, path in ipairs{
      "include/deputy.h", "include/deputy/provider.h", "lib/libdeputy.a", "lib/libdeputy.so", "lib/libdeputy.so.0",
      "lib/pkgconfig/deputy.pc", "bin/deputy", "lib/lua/5.4/deputy.so", "share/deputy/lua/router.lua",
      "include/deputy/managed.h", "lib/deputy/deputy-supervisor",
    } do
      assert.is_true(exists(prefix .. "/" .. path), path)
    end
  end)

  it("is found by pkg-config wherever it lies", function()
    local lib = table.concat(pkg_config("--libs", "deputy"), " ")
    assert.matches("-L" .. dest, lib, 1, true)
    assert.matches("-ldeputy", lib, 1, true)
    assert.matches("^%d+%.%d+%.%d+$", pkg_config("--modversion", "deputy")[1])
  end)

  it("is made known to the loader, unless it is only staged", function()
    local function recipe(to)
      return run{ "make", "-n", "install", "BUILD=" .. build, "DESTDIR=" .. to, cwd = root }.stdout
    end
    assert.matches("ldconfig", recipe "", 1, true)
    assert.is_nil(recipe(dest):find("ldconfig", 1, true))
  end)

  local compilers = {
    C = { "cc", "-std=c11", "-D_GNU_SOURCE" },
    ["C++"] = { "c++", "-x", "c++", "-std=c++17" },
  }

  for language, compiler in pairs(compilers) do
    describe("compiled as " .. language, function()
      local central, model, programs

      setup(function()
        programs = {}
        for _, name in ipairs{ "embed_sync", "embed_loop", "provider_in_c" } do
          programs[name] = compile(compiler, root .. "/examples/" .. name .. ".c", name .. "_" .. language)
        end
      end)

      before_each(function()
        central = peers.central{
          llms = { claude = {} }, tokens = { tok = { view = { "claude" }, run = { "claude" } } },
        }
        model = peers.openai{ models = { "qwen3" } }
      end)

      local function example(name, ...)
        return shell.run(join(runner, { programs[name], central.url, "claude", ... }, {
          cwd = dest, timeout_ms = 60000,
          env = {
            DEPUTY_TOKEN = "tok", DEPUTY_POLICY = prefix .. "/share/deputy/lua/router.lua",
            LD_LIBRARY_PATH = prefix .. "/lib",
          },
        }))
      end

      local function sync() return example("embed_sync", model.url .. "/v1", "qwen3", REQUEST) end
      local function loop() return example("embed_loop", model.url .. "/v1", "qwen3", REQUEST) end
      local function take_down() central:set{ inference = { status = 503, body = "closed for repairs" } } end

      it("embed_sync prints the central's answer", function()
        local r = sync()
        assert.equal("", r.stderr:match("ERROR.*") or "")
        assert.equal(0, r.status, r.stderr)
        assert.matches("Hello from central", r.stdout, 1, true)
        assert.matches("answered by: central", r.stderr, 1, true)
        assert.equal(0, central:count("HEAD"))
      end)

      it("embed_sync prints the local answer when the central is down and allows it", function()
        take_down()
        local r = sync()
        assert.equal(0, r.status, r.stderr)
        assert.matches("Hello from local", r.stdout, 1, true)
        assert.matches("the central's word: allowed", r.stderr, 1, true)
        assert.matches("answered by: local", r.stderr, 1, true)
        assert.is_false(model:saw("tok"))
      end)

      it("embed_sync prints the central's own error when the permission is revoked", function()
        take_down()
        central:revoke("tok", "claude")
        local r = sync()
        assert.equal(1, r.status, r.stderr)
        assert.equal("closed for repairs\n", r.stdout)
        assert.matches("the central's word: forbidden", r.stderr, 1, true)
        assert.equal(0, model:bytes())
      end)

      it("embed_loop has 100 runs at once in the host's own loop", function()
        local r = loop()
        assert.equal(0, r.status, r.stderr)
        assert.matches("100 answered by the central, 0 by the local server, 0 failed", r.stdout, 1, true)
        take_down()
        r = loop()
        assert.equal(0, r.status, r.stderr)
        assert.matches("0 answered by the central, 100 by the local server, 0 failed", r.stdout, 1, true)
        central:revoke("tok", "claude")
        r = loop()
        assert.equal(1, r.status, r.stderr)
        assert.matches("0 answered by the central, 0 by the local server, 100 failed", r.stdout, 1, true)
        assert.equal(100, model:count("POST"))
      end)

      it("embed_loop cancels what is under way when a line comes on its own descriptor", function()
        central:set{ inference = { { stall = true } } }
        local p = shell.start(join(runner, {
          programs.embed_loop, central.url, "claude", model.url .. "/v1", "qwen3", REQUEST, cwd = dest,
          env = {
            DEPUTY_TOKEN = "tok", DEPUTY_POLICY = prefix .. "/share/deputy/lua/router.lua",
            LD_LIBRARY_PATH = prefix .. "/lib",
          },
        }))
        central:wait_until(function() return central:count("POST") == 100 end, 20000)
        p:write("\n")
        local r = p:wait(20000) or p:stop()
        assert.equal(1, r.status, r.stderr)
        assert.matches("100 cancelled", r.stdout, 1, true)
      end)

      it("provider_in_c answers at once, and slowly in chunks, from providers of its own", function()
        take_down()
        local r = example("provider_in_c", "at-once")
        assert.equal(0, r.status, r.stderr)
        assert.matches("At once.", r.stdout, 1, true)
        assert.matches("answered by: mine", r.stderr, 1, true)
        r = example("provider_in_c", "slow")
        assert.equal(0, r.status, r.stderr)
        assert.matches('"One ".*"thing ".*"at ".*"a ".*"time%.".*%[DONE%]', r.stdout)
        central:revoke("tok", "claude")
        r = example("provider_in_c", "slow")
        assert.equal(1, r.status, r.stderr)
        assert.equal("closed for repairs", r.stdout)
      end)

      it("say how they are used", function()
        for name, path in pairs(programs) do
          local r = shell.run{ path, env = { LD_LIBRARY_PATH = prefix .. "/lib" } }
          assert.equal(2, r.status, name)
          assert.matches("^usage: ", r.stderr)
        end
      end)
    end)
  end

  it("lets a host that links the archive keep every name that is not deputy_*", function()
    local source = tmp.write(dest, "clash.c", [[
      #include <deputy.h>
      #include <stdio.h>
      int run_new(void); int loop_new(void); int buffer_append(void); int gate_spend(void); int registry_add(void);
      int run_new(void) { return 1; } int loop_new(void) { return 1; } int buffer_append(void) { return 1; }
      int gate_spend(void) { return 1; } int registry_add(void) { return 1; }
      int main(void)
      {
          deputy_options options = DEPUTY_INIT(deputy_options);
          deputy_engine *engine;
          deputy_error error = {0};
          options.central_url = "http://127.0.0.1:1";
          int code = deputy_engine_new(&options, &engine, &error);
          printf("%d %s", code, deputy_version());
          deputy_engine_free(engine);
          return run_new() + loop_new() + buffer_append() + gate_spend() + registry_add() - 5;
      }]])
    local libs = join({ prefix .. "/lib/libdeputy.a" },
      pkg_config("--libs", table.unpack(pkg_config("--print-requires-private", "deputy"))))
    local program = compile({ "cc", "-std=c11" }, source, "clash", libs)
    assert.matches("^0 %d+%.%d+%.%d+$", run(join(runner, { program })).stdout)
  end)

  it("is usable from plain lua5.4", function()
    local r = run{
      "lua5.4", "-e", 'local d = require "deputy"; print(type(d.router))', cwd = dest,
      env = { LUA_CPATH = prefix .. "/lib/lua/5.4/?.so;;" },
    }
    assert.equal("function\n", r.stdout)
  end)

  it("has a command line that finds its policy in share", function()
    local central = peers.central{
      llms = { claude = {} }, tokens = { tok = { view = { "claude" }, run = { "claude" } } },
      inference = { status = 503 },
    }
    local model = peers.openai{ models = { "qwen3" } }
    local config = tmp.write(dest, "deputy.json", string.format([[{
      "central": { "url": "%s", "bearerToken": "tok" },
      "providers": [ { "name": "local", "type": "openai", "url": "%s/v1", "model": "qwen3", "failoverFor": "claude" } ]
    }]], central.url, model.url))
    local r = run(join(runner, { prefix .. "/bin/deputy", "ask", "-c", config, "claude", "Hi" }, {
      cwd = dest, env = { DEPUTY_LUA = false },
    }))
    assert.equal("Hello from local\n", r.stdout)
    assert.equal(1, central:count("HEAD"))
    os.remove(config)
  end)

  it("has the control plane's commands", function()
    local function deputy(...)
      return run{ cwd = dest, env = { DEPUTY_LUA = false }, prefix .. "/bin/deputy", ... }.stdout
    end
    assert.matches("^dpt_%w+_%w+\n$", deputy("central", "init", "--db", "sqlite:central.db"))
    assert.matches("\nadmin ", deputy("central", "user", "list", "--db", "sqlite:central.db"))
    assert.matches("^usage: deputy contract", deputy("contract", "--help"))
  end)

  it("goes away with make uninstall", function()
    make "uninstall"
    local left = run{ "find", prefix, "!", "-type", "d" }.stdout
    assert.equal("", left)
    make "install"
  end)
end)
