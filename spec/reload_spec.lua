-- Reloading deputy serve: nobody waits for it, nothing is dropped, and what it brings is in force.
local uv = require "luv"
local cjson = require "cjson"
local client = require "spec.support.client"
local gateway = require "spec.support.gateway"
local peers = require "spec.support.peers"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local central

-- A policy that computes for a while in each run, so that verifying it takes long.
local SLOW = [[
  local M = { should_failover = function() return false end, verdict = function() return "forbidden" end }
  function M.route(run)
    local n = 0
    for i = 1, %d do n = n + i end
    count("slow_%s")
    return run:primary()
  end
  return M]]

local function config(changes)
  local c = { central = { url = central.url, bearerToken = "tok-house" }, gateway = {},
    providers = { { name = "e", type = "echo", failoverFor = "claude" } } }
  for section, fields in pairs(changes or {}) do
    for name, value in pairs(fields) do
      c[section] = c[section] or {}
      c[section][name] = value
    end
  end
  return c
end

local function reloads(gw)
  local _, n = gw:log():gsub("msg=reloaded", "")
  return n
end

before_each(function()
  central = peers.central{ llms = { claude = {} }, tokens = { ["tok-house"] = { view = { "*" }, run = { "*" } } } }
end)

after_each(function()
  gateway.stop_all()
  peers.stop_all()
end)

