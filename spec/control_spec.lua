-- gateway.control: a running host answers its owner, and nobody else; `deputy providers` asks it.
local uv = require "luv"
local lfs = require "lfs"
local cjson = require "cjson"
local client = require "spec.support.client"
local gateway = require "spec.support.gateway"
local peers = require "spec.support.peers"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local BUILD = assert(uv.fs_realpath(os.getenv("DEPUTY_BUILD") or "build"))
local OUTAGE = { status = 503, body = '{"error": {"message": "no capacity"}}' }
local central, model

local function config(changes)
  local c = {
    central = { url = central.url, bearerToken = "tok-house" },
    providers = {
      { name = "vllm-local", type = "openai", url = model.url .. "/v1", model = "qwen3", apiKey = "sk-local-secret",
        failoverFor = { "claude", "opus" } },
      { name = "off", type = "openai", url = peers.refused() .. "/v1" },
    },
    policy = { settings = { retries = 0, breaker = { failures = 2, openMs = 60000 } } },
    gateway = {},
  }
  for section, fields in pairs(changes or {}) do
    for name, value in pairs(fields) do
      c[section] = c[section] or {}
      c[section][name] = value
    end
  end
  return c
end

local function start(changes, options) return gateway.start(config(changes), options) end

local function socket_of(gw) return "unix:" .. gw.dir .. "/deputy.sock" end

local function control(gw, method, path, address)
  return client.ask(address or socket_of(gw), { method = method, path = path })
end

local function deputy(gw, ...)
  return shell.run{ env = { DEPUTY_LUA = not lfs.attributes(BUILD .. "/../lua/deputy/config.lua") and
    lfs.currentdir() .. "/lua" or false, XDG_RUNTIME_DIR = gw.dir, XDG_CONFIG_HOME = gw.dir, HOME = gw.dir },
    cwd = gw.dir, timeout_ms = 20000, BUILD .. "/deputy", ... }
end

before_each(function()
  local all = { view = { "*" }, run = { "*" } }
  central = peers.central{ llms = { claude = {}, opus = {} }, tokens = { ["tok-house"] = all } }
  model = peers.openai{ models = { "qwen3" }, api_key = "sk-local-secret" }
end)

after_each(function()
  gateway.stop_all()
  peers.stop_all()
end)

