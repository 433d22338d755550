-- Runs without end, for SOAK_SECONDS: a central that is up, down, slow, cut off and revoking in turn, a policy that is
-- loaded anew, and a local server that fails now and then. Ends with 1 when a run went the wrong way, when memory keeps
-- growing after the first quarter, or when a descriptor is left open.
package.path = "./lua/?.lua;./?.lua;" .. package.path
package.cpath = (os.getenv("DEPUTY_BUILD") or "build") .. "/?.so;" .. package.cpath
local deputy = require "deputy"
local lfs = require "lfs"
local peers = require "spec.support.peers"

local seconds = tonumber(os.getenv("SOAK_SECONDS")) or 60
local REQUEST = { llm = "claude", body = '{"model":"claude","messages":[{"role":"user","content":"Hi"}]}' }
local DOWN = { status = 503, body = "down" }

local function resident_kib()
  local file = assert(io.open("/proc/self/status"))
  local kib = file:read("a"):match("VmRSS:%s*(%d+)")
  file:close()
  return tonumber(kib)
end

local function descriptors()
  local count = 0
  for _ in lfs.dir("/proc/self/fd") do count = count + 1 end
  return count
end

local central = peers.central{
  llms = { claude = {} }, tokens = { tok = { view = { "claude" }, run = { "claude" } } },
}
local model = peers.openai{ models = { "qwen3" } }
local registry = deputy.registry()
registry:register(deputy.openai{ name = "local", url = model.url .. "/v1", model = "qwen3" })
registry:register_failover("claude", "local")
local router = deputy.router(registry, {
  central_url = central.url, bearer_token = "tok", policy = "lua/router.lua",
  settings = { retries = 0, breaker = false },
  timeouts = { first_byte_ms = 50, probe_ms = 200 },
})

-- Each: the central's inference, its word on a probe, the local server, and who is to answer (nil: nobody).
local scenes = {
  { "up", nil, nil, nil, "central" },
  { "down", DOWN, nil, nil, "local" },
  { "silent", { { stall = true } }, nil, nil, "local" },
  { "reset", { { reset = true } }, nil, nil, "local" },
  { "cut", { { cut = 120, how = "reset" }, { status = 200, body = ("x"):rep(500) } }, nil, nil, "local" },
  { "revoked", DOWN, { status = 403 }, nil, nil },
  { "a page for everything", DOWN, { status = 200, headers = { ["Content-Type"] = "text/html" } }, nil, nil },
  { "a verdict", { status = 400, body = "no" }, nil, nil, nil },
  { "both down", DOWN, nil, { status = 500 }, nil },
}

local wrong, runs = 0, 0

local function check(scene)
  local reply, failure = router:complete(REQUEST)
  local by = reply and (reply.via or "central") or nil
  runs = runs + 1
  if by == scene[5] then return end
  wrong = wrong + 1
  print(("%s: expected %s, got %s %s"):format(scene[1], scene[5] or "an error", by or "an error", tostring(failure)))
end

local began, round = os.time(), 0
local early_kib, early_descriptors
while os.time() - began < seconds do
  round = round + 1
  for _, scene in ipairs(scenes) do
    central:set{ inference = scene[2] or false, probe = scene[3] or false }
    model:set{ steps = scene[4] or false }
    for _ = 1, scene[1] == "silent" and 2 or 50 do check(scene) end
    central:clear()
    model:clear()
  end
  assert(router:load_policy("lua/router.lua"))
  collectgarbage()
  if not early_kib and os.time() - began >= seconds / 4 then
    early_kib, early_descriptors = resident_kib(), descriptors()
  end
end
local late_kib, late_descriptors = resident_kib(), descriptors()
early_kib, early_descriptors = early_kib or late_kib, early_descriptors or late_descriptors
peers.stop_all()

print(("%d runs in %d rounds, %d went the wrong way"):format(runs, round, wrong))
print(("memory: %d KiB after a quarter, %d KiB at the end"):format(early_kib, late_kib))
print(("descriptors: %d after a quarter, %d at the end"):format(early_descriptors, late_descriptors))
local grows = late_kib > early_kib + 1024
local leaks = late_descriptors > early_descriptors + 2
if grows then print("memory keeps growing") end
if leaks then print("descriptors are left open") end
os.exit(wrong == 0 and not grows and not leaks)
