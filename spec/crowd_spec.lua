-- Many at once before deputy serve: callers that do not read, that do nothing, that never finish asking. Small here, in
-- full size in make soak.
--   CROWD_FULL   the full sizes: 200 readers of 50 MB, 10,000 idle streams, 500 that drip
local lfs = require "lfs"
local uv = require "luv"
local client = require "spec.support.client"
local crowd = require "spec.support.crowd"
local gateway = require "spec.support.gateway"
local peers = require "spec.support.peers"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local FULL = os.getenv("CROWD_FULL") == "1"
local SANITIZED = os.getenv("LUA_PRELOAD") ~= nil
local TOKEN = "tok-house-very-secret"

local STALLED = FULL and 200 or 50
local STALLED_MIB = FULL and 50 or 5
local STALLED_KIB_EACH = 256 -- a caller's queue, libcurl's buffer, and what was read when the queue was found full
local IDLE = FULL and 10000 or 500
local IDLE_KIB_EACH = 40
local DRIPPING = FULL and 500 or 100
local WAIT_MS = FULL and 240000 or 15000

local HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
local function chunk(text) return { send = ("%x\r\n%s\r\n"):format(#text, text) } end
local function event(delta)
  return 'data: {"choices":[{"index":0,"delta":' .. delta .. ',"finish_reason":null}]}\n\n'
end
local ROLE, WORD = event '{"role":"assistant","content":""}', event '{"content":"word"}'
local MIB = event('{"content":"' .. ("x"):rep(1048576 - 100) .. '"}')
local STOP = chunk 'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
local LAST = { send = "0\r\n\r\n" }

local function request(stream)
  return client.request{ path = "/v1/chat/completions", json = {
    model = "claude", stream = stream, messages = { { role = "user", content = "hi" } },
  } }
end

local function status_kib(pid, field)
  return tonumber(tmp.read("/proc/" .. pid .. "/status"):match(field .. ":%s*(%d+)"))
end

local function cpu_ticks(pid)
  local user, system = tmp.read("/proc/" .. pid .. "/stat"):match("%) %S+ " .. ("%S+ "):rep(10) .. "(%d+) (%d+)")
  return user + system
end

local function descriptors(pid)
  local count = 0
  for _ in lfs.dir("/proc/" .. pid .. "/fd") do count = count + 1 end
  return count
end

-- Raises the limit of open files for the processes that are started from here on; what it is then.
local function may_open(files)
  local pid = ("%d"):format(uv.os_getpid())
  for _, limit in ipairs{ files .. ":", files .. ":" .. files } do
    if shell.run{ "prlimit", "--pid", pid, "--nofile=" .. limit }.status == 0 then return files end
  end
  local hard = math.tointeger(tonumber(tmp.read("/proc/self/limits"):match("Max open files%s+%d+%s+(%d+)")))
  shell.run{ "prlimit", "--pid", pid, "--nofile=" .. hard .. ":" }
  return hard
end

local central

local function start(settings, options)
  return gateway.start({
    central = { url = central.url, bearerToken = TOKEN },
    policy = { settings = { retries = 0, breaker = false } },
    timeouts = { idleMs = 600000, firstTokenMs = 600000, totalMs = 600000 },
    gateway = settings,
  }, options)
end

local function start_central(inference)
  central = peers.central{
    llms = { claude = {} }, tokens = { [TOKEN] = { view = { "*" }, run = { "*" } } }, inference = inference,
  }
end

after_each(function()
  crowd.stop_all()
  gateway.stop_all()
  peers.stop_all()
end)

describe("deputy serve", function()
  it("may have as many files open as the system lets it", function()
    start_central()
    local gw = start({}, { ulimit = 200 })
    local soft, hard = tmp.read("/proc/" .. gw.pid .. "/limits"):match("Max open files%s+(%d+)%s+(%d+)")
    assert.equal(hard, soft)
    assert.is_true(tonumber(soft) > 200)
  end)

  it("that has no descriptor left says so, does not spin, and goes on when there are some", function()
    start_central()
    local gw = start({}, { ulimit = 60, hard = true })
    local open = {}
    for i = 1, 80 do open[i] = gw:open() end
    uv.sleep(200)
    local before = cpu_ticks(gw.pid)
    uv.sleep(500)
    assert.is_true(cpu_ticks(gw.pid) - before < 10)
    -- one that came in before: the central cannot be reached for it
    open[1]:send(request(false))
    local reply = assert(open[1]:read_reply())
    assert.same({ 502, 0 }, { reply.status, central:count("POST") }, reply.body)
    open[80]:send(request(false)) -- one that came too late was told at once
    assert.equal(503, assert(open[80]:read_reply()).status)
    for i = 1, 50 do open[i]:close() end
    assert.is_truthy(gateway.wait_until(function()
      local ok, again = pcall(gw.chat, gw)
      return ok and again.status == 200
    end))
    for i = 51, 80 do open[i]:close() end
  end)

  it(("is no larger for %d readers of %d MB that stall"):format(STALLED, STALLED_MIB), function()
    start_central{ { send = HEAD }, chunk(ROLE),
      { repeat_send = ("%x\r\n%s\r\n"):format(#MIB, MIB), times = STALLED_MIB }, STOP, LAST }
    local gw = start{ maxConnections = STALLED + 10, maxInFlight = STALLED + 10 }
    gw:ask{ path = "/healthz" }
    local before = status_kib(gw.pid, "RssAnon")
    local readers = crowd.start{ address = gw.address, count = STALLED, manner = "stall", request = request(true) }
    assert.same({ STALLED, 0 }, { readers:wait(WAIT_MS) })
    uv.sleep(FULL and 5000 or 1000)
    local after = status_kib(gw.pid, "RssAnon")
    local each = (after - before) / STALLED
    assert.is_true(each < STALLED_KIB_EACH or SANITIZED, ("%.1f KiB each"):format(each))
    if FULL then print(("# %d stalled readers of %d MB: %.1f KiB each"):format(STALLED, STALLED_MIB, each)) end
    uv.sleep(FULL and 5000 or 500)
    local later = status_kib(gw.pid, "RssAnon")
    assert.is_true(later <= after * 1.01, ("%d KiB, then %d"):format(after, later))
    -- and in the end each gets all of it
    readers:read_on()
    local totals
    gateway.wait_until(function()
      totals = readers:totals()
      return totals.ended == STALLED
    end, WAIT_MS)
    assert.equal(STALLED, totals.complete)
    assert.is_true(totals.bytes > STALLED * STALLED_MIB * 1048000, totals.bytes)
  end)

  it(("holds %d idle streams at %d KiB each"):format(IDLE, IDLE_KIB_EACH), function()
    -- A stream is two descriptors here, one on either side; as many as the system allows.
    local count = math.min(IDLE, (may_open(2 * IDLE + 200) - 200) // 2)
    start_central{ { send = HEAD }, chunk(ROLE .. WORD), { stall = true } }
    local gw = start{ maxConnections = count + 10, maxInFlight = count + 10 }
    gw:ask{ path = "/healthz" }
    local before, files = status_kib(gw.pid, "RssAnon"), descriptors(gw.pid)
    local callers = crowd.start{ address = gw.address, count = count, manner = "idle", request = request(true) }
    assert.same({ count, 0 }, { callers:wait(WAIT_MS) })
    local each = (status_kib(gw.pid, "RssAnon") - before) / count
    if FULL then print(("# %d idle streams: %.1f KiB each"):format(count, each)) end
    assert.is_true(each <= IDLE_KIB_EACH or SANITIZED, ("%.1f KiB each"):format(each))
    assert.is_truthy(gw:ask{ path = "/metrics" }.body:find("streams_open " .. count, 1, true))
    callers:stop()
    assert.is_truthy(gateway.wait_until(function() return descriptors(gw.pid) <= files + 2 end, WAIT_MS),
      "descriptors are left open")
    assert.equal(200, gw:ask{ path = "/healthz" }.status)
  end)

  it(("serves a good request at once beside %d that drip"):format(DRIPPING), function()
    start_central()
    local gw = start{ maxConnections = DRIPPING + 10 }
    local callers = crowd.start{ address = gw.address, count = DRIPPING, manner = "drip", request = request(false) }
    assert.same({ DRIPPING, 0 }, { callers:wait(WAIT_MS) })
    local worst = 0
    for _ = 1, FULL and 20 or 5 do
      local began = peers.now_us()
      assert.equal(200, gw:chat().status)
      worst = math.max(worst, (peers.now_us() - began) / 1000)
      uv.sleep(300)
    end
    assert.is_true(worst < 1000, worst)
    if FULL then print(("# a good request beside %d that drip: %.1f ms at most"):format(DRIPPING, worst)) end
    -- whatever drips: the deadline for a head is absolute
    assert.is_truthy(gateway.wait_until(function() return callers:totals().ended == DRIPPING end, 13000))
  end)
end)