describe("the control socket", function()
  it("is its owner's alone, and goes with the host", function()
    local gw = start()
    local file = assert(uv.fs_stat(gw.dir .. "/deputy.sock"))
    assert.equal("socket", file.type)
    assert.equal(384, file.mode % 512) -- 0600
    assert.equal(0, gw:stop())
    assert.is_nil(uv.fs_stat(gw.dir .. "/deputy.sock"))
  end)

  it("says who runs", function()
    local gw = start{ gateway = { workers = 2 } }
    local r = control(gw, "GET", "/status")
    assert.equal(200, r.status)
    assert.same({ gw.pid, gw.config, gw.address, 2, 0, false },
      { r.json.pid, r.json.config, r.json.listen, r.json.workers, r.json.reloads, r.json.draining })
    assert.matches("^%d+%.%d+%.%d+", r.json.version)
    assert.matches("router%.lua$", r.json.policy)
    assert.is_true(math.abs(r.json.started / 1000 - os.time()) < 10)
  end)

  it("tells of providers, breakers and counts, and no secret", function()
    local gw = start()
    central:set{ inference = OUTAGE }
    for _ = 1, 3 do gw:chat() end
    local r = control(gw, "GET", "/providers")
    local off, ready = r.json.providers[1], r.json.providers[2]
    assert.same({ "off", "openai", false, {}, cjson.null },
      { off.name, off.type, off.available, off.failoverFor, off.model })
    assert.equal("string", type(off.error))
    assert.same({ "vllm-local", true, { "claude", "opus" }, { "qwen3" }, "qwen3", model.url .. "/v1", 3, 0 },
      { ready.name, ready.available, ready.failoverFor, ready.models, ready.model, ready.url, ready.answered,
        ready.failed })
    local breaker = r.json.breakers[1]
    assert.same({ "claude", "open", 0 }, { breaker.llm, breaker.state, breaker.worker })
    assert.same({ 0, 0 }, { r.json.inFlight, r.json.streams })
    for _, secret in ipairs{ "tok-house", "sk-local-secret" } do assert.is_nil(r.body:find(secret, 1, true)) end
  end)

  it("says why it has no list of a provider's models", function()
    model:set{ models_steps = { status = 200, body = "[]" } }
    local gw = start()
    local ready = control(gw, "GET", "/providers").json.providers[2]
    assert.same({ true, {} }, { ready.available, ready.models })
    assert.matches("list of models, got something else", ready.error)
  end)

  it("reloads, and says how that went", function()
    local gw = start()
    assert.same({ 200, '{"reloaded":true}\n' }, { control(gw, "POST", "/reload").status,
      control(gw, "POST", "/reload").body })
    tmp.write(gw.dir, "deputy.json", '{"gatway": {}}')
    local r = control(gw, "POST", "/reload")
    assert.equal(409, r.status)
    assert.matches("gatway", r.json.error.message)
    local status = control(gw, "GET", "/status").json
    assert.same({ 2, 1 }, { status.reloads, status.reloadsFailed })
  end)

  it("starts and stops only what there is to start", function()
    local gw = start()
    local known = control(gw, "POST", "/providers/vllm-local/start")
    assert.equal(409, known.status)
    assert.matches("'vllm%-local' is not a provider that deputy starts", known.json.error.message)
    assert.equal(404, control(gw, "POST", "/providers/gh%6Fst/stop").status)
    assert.matches("'ghost'", control(gw, "POST", "/providers/gh%6Fst/stop").json.error.message)
    for _, path in ipairs{ "/providers/x/kill", "/providers//start", "/providers/%zz/start", "/providers/%0", "/",
      "/providers/%/start", "/providers/" .. ("n"):rep(129) .. "/start" } do
      assert.same({ path, 404 }, { path, control(gw, "POST", path).status })
    end
    assert.equal(404, control(gw, "GET", "/reload").status)
  end)

  it("replaces what a killed host left behind, and leaves a live one alone", function()
    local dir = tmp.dir()
    local first = gateway.start(config(), { dir = dir })
    local refused = config{ gateway = { control = "unix:" .. dir .. "/deputy.sock" } }
    local r = gateway.run(refused)
    assert.equal(1, r.status)
    assert.matches("^deputy serve: gateway%.control: cannot listen on [^\n]*another process listens there\n$", r.stderr)
    assert.equal(200, control(first, "GET", "/status").status)
    first.process:signal("sigkill")
    first:wait()
    assert.is_truthy(uv.fs_stat(dir .. "/deputy.sock"))
    local second = start(nil, { env = { XDG_RUNTIME_DIR = dir } })
    assert.equal(second.pid, control(first, "GET", "/status").json.pid)
  end)

  it("is done without where nobody named it: the usual place is taken, or there is none", function()
    local gw = start()
    local other = gateway.start(config(), { dir = tmp.dir(), env = { XDG_RUNTIME_DIR = gw.dir } })
    assert.is_truthy(other:wait_log("level=warn msg=\"no control socket[^\n]*another process"))
    assert.equal(gw.pid, control(gw, "GET", "/status").json.pid)
    local bare = start(nil, { env = { XDG_RUNTIME_DIR = false } })
    assert.is_truthy(bare:wait_log("level=info msg=\"no control socket"))
    assert.equal(200, bare:chat().status)
  end)

  it("moves when a reload says so, and stays where it cannot", function()
    local gw = start()
    local there = "unix:" .. gw.dir .. "/there.sock"
    gw:write(config{ gateway = { control = there } })
    assert.equal(200, control(gw, "POST", "/reload").status) -- through the one that goes
    assert.equal(gw.pid, control(gw, "GET", "/status", there).json.pid)
    assert.is_truthy(gateway.wait_until(function() return not uv.fs_stat(gw.dir .. "/deputy.sock") end))
    gw:write(config{ gateway = { control = "unix:/nowhere/at/all.sock" } })
    assert.equal(200, control(gw, "POST", "/reload", there).status)
    assert.is_truthy(gw:wait_log("gateway.control stays as it was"))
    assert.equal(gw.pid, control(gw, "GET", "/status", there).json.pid)
  end)

  it("survives callers who leave while it asks", function()
    local gw = start{ providers = { { name = "deaf", type = "openai", url = peers.blackhole() .. "/v1" } } }
    for _ = 1, 5 do
      local c = client.open(socket_of(gw))
      c:send("GET /providers HTTP/1.1\r\nHost: x\r\n\r\n")
      c:close()
    end
    local c = client.open(socket_of(gw))
    c:send("GET /providers HTTP/1.1\r\nHost: x\r\n\r\n")
    assert.equal(200, gw:chat().status) -- the others are served meanwhile
    assert.equal(0, gw:stop())
    c:close()
  end)
end)

