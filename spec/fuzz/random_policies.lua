-- Random policies against the real gate: dispatched is a subset of allowed, always.
--
--   lua5.4 spec/fuzz/random_policies.lua
--
-- Each policy is a random program in the policy API's own grammar: legs with and without options, in branches, loops,
-- pcall, coroutines and run:first, over variables that hold probes, failures, replies and providers of this run and of
-- earlier ones. They are loaded many at a time into one script, so that they also share what they keep. Around them
-- is the real engine; only its primary, its probe and its providers are functions of this file, which therefore knows
-- what the central said and who was called.
--
-- For every run: a local provider is called only after a clean 2xx probe of this run's own LLM that no other call has
-- used, and that no later answer has taken back; and whoever gets an error gets one that the primary raised in it.
--
-- POLICIES      how many (20,000)
-- POLICY_SEED   where chance begins (the time)
-- POLICY_GATE   "policy" leaves the decision to the scripts: then this has to find something ("probe")
-- DEPUTY_BUILD  the build directory (build)
package.cpath = (os.getenv("DEPUTY_BUILD") or "build") .. "/?.so;" .. package.cpath
package.path = "./lua/?.lua;" .. package.path
local deputy = require "deputy"

local COUNT = math.tointeger(tonumber(os.getenv("POLICIES") or "") or 20000)
local SEED = math.tointeger(tonumber(os.getenv("POLICY_SEED") or "") or os.time())
local TOGETHER, RUNS = 100, 3

local random = math.random

