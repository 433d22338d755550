-- What router:run of the Lua module costs, with a Lua function as primary: one that answers, one that raises.
local deputy = require "deputy"

local BATCH, BATCHES = 100, 501

local function median(batch)
  local times = {}
  for i = 1, BATCHES do
    local began = os.clock()
    for _ = 1, BATCH do batch() end
    times[i] = (os.clock() - began) / BATCH * 1e6
  end
  table.sort(times)
  return times[BATCHES // 2 + 1]
end

local function show(name, us)
  print(("%-62s %9.2f us"):format(name, us))
end

local registry = deputy.registry()
local router = deputy.router(registry, {
  central_url = "http://127.0.0.1:1",
  bearer_token = "token",
  settings = { retries = 0, breaker = false },
})

local answer = {}
local function answers() return answer end
local function raises() error(answer, 0) end
local function fallback() error("never called") end

show("router:run in Lua, the primary answers, median", median(function()
  assert(router:run("claude", answers, fallback).result == answer)
end))
show("router:run in Lua, the primary raises, no stand-in, median", median(function()
  assert(not pcall(router.run, router, "claude", raises, fallback))
end))
