-- Managed providers under attack, behind a real deputy serve: what a model server is handed, what may not start it,
-- and what neither a revoked caller nor a storm of reloads may bring about.
local uv = require "luv"
local lfs = require "lfs"
local cjson = require "cjson"
local client = require "spec.support.client"
local gateway = require "spec.support.gateway"
local peers = require "spec.support.peers"
local tmp = require "spec.support.tmp"

local BUILD = assert(uv.fs_realpath(os.getenv("DEPUTY_BUILD") or "build"))
local SERVER = BUILD .. "/spec/support/model_server"
local OUTAGE = { status = 503, json = { error = { message = "the central is down", type = "outage" } } }

local central, dir, things

local function notes(what)
  local list = {}
  for word, value in (lfs.attributes(things) and tmp.read(things) or ""):gmatch("(%a+) ?(%d*)\n") do
    if word == what then list[#list + 1] = value end
  end
  return list
end

local function provider(fields, ...)
  local all = {
    name = "tiny", type = "managed", command = { SERVER, "--port", "{port}", "--log", things, ... },
    failoverFor = "claude", stopGraceSeconds = 1,
  }
  for field, value in pairs(fields or {}) do all[field] = value end
  return all
end

local function config(providers, more)
  local all = {
    central = { url = central.url, bearerToken = "tok-of-the-central" }, providers = providers,
    policy = { settings = { retries = 0, breaker = false } },
  }
  for section, fields in pairs(more or {}) do all[section] = fields end
  return all
end

local function is_there(pid)
  local file = io.open("/proc/" .. pid .. "/stat")
  local line = file and file:read("a")
  if file then file:close() end
  return line and line:match("%) (%a)") ~= "Z" or false
end

local function nobody_left()
  return gateway.wait_until(function()
    for _, word in ipairs{ "start", "child", "grandchild" } do
      for _, pid in ipairs(notes(word)) do
        if is_there(pid) then return false end
      end
    end
    return true
  end, 10000)
end

local function ask(gw, headers)
  local open = client.open(gw.address, 20000)
  open:send(client.request{
    method = "POST", path = "/v1/chat/completions", headers = headers,
    json = { model = "claude", messages = { { role = "user", content = "hi" } } },
  })
  return open
end

local function answer(open)
  local reply = open:read_reply()
  open:close()
  return reply
end

before_each(function()
  dir = tmp.dir()
  things = dir .. "/things"
  central = peers.central{
    llms = { claude = {} }, inference = OUTAGE,
    tokens = { ["tok-of-the-central"] = { view = { "claude" } }, ["tok-b"] = {} },
  }
end)

after_each(function()
  gateway.stop_all()
  peers.stop_all()
  assert.is_true(nobody_left())
end)

describe("a model server of deputy serve", function()
  it("is handed no descriptor and no token of deputy's", function()
    local gw = gateway.start(config({ provider{ env = { OWN = "its own" } } }, { gateway = { workers = 2 } }),
      { dir = dir, env = { DEPUTY_CENTRAL_TOKEN = "an-admins-token", NOTIFY_SOCKET = "/nowhere" } })
    assert.equal(200, gw:chat().status)
    local pid = notes("start")[1]
    for fd in lfs.dir("/proc/" .. pid .. "/fd") do
      local link = fd:find("^%d+$") and uv.fs_readlink("/proc/" .. pid .. "/fd/" .. fd)
      if link then
        local number = tonumber(fd)
        -- the sockets are its listener and its callers
        local expected = number == 0 and "^/dev/null$" or number <= 2 and "^pipe:" or "^socket:"
        assert.is_truthy(link:find(expected), fd .. " is " .. link)
        assert.is_true(number < 8, "descriptor " .. fd)
      end
    end
    local environ, arguments = tmp.read("/proc/" .. pid .. "/environ"), tmp.read("/proc/" .. pid .. "/cmdline")
    assert.is_truthy(environ:find("OWN=its own", 1, true))
    for _, secret in ipairs{ "tok-of-the-central", "an-admins-token", "NOTIFY_SOCKET", "DEPUTY_LUA" } do
      assert.is_nil(environ:find(secret, 1, true), secret)
      assert.is_nil(arguments:find(secret, 1, true), secret)
    end
    local supervisor = tmp.read("/proc/" .. pid .. "/stat"):match("%) %a (%d+)")
    assert.is_nil(tmp.read("/proc/" .. supervisor .. "/environ"):find("[^%z]"))
  end)

  it("is started by nothing that only looks", function()
    local gw = gateway.start(config({ provider{ prewarm = "on-failure" } }), { dir = dir })
    for _ = 1, 3 do
      for _, path in ipairs{ "/", "/metrics", "/healthz", "/readyz", "/v1/models", "/status" } do
        gw:ask{ method = "GET", path = path }
      end
      gw:ask{ method = "HEAD", path = "/v1/models" }
    end
    assert.same({}, notes("start"))
  end)

  local liars = { "never_probes", "ignores_verdict", "fakes_a_probe", "lends_its_probe", "dispatches_twice" }
  for _, policy in ipairs(liars) do
    it("is not started for a forbidden caller by a policy that " .. policy:gsub("_", " "), function()
      local gw = gateway.start(config({ provider() }, {
        policy = { script = uv.cwd() .. "/spec/support/policies/" .. policy .. ".lua", verify = "warn" },
      }), { dir = dir })
      local reply = gw:chat({}, { Authorization = "Bearer tok-b" })
      assert.equal(503, reply.status)
      assert.same({}, notes("start"))
    end)
  end

  it("gets no byte of a caller who was revoked while waiting for a place, over a connection that was kept", function()
    local gw = gateway.start(config({ provider({ maxConcurrent = 1 }, "--slow-post", "600") }, {
      policy = { permitMs = 200, settings = { retries = 0, breaker = false } },
    }), { dir = dir })
    assert.equal(200, gw:chat().status)
    local first = ask(gw)
    assert.is_true(gateway.wait_until(function() return #notes("post") == 2 end, 5000))
    local second = ask(gw)
    uv.sleep(100)
    central:set{ tokens = { ["tok-of-the-central"] = {} } }
    assert.equal(200, answer(first).status)
    assert.equal(503, answer(second).status)
    assert.equal(2, #notes("post"))
  end)

  it("is one in the end, whatever a storm of reloads did to its configuration while callers came", function()
    local gw = gateway.start(config({ provider({ prewarm = "at-start" }, "--family") }, { gateway = { workers = 2 } }),
      { dir = dir })
    local open = {}
    for round = 1, 12 do
      gw:write(config({ provider({ prewarm = round % 3 == 0 and "at-start" or "on-demand" }, "--family", "--slow-post",
        round % 2 == 0 and "1" or "2") }, { gateway = { workers = 2 } }))
      gw:signal("sighup")
      for _ = 1, 3 do open[#open + 1] = ask(gw) end
      uv.sleep(60)
    end
    for _, each in ipairs(open) do
      local reply = answer(each)
      assert.equal(200, reply.status, reply.body)
    end
    assert.is_true(gateway.wait_until(function()
      local living = 0
      for _, pid in ipairs(notes("start")) do living = living + (is_there(pid) and 1 or 0) end
      return living == 1
    end, 15000))
    assert.is_truthy(cjson.decode(gw:chat().body).choices)
  end)

  it("is started again when it was killed, for whoever comes next", function()
    local gw = gateway.start(config({ provider{ restart = { attempts = 3, backoffMs = 10 } } }), { dir = dir })
    assert.equal(200, gw:chat().status)
    uv.kill(math.tointeger(tonumber(notes("start")[1])), "sigkill")
    assert.is_true(gateway.wait_until(function() return gw:chat().status == 200 and #notes("start") == 2 end, 5000))
  end)
end)