describe("a reload", function()
  it("forgets the TLS sessions that were made with another bundle", function()
    local files = peers.tls_files()
    local all = { view = { "*" }, run = { "*" } }
    local secure = peers.central{ tls = "good", llms = { claude = {} }, tokens = { ["tok-house"] = all },
      inference = { status = 503 } }
    local bundle = tmp.write(nil, "ca.pem", tmp.read(files.ca))
    local gw = gateway.start(config{ central = { url = secure.url, caFile = bundle },
      policy = { settings = { retries = 0, breaker = false } } })
    for _ = 1, 2 do assert.same({ 200, "e" }, { gw:chat().status, gw:chat().headers["x-deputy-via"] }) end
    local probes = secure:count("HEAD")
    local file = assert(io.open(bundle, "w"))
    file:write(tmp.read(files.self_signed.cert))
    file:close()
    gw:signal("sighup")
    assert.is_truthy(gateway.wait_until(function() return reloads(gw) >= 1 end, 5000))
    local r = gw:chat()
    assert.same({ 502, "false", probes }, { r.status, r.headers["x-deputy-failover"], secure:count("HEAD") })
  end)

  it("drops nothing: a stream and 200 requests go on through five of them", function()
    local words = {}
    for i = 1, 60 do words[i] = { choices = { { index = 0, delta = { content = "w" .. i } } } } end
    central:set{ llms = { claude = {}, slow = { inference = { sse = words, every_ms = 50, done = true } } } }
    local gw = gateway.start(config{ gateway = { workers = 2 } })
    local stream = gw:open(20000)
    stream:send(client.request{ method = "POST", path = "/v1/chat/completions", json = { model = "slow",
      stream = true, messages = {} } })
    local many = shell.start{
      "curl", "-s", "--parallel", "--parallel-max", "4", "-o", "/dev/null", "-w", "%{http_code}\n",
      "-H", "Content-Type: application/json", "-d", '{"model":"claude","messages":[]}', "--rate", "100/s",
      "http://" .. gw.address .. "/v1/chat/completions?[1-200]",
    }
    for i = 1, 5 do
      gw:signal("sighup")
      assert.is_truthy(gateway.wait_until(function() return reloads(gw) >= i end, 5000))
      shell.turn(function() return false end, 200)
    end
    local r = many:wait(20000)
    local _, good = r.stdout:gsub("200\n", "")
    assert.same({ 200, "" }, { good, (r.stdout:gsub("200\n", "")) })
    local reply = stream:read_reply()
    local _, n = reply.body:gsub("w%d+", "")
    assert.same({ 200, true, 60 }, { reply.status, reply.complete, n })
    assert.is_truthy(reply.body:find("[DONE]", 1, true))
  end)

  it("keeps nobody waiting while it looks at the policy", function()
    local dir = tmp.dir()
    local script = tmp.write(dir, "p.lua", SLOW:format(1, "a"))
    local gw = gateway.start(config{ policy = { script = script, verify = "warn" } })
    tmp.write(dir, "p.lua", SLOW:format(1000000, "b"))
    gw:signal("sighup")
    local served, longest, began = 0, 0, uv.hrtime()
    while reloads(gw) == 0 and served < 1000 do
      local asked = uv.hrtime()
      assert.equal(200, gw:chat().status)
      served, longest = served + 1, math.max(longest, uv.hrtime() - asked)
    end
    -- However slow the machine: whoever is kept waiting waits for nearly all of it.
    assert.is_true(served >= 3, served)
    assert.is_true(longest < 0.7 * (uv.hrtime() - began), longest)
    gw:chat()
    local text = gw:ask{ path = "/metrics" }.body
    assert.is_truthy(text:find('deputy_script_count_total{name="slow_b",worker="0"}', 1, true))
  end)

  it("is dropped when it has to end meanwhile", function()
    local dir = tmp.dir()
    local script = tmp.write(dir, "p.lua", SLOW:format(1, "a"))
    local gw = gateway.start(config{ policy = { script = script, verify = "warn" } })
    tmp.write(dir, "p.lua", SLOW:format(1000000, "b"))
    gw:signal("sighup")
    assert.equal(200, gw:chat().status) -- it has turned since, so that the reload is under way
    assert.equal(0, gw:stop())
    assert.is_nil(gw:log():find("msg=reloaded", 1, true))
  end)

  it("brings other bounds", function()
    local gw = gateway.start(config{ gateway = { maxBodyBytes = 4096, maxConnections = 20 } })
    local long = ("x"):rep(8000)
    assert.equal(413, gw:chat{ user = long }.status)
    gw:write(config{ gateway = { maxBodyBytes = 100000, maxConnections = 3 }, log = { format = "json" } })
    gw:signal("sighup")
    assert.is_truthy(gw:wait_log('"?msg"?[=:]"?reloaded'))
    assert.equal(200, gw:chat{ user = long }.status)
    assert.is_truthy(gw:wait_log('"msg":"run"'))
    local held = {}
    for i = 1, 3 do held[i] = gw:open() end
    assert.equal(503, gw:ask{ path = "/healthz" }.status)
    for _, each in ipairs(held) do each:close() end
    assert.is_truthy(gateway.wait_until(function() return gw:ask{ path = "/healthz" }.status == 200 end))
  end)

  it("refuses a body that came under a larger bound as too large, not as one to send again", function()
    local gw = gateway.start(config())
    local c = gw:open()
    c:send(client.request{ path = "/v1/chat/completions", method = "POST", headers = {
      ["Content-Type"] = "application/json", ["Content-Length"] = "8019" }, body = '{"model":"claude"' })
    assert.is_truthy(gateway.wait_until(function() return gw:ask{ path = "/healthz" }.status == 200 end))
    gw:write(config{ gateway = { maxBodyBytes = 4096 } })
    gw:signal("sighup")
    assert.is_truthy(gw:wait_log("msg=reloaded"))
    c:send((" "):rep(8001) .. "}")
    local r = c:read_reply()
    assert.same({ 413, "body_too_large" }, { r.status, cjson.decode(r.body).error.code })
    assert.is_nil(r.headers["retry-after"])
    c:close()
  end)

  it("says which keys it cannot change, by their names", function()
    local gw = gateway.start(config())
    gw:write(config{ gateway = { listen = "127.0.0.1:1", workers = 3 } })
    gw:signal("sighup")
    for _, key in ipairs{ "gateway.listen", "gateway.workers" } do
      assert.is_truthy(gw:wait_log("changes with a restart alone[^\n]*key=" .. key))
    end
    assert.equal(200, gw:chat().status)
    -- Nor does it go by them: behind a Unix socket no name would have to be ours.
    gw:write(config{ gateway = { listen = "unix:" .. gw.dir .. "/s" } })
    gw:signal("sighup")
    assert.is_truthy(gw:wait_log("msg=reloaded.-msg=reloaded"))
    assert.equal(403, gw:chat({}, { Host = "evil.example" }).status)
  end)

  it("warns of a policy that is not fail-closed, once for all workers, or refuses it", function()
    local dir = tmp.dir()
    local open = [[return { should_failover = function() return true end, verdict = function() return "allowed" end,
      route = function(run) return run:complete(run:failover()) end }]]
    local script = tmp.write(dir, "p.lua", open)
    local gw = gateway.start(config{ policy = { script = script, verify = "warn" }, gateway = { workers = 3 } })
    assert.is_truthy(gw:wait_log("not fail%-closed"))
    local _, n = gw:log():gsub("not fail%-closed", "")
    assert.equal(1, n)
    gw:write(config{ policy = { script = script }, gateway = { workers = 3 } })
    gw:signal("sighup")
    assert.is_truthy(gw:wait_log("the reload changed nothing[^\n]*not fail%-closed"))
    local refused = gateway.run(config{ policy = { script = script } })
    assert.equal(1, refused.status)
    assert.matches("^deputy serve: the policy [^\n]* is not fail%-closed[^\n]*\n$", refused.stderr)
  end)

  it("without a configuration changes nothing, and says where it looked", function()
    local gw = gateway.start(config{ log = { format = "json" } })
    os.remove(gw.config)
    local r = client.ask("unix:" .. gw.dir .. "/deputy.sock", { method = "POST", path = "/reload" })
    assert.same({ 409, "there is no configuration: tried " .. gw.config }, { r.status, r.json.error.message })
    assert.equal(200, gw:chat().status)
    for line in gw:log():gmatch("[^\n]+") do assert.is_table(cjson.decode(line)) end
  end)

  it("that is asked for while one is under way comes after it", function()
    local dir = tmp.dir()
    local script = tmp.write(dir, "p.lua", SLOW:format(200000, "a"))
    local gw = gateway.start(config{ policy = { script = script, verify = "warn" } })
    for _ = 1, 10 do
      gw:signal("sighup")
      uv.sleep(10)
    end
    assert.is_truthy(gateway.wait_until(function() return reloads(gw) >= 2 end, 10000))
    assert.is_true(reloads(gw) <= 10)
    assert.equal(200, gw:chat().status)
  end)

  it("that is asked for before it listens comes once it does", function()
    local dir = tmp.dir()
    local token, nonblock = dir .. "/token", uv.constants.O_WRONLY + uv.constants.O_NONBLOCK
    assert(os.execute("mkfifo -m 600 " .. token))
    local file = tmp.write(dir, "d.json", cjson.encode{ central = { url = central.url, bearerTokenFile = token },
      gateway = { listen = "127.0.0.1:0" } })
    local p = shell.start{ env = gateway.environment(dir), gateway.DEPUTY, "serve", "-c", file }
    local function tell_token(before)
      local fd = gateway.wait_until(function() return (uv.fs_open(token, nonblock, 0)) end)
      assert(fd, "nobody reads the token")
      if before then before() end
      uv.fs_write(fd, "tok-house\n")
      uv.fs_close(fd)
    end
    tell_token(function() p:signal("sighup") end) -- it reads its configuration
    assert.is_truthy(p:wait_for("msg=listening", 5000))
    tell_token()
    assert.is_truthy(p:wait_for("msg=reloaded", 5000))
    p:signal("sigterm")
    assert.equal(0, p:wait(5000).status)
  end)

  it("is given up when the gateway ends meanwhile", function()
    local dir = tmp.dir()
    local script = tmp.write(dir, "p.lua", SLOW:format(1000000, "a"))
    local gw = gateway.start(config{ policy = { script = script, verify = "warn" } })
    gw:signal("sighup")
    uv.sleep(50)
    assert.equal(0, gw:stop())
  end)
end)

describe("a port", function()
  it("belongs to one of the processes that want it at once, workers or not", function()
    local gw = gateway.start(config())
    local port = gw.address
    gw:stop()
    local dir, all = tmp.dir(), {}
    for i = 1, 5 do
      local file = tmp.write(dir, i .. ".json", cjson.encode(config{ gateway = { listen = port, workers = 2 } }))
      all[i] = shell.start{ env = gateway.environment(dir), gateway.DEPUTY, "serve", "-c", file }
    end
    local ended = {}
    local one_is_left = shell.turn(function()
      for i, each in ipairs(all) do ended[i] = ended[i] or each:wait(1) end
      local n = 0
      for i = 1, 5 do n = n + (ended[i] and 1 or 0) end
      return n >= 4
    end, 15000)
    assert.is_true(one_is_left)
    for i = 1, 5 do
      if ended[i] then
        assert.equal(1, ended[i].status)
        assert.matches("cannot listen on [^\n]*address already in use\n", ended[i].stderr)
      else
        all[i]:signal("sigterm")
        assert.equal(0, all[i]:wait(5000).status)
      end
    end
  end)
end)
