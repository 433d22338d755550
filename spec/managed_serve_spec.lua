-- deputy serve and deputy ask with a provider whose server deputy starts itself: real child processes with real HTTP
-- servers, seen from where a caller and an operator stand.
local uv = require "luv"
local lfs = require "lfs"
local cjson = require "cjson"
local client = require "spec.support.client"
local gateway = require "spec.support.gateway"
local peers = require "spec.support.peers"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local BUILD = assert(uv.fs_realpath(os.getenv("DEPUTY_BUILD") or "build"))
local DEPUTY, SERVER = BUILD .. "/deputy", BUILD .. "/spec/support/model_server"
local OUTAGE = { status = 503, json = { error = { message = "the central is down", type = "outage" } } }

local central, dir, things

local function start_central()
  central = peers.central{
    llms = { claude = {}, opus = {} }, inference = OUTAGE,
    tokens = { ["tok-a"] = { view = { "claude", "opus" } }, ["tok-b"] = {} },
  }
end

-- What the model servers have noted: { { "start", "123" }, { "post", "236" }, ... }
local function notes(what)
  local list = {}
  for word, value in (lfs.attributes(things) and tmp.read(things) or ""):gmatch("(%a+) ?(%d*)\n") do
    if not what or word == what then list[#list + 1] = { word, value } end
  end
  return list
end

local function count(what) return #notes(what) end

local function command(...)
  return { SERVER, "--port", "{port}", "--log", things, ... }
end

local function provider(fields, ...)
  local all = { name = "tiny", type = "managed", command = command(...), failoverFor = "claude", stopGraceSeconds = 1 }
  for field, value in pairs(fields or {}) do all[field] = value end
  return all
end

local function config(providers, more)
  local all = {
    central = { url = central.url, bearerToken = "tok-a" }, providers = providers,
    policy = { settings = { retries = 0, breaker = false } },
  }
  for section, fields in pairs(more or {}) do all[section] = fields end
  return all
end

local function start(fields, more, ...)
  return gateway.start(config({ provider(fields, ...) }, more), { dir = dir })
end

local function is_there(pid)
  local stat = lfs.attributes("/proc/" .. pid) and io.open("/proc/" .. pid .. "/stat")
  local line = stat and stat:read("a")
  if stat then stat:close() end
  return line and line:match("%) (%a)") ~= "Z" or false
end

-- All processes that the model servers have named.
local function family()
  local pids = {}
  for _, note in ipairs(notes()) do
    if note[1] == "start" or note[1]:find("child$") then pids[#pids + 1] = note[2] end
  end
  return pids
end

local function parent(pid)
  return tmp.read("/proc/" .. pid .. "/stat"):match("%) %a (%d+)")
end

local function all_gone(pids)
  return gateway.wait_until(function()
    for _, pid in ipairs(pids) do
      if is_there(pid) then return false end
    end
    return true
  end, 10000)
end

-- n requests at once, sent before the first is answered; their replies.
local function crowd(gw, n, headers)
  local open = {}
  for i = 1, n do
    open[i] = client.open(gw.address, 15000)
    open[i]:send(client.request{
      method = "POST", path = "/v1/chat/completions", headers = headers,
      json = { model = "claude", messages = { { role = "user", content = "hi" } } },
    })
  end
  local replies = {}
  for i = 1, n do
    replies[i] = open[i]:read_reply()
    open[i]:close()
  end
  return replies
end

local function answer_of(reply)
  return reply.status == 200 and cjson.decode(reply.body).choices[1].message.content or reply.body
end

before_each(function()
  dir = tmp.dir()
  things = dir .. "/things"
  start_central()
end)

after_each(function()
  gateway.stop_all()
  peers.stop_all()
  assert.is_true(all_gone(family()))
end)

describe("a managed provider behind deputy serve", function()
  it("is not started until a caller needs it, and may", function()
    local gw = start()
    central:set{ inference = false, tokens = { ["tok-a"] = { run = { "claude" } } } }
    assert.equal("Hello from central", answer_of(gw:chat()))
    central:set{ inference = OUTAGE }
    local refused = gw:chat({}, { Authorization = "Bearer tok-b" }) -- the probe says 403
    assert.equal(503, refused.status)
    assert.equal("the central is down", cjson.decode(refused.body).error.message)
    assert.equal(0, count())
    central:grant("tok-a", "claude", "view")
    local reply = gw:chat()
    assert.equal("hello from " .. notes("start")[1][2], answer_of(reply))
    assert.same({ "true", "tiny" }, { reply.headers["x-deputy-failover"], reply.headers["x-deputy-via"] })
  end)

  it("is started once for a crowd on several workers, and answers all of it", function()
    local gw = start({ maxConcurrent = 8 }, { gateway = { workers = 2 } }, "--slow", "400", "--slow-post", "2")
    for _, reply in ipairs(crowd(gw, 50)) do
      assert.equal("hello from " .. notes("start")[1][2], answer_of(reply))
    end
    assert.same({ 1, 50 }, { count("start"), count("post") })
  end)

  it("turns away those for whom there is no place any more", function()
    local gw = start({ maxConcurrent = 1, maxQueued = 2 }, nil, "--slow", "800")
    local by_status = {}
    for _, reply in ipairs(crowd(gw, 8)) do by_status[reply.status] = (by_status[reply.status] or 0) + 1 end
    -- Those get what the central said: there is nobody else to answer.
    assert.same({ [200] = by_status[200], [503] = 8 - by_status[200] }, by_status)
    assert.is_true(by_status[200] >= 2 and by_status[200] <= 3, by_status[200])
    assert.equal(1, count("start"))
  end)

  it("hears nothing from a caller who was revoked while it loaded: that one gets the central's own error", function()
    local gw = start({}, { policy = { permitMs = 200, settings = { retries = 0, breaker = false } } }, "--slow", "1200")
    local c = client.open(gw.address, 15000)
    c:send(client.request{ method = "POST", path = "/v1/chat/completions",
      json = { model = "claude", messages = { { role = "user", content = "hi" } } } })
    assert.is_true(gateway.wait_until(function() return count("start") == 1 end, 5000))
    central:revoke("tok-a", "claude")
    local reply = c:read_reply()
    c:close()
    assert.same({ 503, "the central is down" }, { reply.status, cjson.decode(reply.body).error.message })
    assert.equal(0, count("post"))
    assert.is_true(central:count("HEAD") >= 2)
  end)

  it("is started beforehand when that is wanted", function()
    start{ prewarm = "at-start" }
    assert.is_true(gateway.wait_until(function() return count("start") == 1 end, 5000))
    assert.equal(0, central:count())
  end)

  it("is started by an outage when that is wanted, and even then hears nothing from a caller who may not", function()
    local gw = start{ prewarm = "on-failure" }
    local refused = gw:chat({}, { Authorization = "Bearer tok-b" })
    assert.same({ 503, "the central is down" }, { refused.status, cjson.decode(refused.body).error.message })
    assert.is_true(gateway.wait_until(function() return count("start") == 1 end, 5000))
    assert.equal(0, count("post"))
  end)

  it("is stopped when nobody uses it, and started again for the next caller", function()
    local gw = start{ idleTimeoutMinutes = 0.005 }
    assert.equal(200, gw:chat().status)
    assert.is_true(all_gone(family()))
    assert.equal(200, gw:chat().status)
    assert.equal(2, count("start"))
  end)

  it("gets its key in its environment, which alone opens it; --commands and the log show none", function()
    local model = tmp.write(dir, "model.lua", [[
      local socket, key, seen = require "socket", os.getenv "MODEL_KEY", io.open(arg[2], "a")
      local server = assert(socket.bind("127.0.0.1", tonumber(arg[1])))
      seen:write("start ", key, "\n") seen:flush()
      while true do
        local c = server:accept()
        local head, length, sent = c:receive("*l"), 0, nil
        for line in function() return c:receive("*l") end do
          if line == "" then break end
          length = tonumber(line:match("^[Cc]ontent%-[Ll]ength: (%d+)")) or length
          sent = line:match("^[Aa]uthorization: Bearer (.*)") or sent
        end
        if length > 0 then c:receive(length) end -- of 0 it would wait for more
        if head:find("^POST") then seen:write("post ", sent or "none", "\n") seen:flush() end
        local body = '{"choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}]}'
        c:send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n")
        c:send(("Content-Length: %d\r\n\r\n%s"):format(#body, body))
        c:close()
      end]])
    local seen = dir .. "/seen"
    local gw = start{ command = { "lua5.4", model, "{port}", seen }, env = { MODEL_KEY = "{apiKey}" } }
    assert.equal(200, gw:chat().status)
    gw:signal("sighup")
    assert.is_truthy(gw:wait_log("reloaded"))
    assert.equal(200, gw:chat().status)
    local key = tmp.read(seen):match("^start (%x+)\n")
    assert.equal(64, #key)
    assert.equal(("start %s\npost %s\npost %s\n"):format(key, key, key), tmp.read(seen))
    assert.is_nil(gw:log():find(key, 1, true))
    assert.is_nil(gw:ask{ path = "/page.json" }.body:find(key, 1, true))
    gw:stop()
    dir = tmp.dir()
    gw = start{ command = { "lua5.4", model, "{port}", seen }, env = { MODEL_KEY = "{apiKey}" } }
    assert.equal(200, gw:chat().status)
    assert.is_nil(tmp.read(seen):match("\nstart (%x+)\n"):find(key, 1, true), "another start has another key")
  end)

  it("is kept by a reload that does not touch it, and exchanged by one that does", function()
    local gw = start()
    assert.equal(200, gw:chat().status)
    local first = notes("start")[1][2]
    local more = config({ provider{ failoverFor = { "claude", "opus" } } }, { timeouts = { probeMs = 1500 } })
    gw:write(more)
    gw:signal("sighup")
    assert.is_truthy(gw:wait_log("reloaded"))
    assert.equal("hello from " .. first, answer_of(gw:chat{ model = "opus" }))
    assert.equal(1, count("start"))
    gw:write(config{ provider({}, "--print", "another") })
    gw:signal("sighup")
    assert.is_truthy(gw:wait_log("reloaded.*reloaded"))
    assert.is_true(all_gone{ first })
    local answer = answer_of(gw:chat())
    assert.equal("hello from " .. notes("start")[2][2], answer)
    gw:write(config{ { name = "e", type = "echo" } })
    gw:signal("sighup")
    assert.is_true(all_gone(family()))
  end)

  it("is exchanged on a port of its own, too", function()
    local port = peers.start{}.port
    peers.stop_all()
    start_central()
    local gw = start({ port = port, restart = false }, nil, "--slow-post", "700")
    local open = client.open(gw.address, 15000)
    open:send(client.request{
      method = "POST", path = "/v1/chat/completions",
      json = { model = "claude", messages = { { role = "user", content = "hi" } } },
    })
    assert.is_true(gateway.wait_until(function() return count("post") == 1 end, 5000))
    gw:write(config{ provider({ port = port, restart = false }, "--print", "another") })
    gw:signal("sighup")
    assert.is_truthy(gw:wait_log("reloaded"))
    local answer = answer_of(gw:chat()) -- while the old one still serves: this caller waits for the new one
    local starts = notes("start")
    assert.equal("hello from " .. starts[1][2], answer_of(open:read_reply()))
    assert.equal(2, #starts)
    assert.equal("hello from " .. starts[2][2], answer)
    open:close()
  end)

  it("says why it failed, and the caller gets the central's error", function()
    local gw = start({ command = { SERVER, "--port", "{port}", "--exit", "3" },
      restart = { attempts = 2, backoffMs = 10 } })
    local reply = gw:chat()
    assert.same({ 503, "the central is down" }, { reply.status, cjson.decode(reply.body).error.message })
    assert.is_truthy(gw:wait_log("exit status 3"))
  end)
end)

describe("an operator", function()
  local function providers(gw, ...)
    local path = gw.dir .. ":" .. os.getenv("PATH")
    return shell.run{
      cwd = gw.dir, timeout_ms = 15000,
      env = { DEPUTY_LUA = uv.cwd() .. "/lua", XDG_RUNTIME_DIR = gw.dir, PATH = path },
      DEPUTY, "providers", "-c", gw.config, ...,
    }
  end

  local function facts(gw)
    return cjson.decode(providers(gw, "--json").stdout)[1]
  end

  local function wait_state(gw, state)
    local found
    assert.is_true(gateway.wait_until(function()
      found = facts(gw)
      return found.state == state
    end, 8000), state .. ", but it is " .. tostring(found.state))
    return found
  end

  it("starts, stops and restarts it through the running host", function()
    local gw = start({}, nil, "--print", "loaded")
    local r = providers(gw, "start", "tiny")
    assert.same({ 0, "tiny is being started; 'deputy providers' shows how it goes\n", "" },
      { r.status, r.stdout, r.stderr })
    local first = wait_state(gw, "ready")
    assert.equal(notes("start")[1][2], ("%d"):format(first.pid))
    assert.equal(0, providers(gw, "restart", "tiny").status)
    assert.is_true(all_gone{ ("%d"):format(first.pid) })
    local second = wait_state(gw, "ready")
    assert.same({ 2, 0, 1 }, { second.starts, second.crashes, second.stops })
    assert.matches(("loaded\n.*%%-%%- started, process %d %%-%%-\nloaded\n"):format(second.pid), "\n" .. second.output)
    assert.equal(1, select(2, second.output:gsub("started, process", "")))
    assert.equal(0, providers(gw, "stop", "tiny").status)
    local stopped = wait_state(gw, "stopped")
    assert.same({ 0, 0, 2 }, { stopped.pid, stopped.uptimeMs, stopped.stops })
    assert.is_true(all_gone(family()))
    assert.equal(200, gw:chat().status) -- the next caller starts it again
    assert.equal(3, count("start"))
    assert.equal(0, central:count("GET"))
  end)

  it("is refused in words where there is nothing to be asked or nobody to ask", function()
    local gw = gateway.start(config{ provider(), { name = "e", type = "echo" } }, { dir = dir })
    local function refused(...)
      local r = providers(gw, ...)
      assert.equal("", r.stdout)
      return { r.status, r.stderr:match("^deputy providers: ([^\n]*)") }
    end
    assert.same({ 1, "'e' is not a provider that deputy starts or stops" }, refused("start", "e"))
    assert.same({ 1, "there is no provider 'none/../x'" }, refused("stop", "none/../x"))
    assert.same({ 1, "there is no provider 'tinny': did you mean 'tiny'?" }, refused("restart", "tinny"))
    assert.same({ 2, "expected 'restart NAME'" }, refused("restart"))
    assert.same({ 2, "unknown operand 'strat': did you mean 'start'?" }, refused("strat"))
    assert.same({ 2, "unexpected argument 'x'" }, refused("discover", "x"))
    gw:stop()
    local nobody = refused("start", "tiny")
    assert.equal(1, nobody[1])
    assert.matches("^no 'deputy serve' runs with this configuration: nobody answers at unix:", nobody[2])
    assert.equal(0, count())
  end)

  it("sees state, process, memory, GPU and the last lines of output", function()
    -- nvidia-smi of a machine with a GPU, on which the model server has a child that computes.
    local smi = tmp.write(dir, "nvidia-smi", "#!/bin/sh\nsed -n 's/^child \\(.*\\)$/\\1, 512/p' " .. things
      .. "\necho '1, 4096'\necho '77, [N/A]'\n")
    uv.fs_chmod(smi, 448)
    local gw = start({ model = "m" }, nil, "--family", "--print", "loaded \27[2Jthe model")
    assert.equal(200, gw:chat().status)
    local found = facts(gw)
    assert.same({ "ready", "tiny", true, 1, 0, 0, 0 },
      { found.state, found.name, found.available, found.starts, found.crashes, found.active, found.queued })
    assert.is_true(found.memoryBytes > 100000 and found.uptimeMs > 0 and found.port > 0 and found.readySeconds > 0)
    assert.equal(512 * 1024 * 1024, found.gpuBytes)
    assert.matches("loaded", found.output)
    local text = providers(gw).stdout
    assert.matches("\ntiny: ready, up %d s, pid %d+, port %d+, 0 runs, 0 waiting, memory [%d.]+ MiB, GPU 512.0 MiB; "
      .. "1 starts, 0 crashes, ready after [%d.]+ s\n  | loaded  %[2Jthe model\n", text)
    assert.is_nil(text:find("\27", 1, true))
  end)

  it("waits for no nvidia-smi that hangs", function()
    uv.fs_chmod(tmp.write(dir, "nvidia-smi", "#!/bin/sh\nexec sleep 60\n"), 448)
    local gw = start()
    assert.equal(200, gw:chat().status)
    local r = providers(gw)
    assert.matches("\ntiny: ready, ", r.stdout)
    assert.is_nil(r.stdout:find("GPU", 1, true))
    assert.is_true(r.us < 6000000)
  end)

  it("sees what goes wrong", function()
    local gw = start({ restart = false }, nil, "--print", "no such GPU", "--exit", "7")
    assert.equal(503, gw:chat().status)
    local found = wait_state(gw, "failed")
    assert.same({ "exit status 7", 1 }, { found.lastExit, found.crashes })
    local text = providers(gw).stdout
    assert.matches("\ntiny: failed; 1 starts, 1 crashes\n  last exit: exit status 7\n  problem: [^\n]+\n", text)
    assert.matches("\n  | no such GPU\n  | model_server: told to end at once\n", text)
  end)

  it("finds it on the page and in the metrics, once for all workers", function()
    local gw = start({}, { gateway = { workers = 2 } }, "--print", "a <b>last</b> line")
    assert.equal(200, gw:chat().status)
    local seen = gw:ask{ path = "/page.json" }.json.providers[1]
    assert.same({ "ready", 1, 0, 0, "a <b>last</b> line\n" },
      { seen.state, seen.starts, seen.active, seen.queued, seen.lastLines })
    assert.is_nil(seen.output)
    local text = gw:ask{ path = "/metrics" }.body
    for _, line in ipairs{
      'deputy_provider_state{provider="tiny",state="ready"} 1',
      'deputy_provider_state{provider="tiny",state="stopped"} 0',
      'deputy_provider_starts_total{provider="tiny"} 1', 'deputy_provider_crashes_total{provider="tiny"} 0',
      'deputy_provider_stops_total{provider="tiny"} 0', 'deputy_provider_active{provider="tiny"} 0',
      'deputy_provider_queued{provider="tiny"} 0',
    } do
      local _, times = text:gsub("%f[^\n]" .. line:gsub("%p", "%%%0") .. "\n", "")
      assert.equal(1, times, line)
    end
    assert.matches('\ndeputy_provider_start_duration_seconds{provider="tiny"} 0%.%d+\n', text)
    assert.matches('\ndeputy_provider_memory_bytes{provider="tiny"} %d%d%d%d%d+\n', text)
  end)
end)

describe("the page", function()
  it("has a row for each such server, and its last lines as text", function()
    if shell.run{ "sh", "-c", "command -v chromium" }.status ~= 0 then return pending("no chromium is installed") end
    local gw = gateway.start(config{
      provider({}, "--print", "a <b>last</b> line"),
      provider({ name = "bad", failoverFor = "opus", prewarm = "at-start", restart = false }, "--exit", "3"),
    }, { dir = dir })
    assert.equal(200, gw:chat().status)
    assert.is_truthy(gw:wait_log("exit status 3"))
    local r = shell.run{ "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000",
      "--user-data-dir=" .. dir .. "/browser", "--dump-dom", "http://" .. gw.address .. "/", timeout_ms = 30000 }
    local rows = r.stdout:match('<tbody id="server%-rows">(.-)</tbody>')
    assert.is_truthy(rows, r.stdout:sub(1, 2000))
    local text = rows:gsub("</tr>", "\n"):gsub("</t[dh]>", "|"):gsub("</div>", " "):gsub("<[^>]*>", "")
    assert.matches("\ntiny|ready, up %d+ s|pid %d+, port %d+|0|[%d.]+ MiB|1, 0 crashesready after [%d.]+ m?s |\n", text)
    assert.matches("^bad|failed[^|\n]*exit status 3 |–|0|–|1, 1 crashlast: exit status 3 |\n", text)
    assert.matches("\na &lt;b&gt;last&lt;/b&gt; line|\n", text)
  end)
end)

describe("nothing is left behind", function()
  -- A child in the group, and a grandchild that forked twice and left it; both ignore SIGTERM.
  local function serve_a_family()
    local gw = start({ stopGraceSeconds = 0.3 }, nil, "--family")
    assert.equal(200, gw:chat().status)
    assert.is_true(gateway.wait_until(function() return #family() >= 3 end, 5000))
    local pids = family()
    pids[#pids + 1] = parent(pids[1])
    for _, pid in ipairs(pids) do assert.is_true(is_there(pid), pid) end
    return gw, pids
  end

  it("when deputy serve is ended", function()
    local gw, pids = serve_a_family()
    assert.equal(0, gw:stop())
    assert.is_true(all_gone(pids))
  end)

  it("and the next deputy serve finds its port and its GPU free", function()
    local port = peers.start{}.port
    peers.stop_all()
    start_central()
    local fields = { port = port, restart = false }
    local gw = start(fields, nil, "--ignore-term")
    assert.equal(200, gw:chat().status)
    assert.equal(0, gw:stop())
    local is_left = is_there(notes("start")[1][2])
    gw = gateway.start(config{ provider(fields) }, { dir = tmp.dir() })
    assert.equal(200, gw:chat().status)
    assert.is_false(is_left)
  end)

  local function ends_soon(gw, pid)
    assert.equal(0, gw:wait(1500))
    assert.is_true(is_there(pid)) -- and its supervisor sees to the rest
  end

  it("though deputy serve waits for it no longer than it drains, or than it is asked twice", function()
    local gw = start({ stopGraceSeconds = 3 }, { gateway = { drainMs = 100 } }, "--ignore-term")
    assert.equal(200, gw:chat().status)
    gw:signal("sigterm")
    ends_soon(gw, notes("start")[1][2])
    gw = gateway.start(config{ provider({ stopGraceSeconds = 3 }, "--ignore-term") }, { dir = tmp.dir() })
    assert.equal(200, gw:chat().status)
    gw:signal("sigterm")
    assert.is_truthy(gw:wait_log("draining"))
    assert.is_nil(gw:wait(500))
    gw:signal("sigterm")
    ends_soon(gw, notes("start")[2][2])
  end)

  it("when deputy serve is killed with -9", function()
    local gw, pids = serve_a_family()
    gw:signal("sigkill")
    gw:wait()
    assert.is_true(all_gone(pids))
  end)

  it("when deputy ask is interrupted while the model loads", function()
    local path = tmp.write(dir, "deputy.json", cjson.encode(config{ provider({}, "--never", "--family") }))
    local ask = shell.start{ DEPUTY, "ask", "-c", path, "claude", "hi", env = { DEPUTY_LUA = uv.cwd() .. "/lua" } }
    assert.is_true(gateway.wait_until(function() return #family() >= 3 end, 5000))
    ask:signal("sigint")
    assert.equal(130, ask:wait(5000).status)
    assert.is_true(all_gone(family()))
  end)
end)

describe("deputy ask", function()
  local function ask(fields, ...)
    local path = tmp.write(dir, "deputy.json", cjson.encode(config{ provider(fields, ...) }))
    return { DEPUTY, "ask", "-c", path, "claude", "hi", env = { DEPUTY_LUA = uv.cwd() .. "/lua", TERM = "xterm" },
      timeout_ms = 20000 }
  end

  it("starts the server when it is needed and stops it at the end", function()
    local r = shell.run(ask())
    assert.equal("hello from " .. notes("start")[1][2] .. "\n", r.stdout)
    assert.is_true(all_gone(family()))
  end)

  it("says why the server did not start", function()
    local r = shell.run(ask({ restart = false }, "--exit", "3"))
    assert.same({ 1, "" }, { r.status, r.stdout })
    assert.matches("deputy: warning: tiny: [^\n]*exit status 3", r.stderr)
    assert.matches("deputy ask: claude: the central answered 503 %(outage%): the central is down", r.stderr)
  end)

  it("hands no control character of another's words to the terminal, however it is encoded", function()
    central:set{ inference = { status = 503, json = { error = { message = "down \u{9b}2J\27[2J", type = "outage" } } } }
    local r = shell.run(ask({ restart = false }, "--print", "no \u{9b}31mweights", "--exit", "3"))
    assert.matches("the central answered 503 %(outage%): down  2J %[2J\n", r.stderr)
    assert.matches("| no  31mweights\n", r.stderr)
    assert.is_nil(r.stderr:find("\xc2\x9b", 1, true))
  end)

  it("shows the last lines of a server that failed", function()
    local r = shell.run(ask({ restart = false }, "--print", "no weights \27[31mhere", "--exit", "3"))
    assert.equal(1, r.status)
    assert.matches("'tiny' was allowed to stand in, but failed too %(connect%); 'deputy providers' shows how it is\n"
      .. "  | no weights  %[31mhere\n", r.stderr)
  end)

  it("starts nothing beforehand, whatever prewarm says", function()
    central:set{ inference = false, tokens = { ["tok-a"] = { run = { "claude" } } } }
    local r = shell.run(ask{ prewarm = "at-start" })
    assert.equal("Hello from central\n", r.stdout)
    assert.equal(0, count())
  end)

  it("shows on a terminal that a model loads, and what its server wrote last", function()
    local spec = ask({}, "--slow", "900", "--print", "loading \27[31mweights \u{9b}2J\u{e9}")
    local words = {}
    for i, word in ipairs(spec) do words[i] = "'" .. word .. "'" end
    local line = table.concat(words, " ") .. " > " .. dir .. "/answer"
    local r = shell.run{ "script", "-qec", line, "/dev/null", env = spec.env, cwd = dir, timeout_ms = 20000 }
    assert.equal(0, r.status, r.stdout)
    assert.matches("\rstarting tiny 0%.%d s: loading  %[31mweights   2J\u{e9}\27%[K", r.stdout)
    assert.matches("\r\27%[Kdeputy ask: 'tiny' stood in for 'claude' %(the central: 503%)\r\n$", r.stdout)
  end)
end)

describe("deputy check", function()
  it("warns of programs, folders and models that are not there", function()
    local path = tmp.write(dir, "deputy.json", cjson.encode(config{
      { name = "a", type = "managed", command = { "no-such-server", "{port}" }, cwd = dir .. "/none" },
      { name = "b", type = "llama-server", model = "none.gguf", executable = "./none" },
      { name = "c", type = "managed", command = { "sh" }, cwd = dir, env = { PORT = "{port}" } },
      { name = "d", type = "managed", command = { "sh" } },
      { name = "e", type = "managed", command = { "sh" }, port = 8001 },
    }))
    local r = shell.run{ DEPUTY, "check", "-c", path, env = { DEPUTY_LUA = uv.cwd() .. "/lua" } }
    assert.equal(0, r.status)
    local lines = {}
    for line in r.stderr:gmatch("[^\n]+") do lines[#lines + 1] = line:match("^[^ ]*: (providers.*)$") end
    assert.same({
      "providers[0]: warning: there is no program no-such-server in PATH: it is not installed yet, or elsewhere",
      ("providers[0].cwd: warning: %s/none: No such file or directory"):format(dir),
      ("providers[1]: warning: there is no program %s/./none: it is not installed yet, or elsewhere"):format(dir),
      ("providers[1].model: warning: cannot read %s/none.gguf: No such file or directory"):format(dir),
      "providers[3].command: warning: nothing tells the server its port, which is another one at each start: "
        .. "put {port} into command or env, or set port",
    }, lines)
  end)
end)
