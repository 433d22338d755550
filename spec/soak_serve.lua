-- A deputy serve under everything at once for SOAK_SECONDS: answers, streams, failovers, refusals, cuts, callers that
-- leave or do not read, connections kept and fresh, new configurations and a policy that is loaded anew. Ends with 1
-- when a reply was not what it had to be, when memory has grown by 1 % or more since the warm-up, or when descriptors
-- are left open. The warm-up is the first quarter, with four times as many reloads: the heap finds its size with them.
-- Before each reload everybody leaves for a moment, and that is when memory is looked at: what a reader that stalls
-- holds just then is more than the bound. In less than a minute memory is not judged.
--   SOAK_SECONDS (60)   SOAK_RATE requests a second at most (250)   SOAK_RELOAD_S between reloads
--   SOAK_PATIENCE_MS how long an upstream may say nothing (150)
package.path = "./lua/?.lua;./?.lua;" .. package.path
local uv = require "luv"
local cjson = require "cjson"
local lfs = require "lfs"
local client = require "spec.support.client"
local gateway = require "spec.support.gateway"
local peers = require "spec.support.peers"
local tmp = require "spec.support.tmp"

local SECONDS = tonumber(os.getenv("SOAK_SECONDS")) or 60
local RATE = tonumber(os.getenv("SOAK_RATE")) or 250
local RELOAD_S = tonumber(os.getenv("SOAK_RELOAD_S")) or math.max(2, SECONDS / 75)
local PATIENCE_MS = tonumber(os.getenv("SOAK_PATIENCE_MS")) or 150
local JUDGED_S, REST_MS = 60, 2500
local WARM_UP, WARM_UP_RELOADS = 0.25, 4
local GROWTH_PERCENT = 1
local TOKEN = "tok-caller-very-secret"
local OUTAGE = '{"error":{"message":"no capacity","type":"overloaded_error","code":"busy"}}'