describe("deputy providers", function()
  it("asks the host that runs", function()
    local gw = start()
    central:set{ inference = OUTAGE }
    for _ = 1, 2 do gw:chat() end
    local before = model:count("GET")
    local r = deputy(gw, "providers")
    assert.same({ 0, "" }, { r.status, r.stderr })
    local lines = {}
    for line in r.stdout:gmatch("[^\n]+") do lines[#lines + 1] = line:gsub("  +", "|") end
    assert.equal("vllm-local|openai|claude, opus|yes|qwen3|" .. model.url .. "/v1|qwen3", lines[2])
    assert.matches("^off|openai|%-|no|", lines[3])
    assert.matches("\nrunning: pid " .. gw.pid .. ", ", r.stdout)
    assert.matches("\nbreaker of claude: open", r.stdout)
    assert.is_true(model:count("GET") - before <= 2) -- the host asked, not the command
  end)

  it("keeps from the terminal what others call their models", function()
    local red = "\xc2\x9b31m"
    model:set{ models = { "qwen3", "m" .. red } }
    local gw = start{ policy = { settings = { retries = 0, breaker = { failures = 1, openMs = 60000 } } } }
    central:set{ inference = OUTAGE }
    gw:chat{ model = "made" .. red .. "up" }
    local out = deputy(gw, "providers").stdout
    assert.matches("\nbreaker of made 31mup: open", out)
    assert.matches("qwen3, m%?%?31m\n", out)
    assert.is_nil(out:find("\xc2\x9b", 1, true))
  end)

  it("says the same in JSON", function()
    local gw = start()
    local r = deputy(gw, "providers", "--json")
    assert.same({ 0, "" }, { r.status, r.stderr })
    local list = cjson.decode(r.stdout)
    assert.same({ "vllm-local", true, { "claude", "opus" }, { "qwen3" }, gw.pid },
      { list[1].name, list[1].available, list[1].failoverFor, list[1].models, list[1].host.pid })
    assert.equal(false, list[2].available)
  end)

  it("asks by itself when none runs, or one with another configuration, and says so", function()
    local gw = start()
    local other = tmp.dir()
    tmp.write(other, "deputy.json", cjson.encode{ central = { url = central.url } })
    local r = deputy(gw, "providers", "-c", other .. "/deputy.json", "-v")
    assert.equal(0, r.status)
    assert.matches("another configuration", r.stderr)
    assert.is_nil(r.stdout:find("running: pid", 1, true))
    gw:stop()
    r = deputy(gw, "providers")
    assert.same({ 0, "" }, { r.status, r.stderr })
    assert.matches("\nvllm%-local +openai +claude, opus +yes ", r.stdout)
    assert.matches("\nnot running: ", r.stdout)
    assert.is_nil(cjson.decode(deputy(gw, "providers", "--json").stdout)[1].host)
  end)
end)