local function one_of(list) return list[random(#list)] end

-- ---- the grammar ----------------------------------------------------------------------------------------------------

local VARS = { "a", "b", "c", "d", "failure", "kept" }
local out, n, depth, size

local function put(text)
  n = n + 1
  out[n] = text
end

local expression, block

local PRIMARY = { "run:primary()", "run:primary()", "run:primary{ timeout_ms = 50 }" }
local PROBE = { "run:probe()", "run:probe()", "run:probe{}", "run:probe{ timeout_ms = 50 }",
  'run:probe{ llm = "other" }', "run:probe{ llm = run.llm }", 'run:probe{ llm = run.llm .. "x" }' }
local STAND_IN = { "run:failover()", "run:failover()", "run:candidates()[1]", "run:candidates()[2]", '"one"', '"two"',
  '"nobody"' }
local PLAIN = { "nil", "true", "false", "1", '"allowed"', "{}", "run", "run.llm", "run.attempt", "run.stream", "now()",
  "random()", "run.caller", "run.gate", "run.deadline" } -- of which some are misuse
local FAKES = { '{ kind = "ok", status = 204 }', '{ name = "one" }', '{ kind = "status", status = 503 }',
  "setmetatable({}, { __index = function() return 204 end })" }

local function variable() return one_of(VARS) end

local function call()
  local pick = random(12)
  if pick <= 2 then return one_of(PRIMARY) end
  if pick <= 5 then return one_of(PROBE) end
  if pick <= 9 then
    local provider = random(5) == 1 and variable() or one_of(STAND_IN)
    return "run:complete(" .. provider .. (random(4) == 1 and ", { timeout_ms = 50 }" or "") .. ")"
  end
  if pick == 10 then return one_of(STAND_IN) end
  if pick == 11 then return "run:sleep(0)" end
  return one_of{ "M.verdict(" .. variable() .. ")", "M.should_failover(" .. variable() .. ")" }
end

expression = function()
  local pick = random(10)
  if pick <= 6 then return call() end
  if pick == 7 then return variable() end
  if pick == 8 then return one_of(PLAIN) end
  if pick == 9 then return one_of(FAKES) end
  return variable() .. " or " .. call()
end

local function condition()
  local v = variable()
  return one_of{ v, "not " .. v, v .. " ~= nil and " .. v .. " ~= kept", "M.verdict(" .. v .. ') ~= "forbidden"',
    "M.verdict(" .. one_of(PROBE) .. ') == "allowed"', "M.verdict(" .. one_of(PROBE) .. ') == "allowed"',
    v .. " == " .. variable(), "type(" .. v .. ') == "userdata"', "random() < 0.5",
    "type(" .. v .. ') ~= "userdata" or ' .. v .. ".status ~= 403", "run.attempt < 2" }
end

local function inner(open, close)
  put(open)
  depth = depth + 1
  block()
  depth = depth - 1
  put(close)
end

local STATEMENTS = {
  function() put(variable() .. " = " .. expression()) end,
  function() put(variable() .. " = " .. expression()) end,
  function() put(variable() .. ", failure = " .. call()) end,
  function() put(variable() .. ", failure = " .. call()) end,
  function() put("kept = " .. variable()) end,
  function() inner("if " .. condition() .. " then", "end") end,
  function() inner("if " .. condition() .. " then", "end") end,
  function() inner("for _ = 1, " .. random(3) .. " do", "end") end,
  function() inner("pcall(function()", "end)") end,
  function() inner("a = select(2, pcall(function()", "end))") end,
  function() inner("xpcall(function()", "end, function() return run end)") end,
  function() inner("pcall(coroutine.wrap(function()", "end))") end,
  function()
    put(variable() .. ", failure = run:first{")
    for _ = 1, random(3) do inner("function(run)", "end,") end
    put("}")
  end,
  function() put("if " .. condition() .. " then return " .. expression() .. " end") end,
  function() put("if " .. condition() .. " then return " .. variable() .. ", failure end") end,
  function() put("if " .. condition() .. " then error(" .. variable() .. ") end") end,
  function() put("for _, p in ipairs(run:candidates()) do a, failure = run:complete(p) if a then return a end end") end,
  function() put("setmetatable({}, { __index = function() return " .. call() .. " end }).x = " .. variable()) end,
  function() put("c = tostring(" .. variable() .. ")") end,
  function() put("pcall(table.sort, { 1, 2, 3 }, function() return " .. call() .. " end)") end,
}

block = function()
  for _ = 1, random(depth == 0 and 8 or 3) do
    if size <= 0 then return end
    size = size - 1
    local statement = STATEMENTS[random(depth >= 3 and 5 or #STATEMENTS)]
    statement()
  end
  if random(3) == 1 then put("do return " .. expression() .. " end") end
end

local VERDICTS = {
  'return "allowed"',
  'return type(p) == "userdata" and (p.status or 0) < 400 and "allowed" or "forbidden"',
  'return type(p) == "userdata" and p.kind == "ok" and (p.status or 0) < 300 and "allowed" or "unreachable"',
  'return p and "allowed" or nil',
}

local function one_policy(i)
  depth, size = 0, 14
  put("routes[" .. i .. "] = function(run) local a, b, c, d, failure")
  if random(2) == 1 then put("a, failure = run:primary() if a and random() < 0.5 then return a end") end
  if random(4) > 1 then put("b = run:failover()") end
  if random(3) > 1 then put("c = run:probe()") end
  block()
  put("return a, failure end")
end

local function script_of()
  out, n = {}, 0
  put("local M, kept, routes = {}, nil, {}")
  put("function M.verdict(p) " .. one_of(VERDICTS) .. " end")
  put("function M.should_failover(f) return f ~= nil end")
  for i = 1, TOGETHER do one_policy(i) end
  put('function M.route(run) return routes[tonumber(run.llm:match("%d+"))](run) end')
  put("return M")
  return table.concat(out, "\n", 1, n)
end

-- ---- the world ------------------------------------------------------------------------------------------------------

local PERMITS = 4 -- as many as the engine keeps; more probes take the oldest one's place
local PROBES = { 200, 204, 200, 204, 299, 302, 401, 403, 404, 500, 503, "timeout", "connect", "tls", "no_token" }
local CAUSES = { { kind = "connect" }, { kind = "status", status = 503 }, { kind = "status", status = 401 },
  { kind = "timeout", code = "first_byte" }, { kind = "cut" }, { kind = "error" }, "a string" }

local llm, permits, raised, dispatched, allowed, runs, answered
local violation

local function complain(text)
  violation = violation or text
end

local function on_probe(asked)
  local answer = one_of(PROBES)
  if asked == llm then
    if math.type(answer) and answer >= 200 and answer <= 299 then
      permits = math.min(permits + 1, PERMITS)
      allowed = allowed + 1
    else
      permits = 0
    end
  end
  if math.type(answer) then return answer end
  return nil, answer
end

local function primary()
  if random(4) == 1 then return "the primary's reply" end
  local cause = one_of(CAUSES)
  raised[cause] = true
  error(cause, 0)
end

local function dispatch()
  dispatched = dispatched + 1
  permits = permits - 1
  if permits < 0 then complain("a local provider was called without a clean 2xx of its own") end
  if random(4) == 1 then error("the local one fails", 0) end
  return "the local reply"
end

local function run_once(router)
  permits, raised = 0, {}
  runs = runs + 1
  local ok, result = pcall(router.run, router, llm, primary)
  if violation then return end
  if ok then
    local is_local = result.result == "the local reply"
    if is_local ~= result.failover then complain("who answered is not who is said to have answered") end
    if not is_local and result.result ~= "the primary's reply" then complain("a reply that nobody gave") end
    answered = answered + 1
  elseif not raised[result] then
    complain("an error that is not the primary's of this run: " .. tostring(result))
  end
end

-- ---- the whole ------------------------------------------------------------------------------------------------------

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  file:close()
end

local function main()
  local path = os.tmpname()
  local registry = deputy.registry()
  for _, name in ipairs{ "one", "two" } do registry:register{ name = name, complete = dispatch } end
  for i = 1, TOGETHER do
    if i % 10 ~= 0 then registry:register_failover("m" .. i, "one") end
    if i % 2 == 0 then registry:register_failover("m" .. i, "two") end
  end
  write(path, "return { route = function(run) return run:primary() end, verdict = function() end, "
    .. "should_failover = function() end }")
  local router = deputy.router(registry, { bearer_token = "token", policy = path, probe = on_probe, verify = "off",
    gate = os.getenv("POLICY_GATE") or "probe",
    limits = { policy_instructions = 100000, policy_ms = 100 }, timeouts = { total_ms = 5000 } })
  dispatched, allowed, runs, answered = 0, 0, 0, 0
  math.randomseed(SEED)
  local began, done = os.clock(), 0
  while done < COUNT and not violation do
    local text = script_of()
    write(path, text)
    local ok, why = router:load_policy(path)
    if not ok then
      complain("the script was not loaded: " .. tostring(why))
    end
    for i = 1, TOGETHER do
      if violation then break end
      llm = "m" .. i
      for _ = 1, RUNS do run_once(router) end
      done = done + 1
      if violation then violation = violation .. "; it was routes[" .. i .. "] of\n\n" .. text end
    end
  end
  os.remove(path)
  if violation then
    io.stderr:write(("random_policies: POLICY_SEED=%d, after %d policies: %s\n"):format(SEED, done, violation))
    os.exit(1)
  end
  print(("random_policies: %d policies, %d runs, %d answered, %d allowed, %d dispatched, none without permission "
    .. "(POLICY_SEED=%d, %.1f s)"):format(done, runs, answered, allowed, dispatched, SEED, os.clock() - began))
end

main()