-- The model's name says what the central does with a request.
local CENTRAL = [[
  local cjson = require "cjson"
  local HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
  local function delta(text)
    local event = 'data: {"choices":[{"index":0,"delta":' .. text .. ',"finish_reason":null}]}\n\n'
    return { send = ("%x\r\n%s\r\n"):format(#event, event) }
  end
  local ROLE, WORD = delta '{"role":"assistant","content":""}', delta '{"content":"word"}'
  local STALL, RESET = { stall = true }, { reset = true }
  return function(request, state)
    if request.method == "HEAD" then
      return { status = request.path:find("closed$") and 403 or 204 }
    end
    local name = request.method == "POST" and cjson.decode(request.body).model
    if name == "over" or name == "closed" then
      return { status = 503, headers = { ["Content-Type"] = "application/json" }, body = state.outage }
    end
    if name == "early" then return { { send = HEAD }, ROLE, RESET } end
    if name == "cut" then return { { send = HEAD }, ROLE, WORD, { wait_ms = 5 }, RESET } end
    if name == "silent" then return { STALL } end
    if name == "idle" then return { { send = HEAD }, ROLE, WORD, STALL } end
    if name == "endless" then
      return { { send = HEAD }, ROLE, WORD, { repeat_send = "2000\r\n: " .. ("x"):rep(8188) .. "\n\n\r\n" } }
    end
  end
]]

local NAMES = { "up", "over", "closed", "early", "cut", "silent", "idle", "endless" }
local llms = {}
for _, name in ipairs(NAMES) do llms[name] = {} end
local central = peers.central{
  llms = llms, tokens = { [TOKEN] = { view = { "*" }, run = { "*" } } }, script = CENTRAL, outage = OUTAGE,
}
local model = peers.openai{ models = { "qwen3" }, reply = "Stood in." }

local dir = tmp.dir()
local policy = dir .. "/router.lua"
local POLICY = tmp.read("lua/router.lua")
tmp.write(dir, "router.lua", POLICY)
local function configuration(n)
  return {
    central = { url = central.url },
    providers = { { name = "local", type = "openai", url = model.url .. "/v1", model = "qwen3", failoverFor = NAMES } },
    policy = { script = policy, settings = { retries = 0, breaker = { failures = 5, openMs = 300 + n % 2 } } },
    timeouts = { firstByteMs = PATIENCE_MS, firstTokenMs = PATIENCE_MS, idleMs = 20000 },
    gateway = { workers = 2 },
  }
end
local gw = gateway.start(configuration(0))

local function anonymous_kib()
  return tonumber(tmp.read("/proc/" .. gw.pid .. "/status"):match("RssAnon:%s*(%d+)"))
end

local function descriptors()
  local count = 0
  for _ in lfs.dir("/proc/" .. gw.pid .. "/fd") do count = count + 1 end
  return count
end

-- ---- what is asked

local function request(name, stream)
  return client.request{
    path = "/v1/chat/completions", headers = { Authorization = "Bearer " .. TOKEN },
    json = { model = name, stream = stream, messages = { { role = "user", content = "Hi" } } },
  }
end

local kept -- a connection that is used again
local function ask(name, stream, again)
  local c = again and kept or gw:open()
  kept = nil
  c:send(request(name, stream))
  local reply, why = c:read_reply()
  if again and reply and reply.complete and reply.headers.connection ~= "close" then
    kept = c
  else
    c:close()
  end
  return reply, why
end

local function is_answer(reply, by)
  return reply and reply.status == 200 and reply.complete and (reply.headers["x-deputy-via"] or "central") == by
end

local STOP = "data: [DONE]\n\n"
local function up(again)
  return function() return is_answer(ask("up", false, again), "central") end
end

local function leave(name, stream, how)
  return function()
    local c = gw:open()
    c:send(request(name, stream))
    if stream then c:read_head() end
    c[how](c)
    if how == "half_close" then c:close() end
    return true
  end
end

-- Each is done as often as its number says, in every round.
local scenes = {
  { 20, "up, again on one connection", up(true) },
  { 5, "up, on a new connection", up(false) },
  { 10, "a stream", function()
    local reply = ask("up", true, true)
    return is_answer(reply, "central") and reply.body:sub(-#STOP) == STOP
  end },
  { 10, "over", function() return is_answer(ask("over", false, true), "local") end },
  { 5, "over, a stream", function() return is_answer(ask("over", true), "local") end },
  { 5, "closed", function()
    local reply = ask("closed", false, true)
    return reply and reply.status == 503 and reply.body == OUTAGE
  end },
  { 5, "cut before output", function() return is_answer(ask("early", true), "local") end },
  { 5, "cut after output", function()
    local reply = ask("cut", true)
    -- Behind an open breaker the stand-in is asked first.
    return is_answer(reply, "local") or reply and not reply.complete and reply.body:find('data: {"error":', 1, true)
  end },
  { 1, "silent", function() return is_answer(ask("silent", false), "local") end },
  { 2, "leaves while the primary is waited for", leave("silent", false, "close") },
  { 2, "leaves an idle stream", leave("idle", true, "half_close") },
  { 2, "leaves an idle stream with a reset", leave("idle", true, "reset") },
  { 2, "does not read, then leaves", leave("endless", true, "close") },
  { 1, "a list", function()
    local reply = gw:ask{ path = "/v1/models", headers = { Authorization = "Bearer " .. TOKEN } }
    return reply.status == 200
  end },
  { 1, "not JSON", function() return gw:ask{ path = "/v1/chat/completions", body = "{" }.status == 415 end },
  { 1, "metrics", function() return gw:ask{ path = "/metrics" }.status == 200 end },
  { 1, "the page's data", function() return gw:ask{ path = "/page.json" }.status == 200 end },
}

local function reload(n)
  if n % 2 == 0 then
    tmp.write(dir, "router.lua", POLICY .. "-- " .. n .. "\n")
  else
    gw:write(configuration(n))
    gw:signal("sighup")
  end
end

-- ---- the run

local runs, wrong, reloads, round = 0, 0, 0, 0
local began = uv.hrtime()
local function elapsed() return (uv.hrtime() - began) / 1e9 end

local samples, stalled = {}, {}
local next_reload = RELOAD_S / WARM_UP_RELOADS

local function rest()
  for _, c in ipairs(stalled) do c:reset() end
  if kept then kept:close() end
  stalled, kept = {}, nil
  if SECONDS >= JUDGED_S then uv.sleep(REST_MS) end
  samples[#samples + 1] = { at = elapsed() / SECONDS, kib = anonymous_kib(), fds = descriptors() }
end

while elapsed() < SECONDS do
  round = round + 1
  for _, scene in ipairs(scenes) do
    for _ = 1, scene[1] do
      local ok, fine = pcall(scene[3])
      runs = runs + 1
      if not (ok and fine) then
        wrong = wrong + 1
        print(("%s: went wrong after %.0f s %s"):format(scene[2], elapsed(), ok and "" or tostring(fine)))
      end
      local ahead = runs / RATE - elapsed()
      if ahead > 0 then uv.sleep(math.floor(ahead * 1000)) end
    end
  end
  -- a few that read nothing for a while
  stalled[#stalled + 1] = gw:open()
  stalled[#stalled]:send(request("endless", true))
  if #stalled > 5 then table.remove(stalled, 1):reset() end
  central:clear()
  model:clear()
  if elapsed() > next_reload then
    rest()
    reloads = reloads + 1
    reload(reloads)
    next_reload = elapsed() + (elapsed() < SECONDS * WARM_UP and RELOAD_S / WARM_UP_RELOADS or RELOAD_S)
  end
end

rest()
-- Of what was seen between two parts of the time, at least the first after from.
local function middle(field, from, to)
  local values = {}
  for _, sample in ipairs(samples) do
    if sample.at > from and (sample.at <= to or #values == 0) then values[#values + 1] = sample[field] end
  end
  table.sort(values)
  return values[(#values + 1) // 2]
end

local early_kib, late_kib = middle("kib", WARM_UP, 0.4), middle("kib", 0.85, math.huge)
local early_fds, late_fds = middle("fds", WARM_UP, 0.4), middle("fds", 0.85, math.huge)
local status = gw:stop()
peers.stop_all()

local growth = 100 * (late_kib - early_kib) / early_kib
print(cjson.encode{ seconds = SECONDS, requests = runs, rounds = round, reloads = reloads, wrong = wrong,
  early_kib = early_kib, late_kib = late_kib, early_descriptors = early_fds, late_descriptors = late_fds })
print(("serve: %d requests in %d s, %d reloads, %d went the wrong way"):format(runs, SECONDS, reloads, wrong))
print(("serve: memory %d KiB after a quarter, %d KiB at the end: %+.2f %%"):format(early_kib, late_kib, growth))
print(("serve: descriptors %d after a quarter, %d at the end"):format(early_fds, late_fds))
local grows = SECONDS >= JUDGED_S and growth >= GROWTH_PERCENT
local leaks = SECONDS >= JUDGED_S and late_fds > early_fds + 4
if grows then print("serve: memory keeps growing") end
if leaks then print("serve: descriptors are left open") end
if status ~= 0 then print("serve: it ended with " .. tostring(status)) end
os.exit(wrong == 0 and not grows and not leaks and status == 0)
