-- What a policy script can do wrong, and what that costs: its run's failover, never the primary's error, never another
-- run. The primary, the probe and the stand-in are functions here; what they were asked is counted.
local deputy = require "deputy"
local uv = require "luv"
local peers = require "spec.support.peers"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local dir = tmp.dir()
local files = 0

local function script(text)
  files = files + 1
  return tmp.write(dir, ("p%d.lua"):format(files), text)
end

local GOOD_ROUTE = [[
  local reply, failure = run:primary()
  if reply then return reply end
  if M.verdict(run:probe()) ~= "allowed" then return nil, failure end
  local answer = run:complete(run:failover())
  if answer then return answer end
  return nil, failure
]]

-- A policy whose first run (or each, with `always`) goes wrong by `body`; every other one is as it should be.
local function policy_with(body, always)
  return script([[
local M, runs = {}, 0
function M.should_failover() return true end
function M.verdict(probe) return probe.status == 204 and "allowed" or "forbidden" end
local function good(run)
]] .. GOOD_ROUTE .. [[
end
function M.route(run)
  runs = runs + 1
  if runs > 1 and not ]] .. tostring(always or false) .. [[ then return good(run) end
]] .. body .. [[

end
return M
]])
end

-- One router and what happened to it. answers: what the primary does in turn (the last again and again): a function.
local function make(path, options)
  local it = { primaries = 0, stand_ins = 0, probes = 0, log = {} }
  local registry = deputy.registry()
  registry:register{ name = "local", complete = function() return "local" end }
  registry:register_failover("claude", "local")
  local settings = {
    bearer_token = "tok", policy = path, verify = "off",
    probe = function() it.probes = it.probes + 1; return it.status or 204 end,
    on_log = function(level, text) it.log[#it.log + 1] = level .. ": " .. text end,
    limits = { policy_instructions = 200000, policy_run_bytes = 1 << 20, policy_ms = 300 },
  }
  for key, value in pairs(options or {}) do settings[key] = value end
  it.router = deputy.router(registry, settings)
  function it.run(primary)
    return pcall(it.router.run, it.router, "claude", function()
      it.primaries = it.primaries + 1
      return primary(it.primaries)
    end, function()
      it.stand_ins = it.stand_ins + 1
      if it.stand_in_error then error(it.stand_in_error, 0) end
      return "stand-in"
    end)
  end
  return it
end

local ERROR = setmetatable({}, { __tostring = function() return "the primary's own" end })
local function down() error(ERROR, 0) end
local function up() return "primary" end

local function assert_next_run_is_well(it)
  local ok, result = it.run(down)
  assert.is_true(ok)
  assert.equal("stand-in", result.result)
  assert.is_true(result.failover)
  ok, result = it.run(up)
  assert.is_true(ok)
  assert.equal("primary", result.result)
end

local function kinds(result)
  local list = {}
  for i, leg in ipairs(result.trace) do list[i] = leg.leg .. ":" .. leg.kind end
  return table.concat(list, " ")
end

-- What goes wrong, as code.
local WRONG = {
  { "raises a string", [[error("boom")]] },
  { "raises nil", [[error()]] },
  { "raises a table", [[error({ status = 200 })]] },
  { "raises a table whose __tostring raises", [[error(setmetatable({}, { __tostring = error }))]] },
  { "raises an error as long as it can", [[error(("x"):rep(100000))]] },
  { "raises bytes", [[error("\0\1\xff%s%n")]] },
  { "calls nil", [[local x; x()]] },
  { "indexes nil", [[local x; return x.y.z]] },
  { "compares what cannot be compared", [[return {} < {}]] },
  { "loops", [[while true do end]] },
  { "loops in a coroutine", [[coroutine.wrap(function() while true do end end)()]] },
  { "loops and catches being stopped", [[while true do pcall(function() while true do end end) end]] },
  { "catches it in a handler", [[
    local function loop() while true do end end
    while true do xpcall(loop, loop) end]] },
  { "catches it in coroutines", [[
    while true do local co = coroutine.create(function() while true do end end); coroutine.resume(co) end]] },
  { "loops in a metamethod", [[
    local t = setmetatable({}, { __index = function() while true do end end }); return t.x]] },
  { "loops in a closer", [[
    local t <close> = setmetatable({}, { __close = function() while true do end end }); error("x")]] },
  { "loops in sort", [[table.sort({ 1, 2, 3 }, function() while true do end end)]] },
  { "loops in gsub", [[("x"):gsub(".", function() while true do end end)]] },
  { "recurses", [[local function f() return 1 + f() end; return f()]] },
  { "recurses in C", [[local function f() return (("x"):gsub(".", f)) end; return f()]] },
  { "recurses in pcall", [[local function f() return pcall(f) end; f(); error("x")]] },
  { "eats memory", [[local t = {}; while true do t[#t + 1] = {} end]] },
  { "eats memory in one bite", [[return ("x"):rep(1 << 40)]] },
  { "eats memory by strings", [[local s = "x"; while true do s = s .. s end]] },
  { "eats memory and catches it", [[while true do pcall(string.rep, "x", 1 << 30) end]] },
  { "eats memory by coroutines", [[
    local t = {}
    while true do t[#t + 1] = coroutine.create(function() end) end]] },
  { "yields by itself", [[coroutine.yield()]] },
  { "yields something that looks like an answer", [[coroutine.yield(true, run)]] },
  { "yields from a metamethod", [[local t = setmetatable({}, { __add = coroutine.yield }); return t + 1]] },
  { "yields from sort", [[table.sort({ 3, 2, 1 }, coroutine.yield)]] },
  { "closes itself", [[coroutine.close(coroutine.running())]] },
  { "resumes itself", [[coroutine.resume((coroutine.running())); error("x")]] },
  { "sets __gc", [[setmetatable({}, { __gc = function() end })]] },
  { "loads bytecode", [[assert(load("\27Lua"))()]] },
  { "reaches for what is not there", [[return io.open("/etc/passwd")]] },
  { "requires what is not there", [[return require("socket")]] },
  { "starts a command", [[return os.execute("true")]] },
  { "moves a table to nowhere", [[table.move({}, 1, math.maxinteger - 1, 2); error("x")]] },
  { "repeats nothing for ever", [[error(("" ):rep(math.maxinteger))]] },
  { "inserts into a table that says it is endless",
    [[table.insert(setmetatable({}, { __len = function() return 1 << 60 end }), 1, 1); error("x")]] },
  { "removes from one", [[table.remove(setmetatable({}, { __len = function() return 1 << 60 end }), 1); error("x")]] },
}

-- What route may not return. The primary has failed or answered already; `it` is said in the trace.
local NONSENSE = {
  { "true", [[true]] }, { "a number", [[200]] }, { "a string", [["allowed"]] }, { "a table", [[{ status = 200 }]] },
  { "a function", [[print]] }, { "the run", [[run]] }, { "the candidate", [[run:failover()]] },
  { "the failure as if it were a reply", [[select(2, run:primary()) or "none"]] },
  { "a coroutine", [[coroutine.create(print)]] },
}

describe("a policy that", function()
  for _, case in ipairs(WRONG) do
    it(case[1] .. " before the primary: it is called once, and what comes is the outcome", function()
      local it = make(policy_with(case[2]))
      local ok, raised = it.run(down)
      assert.is_false(ok)
      assert.is_true(rawequal(ERROR, raised))
      assert.same({ 1, 0, 0 }, { it.primaries, it.stand_ins, it.probes })
      assert.truthy(table.concat(it.log, "\n"):find("error: run %d+: the policy .- failed"))
      assert_next_run_is_well(it)

      it = make(policy_with(case[2]))
      local result
      ok, result = it.run(up)
      assert.is_true(ok)
      assert.equal("primary", result.result)
      assert.equal("policy:script_failed primary:ok", kinds(result))
    end)

    it(case[1] .. " when the primary has failed: its error is the outcome", function()
      local it = make(policy_with("local reply, failure = run:primary() " .. case[2]))
      local ok, raised = it.run(down)
      assert.is_false(ok)
      assert.is_true(rawequal(ERROR, raised))
      assert.same({ 1, 0, 0 }, { it.primaries, it.stand_ins, it.probes })
      assert_next_run_is_well(it)
    end)

    it(case[1] .. " when the primary has answered: its answer is the outcome", function()
      local it = make(policy_with("local reply, failure = run:primary() " .. case[2]))
      local ok, result = it.run(up)
      assert.is_true(ok)
      assert.equal("primary", result.result)
      assert.is_false(result.failover)
      assert.equal(1, it.primaries)
      assert_next_run_is_well(it)
    end)

    it(case[1] .. " after an allowed probe: nobody stands in", function()
      local it = make(policy_with("local reply, failure = run:primary() local probe = run:probe() " .. case[2]))
      local ok, raised = it.run(down)
      assert.is_false(ok)
      assert.is_true(rawequal(ERROR, raised))
      assert.same({ 1, 0, 1 }, { it.primaries, it.stand_ins, it.probes })
      assert_next_run_is_well(it)
    end)
  end

  for _, case in ipairs(NONSENSE) do
    it("returns " .. case[1], function()
      local it = make(policy_with("return " .. case[2]))
      local ok, raised = it.run(down)
      assert.is_false(ok)
      assert.is_true(rawequal(ERROR, raised))
      assert.equal(0, it.stand_ins)
      it = make(policy_with("run:primary() return " .. case[2]))
      local result
      ok, result = it.run(up)
      assert.is_true(ok)
      assert.equal("primary", result.result)
      assert_next_run_is_well(it)
    end)
  end

  it("returns nothing at all without asking anybody: the primary is asked once", function()
    for _, body in ipairs{ "", "return", "return nil", "return false", "return nil, { kind = 'status' }" } do
      local it = make(policy_with(body))
      local ok, raised = it.run(down)
      assert.is_false(ok)
      assert.is_true(rawequal(ERROR, raised))
      assert.same({ 1, 0, 0 }, { it.primaries, it.stand_ins, it.probes })
      it = make(policy_with(body))
      local result
      ok, result = it.run(up)
      assert.equal("primary", ok and result.result)
    end
  end)

  it("returns nil though the primary has answered: its answer stands", function()
    local it = make(policy_with("run:primary() return nil, 'no'"))
    local ok, result = it.run(up)
    assert.is_true(ok)
    assert.equal("primary", result.result)
  end)

  it("makes up a failure: the primary's own is raised", function()
    local it = make(policy_with("run:primary() return nil, { kind = 'status', status = 200, message = 'fine' }"))
    local ok, raised = it.run(down)
    assert.is_false(ok)
    assert.is_true(rawequal(ERROR, raised))
  end)

  it("swallows the error and goes on asking: the last failure is the outcome", function()
    local it = make(policy_with("for i = 1, 3 do run:primary() end error('x')"))
    local ok, raised = it.run(function(n) error({ n = n }, 0) end)
    assert.is_false(ok)
    assert.equal(3, raised.n)
    assert.equal(0, it.stand_ins)
  end)

  it("had an answer once and asks again: the answer it holds is the outcome", function()
    local it = make(policy_with("local first = run:primary() run:primary() error('x')"))
    local ok, result = it.run(function(n) if n > 1 then down() end return "first" end)
    assert.is_true(ok)
    assert.equal("first", result.result)
  end)

  it("fails after the stand-in answered: the primary's error is the outcome", function()
    local it = make(policy_with("run:primary() run:probe() run:complete(run:failover()) error('x')"))
    local ok, raised = it.run(down)
    assert.is_false(ok)
    assert.is_true(rawequal(ERROR, raised))
    assert.equal(1, it.stand_ins)
  end)

  it("asks without end is stopped at 32 legs", function()
    local it = make(policy_with("while run:primary() == nil do end error('x')"), {
      limits = { policy_instructions = 20000 } })
    local ok = it.run(down)
    assert.is_false(ok)
    assert.equal(32, it.primaries)
    it = make(policy_with("for i = 1, 100 do run:probe() end run:complete(run:failover()) error('x')"))
    ok = it.run(down)
    assert.is_false(ok)
    assert.equal(32, it.probes)
    assert.equal(0, it.stand_ins)
  end)

  it("logs without end does not go on for ever either", function()
    local it = make(policy_with("while true do run:log('info', ('x'):rep(1000)) end"))
    assert.is_false((it.run(down)))
    assert.is_true(#it.log < 100000)
  end)
end)

describe("waiting", function()
  -- Each of these waits in a place where it has to work.
  for what, body in pairs{
    ["pcall"] = [[local ok, reply, failure = pcall(run.primary, run); return reply, failure]],
    ["xpcall"] = [[local ok, reply, failure = xpcall(run.primary, error, run); return reply, failure]],
    ["a metamethod"] = [[
      local t = setmetatable({}, { __index = function() return run:primary() end }); return t.x]],
    ["an arithmetic metamethod"] = [[
      local t = setmetatable({}, { __add = function() return run:primary() end }); return t + 1]],
    ["a comparison"] = [[
      local reply
      local t = setmetatable({}, { __lt = function() reply = run:primary(); return true end })
      return t < t and reply]],
    ["an iterator"] = [[for reply in function() return run:primary() end do return reply end]],
    ["a closer"] = [[
      local reply
      do local t <close> = setmetatable({}, { __close = function() reply = run:primary() end }) end
      return reply]],
    ["nested pcalls"] = [[
      local function deep(n) if n == 0 then return run:primary() end return select(2, pcall(deep, n - 1)) end
      return deep(50)]],
  } do
    it("in " .. what .. " works", function()
      local path = policy_with(body, true)
      local it = make(path)
      local ok, result = it.run(up)
      assert.is_true(ok)
      assert.equal("primary", result.result)
      assert.equal("primary:ok", kinds(result))
    end)
  end

  for what, body in pairs{
    ["table.sort"] = [[table.sort({ 1, 2 }, function() run:primary() return true end)]],
    ["string.gsub"] = [[("x"):gsub(".", function() run:primary() end)]],
    ["a coroutine"] = [[coroutine.wrap(function() run:primary() end)()]],
    ["a coroutine that is resumed"] = [[
      local ok, why = coroutine.resume(coroutine.create(function() run:primary() end))
      error(why)]],
  } do
    it("in " .. what .. " fails cleanly, without asking anybody", function()
      local it = make(policy_with(body))
      local ok, raised = it.run(down)
      assert.is_false(ok)
      assert.is_true(rawequal(ERROR, raised))
      assert.equal(1, it.primaries) -- C asked it
      assert.truthy(table.concat(it.log, "\n"):find("run:primary()", 1, true))
      assert_next_run_is_well(it)
    end)
  end

  it("a script that catches that can go on", function()
    local it = make(policy_with([[
      local ok, why = pcall(table.sort, { 1, 2 }, function() run:primary() end)
      if ok or not why:find("table.sort", 1, true) then error("no") end
      return good(run)]], true))
    local ok, result = it.run(down)
    assert.is_true(ok)
    assert.equal("stand-in", result.result)
  end)
end)

describe("a run", function()
  it("cannot be used by a later one", function()
    local it = make(policy_with([[
      if not kept then kept = run; return good(run) end
      for _, name in ipairs{ "primary", "probe", "complete", "failover", "candidates", "log", "sleep" } do
        local ok, why = pcall(kept[name], kept, 1, "x")
        if ok then error("it worked: " .. name) end
        if not why:find("over") then error("it said: " .. why) end
      end
      if kept.llm ~= nil then error("it still has an LLM") end
      return good(run)]], true))
    for _ = 1, 3 do
      local ok, result = it.run(down)
      assert.is_true(ok)
      assert.equal("stand-in", result.result)
      assert.equal("primary:error probe:ok local:ok", kinds(result))
    end
  end)

  it("cannot be had by another one's reply, failure or probe", function()
    local it = make(policy_with([[
      local reply, failure = run:primary()
      if not kept then kept = { reply, failure }; return reply, failure end
      return kept[1], kept[2] ]], true))
    local ok, result = it.run(function() return "first" end)
    assert.equal("first", ok and result.result)
    local raised
    ok, raised = it.run(down)
    assert.is_false(ok)
    assert.is_true(rawequal(ERROR, raised))
    ok, result = it.run(function() return "second" end)
    assert.equal("second", ok and result.result)
  end)

  it("is what it says it is, and no more", function()
    local it = make(policy_with([[
      local facts = { run.llm, run.endpoint, tostring(run.stream), type(run.id), getmetatable(run), run.token,
        run.bearer_token, run.body, run.nonsense }
      if table.concat({ facts[1], facts[2], facts[3], facts[4], tostring(facts[5]) }, " ")
        ~= "claude chat/completions false number false" then error("facts") end
      if #facts > 5 then error("too much") end
      if pcall(function() run.llm = "opus" end) then error("it can be changed") end
      if pcall(setmetatable, run, {}) then error("its metatable can be changed") end
      return good(run)]], true))
    local ok, result = it.run(down)
    assert.is_true(ok, it.log[1])
    assert.equal("primary:error probe:ok local:ok", kinds(result))
  end)

  it("methods take nothing else for a run", function()
    local it = make(policy_with([[
      for _, fake in ipairs{ {}, 1, "run", print, true, select(2, run:primary()), run:probe(), run:failover() } do
        for _, name in ipairs{ "primary", "probe", "complete", "failover", "candidates", "log", "sleep" } do
          if pcall(run[name], fake) then error("took it: " .. name) end
        end
      end
      return nil]]))
    assert.is_false((it.run(down)))
    assert.equal(0, it.stand_ins)
    assert.is_nil(table.concat(it.log, "\n"):find("took it"))
  end)

  it("dispatches to nobody but its own candidates", function()
    local it = make(policy_with([[
      run:primary() run:probe()
      for _, name in ipairs{ "central", "primary", "nobody", "", "local\0" } do run:complete(name) end
      return nil]]))
    assert.is_false((it.run(down)))
    assert.equal(0, it.stand_ins)
  end)
end)

describe("one run's budget", function()
  it("is not another's: a thousand runs each use some", function()
    local it = make(policy_with("for i = 1, 20000 do end return good(run)", true), {
      limits = { policy_instructions = 100000 } })
    for _ = 1, 1000 do
      local ok, result = it.run(down)
      if not ok or result.result ~= "stand-in" then error("a run failed: " .. tostring(it.log[1])) end
    end
  end)

  it("of memory is given back", function()
    local body = "local hoard = {} for i = 1, 12 do hoard[i] = ('x'):rep(50000) .. i end hoard = nil return good(run)"
    local it = make(policy_with(body, true), {
      limits = { policy_run_bytes = 1 << 20, policy_bytes = 4 << 20 } })
    for _ = 1, 200 do
      local ok, result = it.run(down)
      if not ok or result.result ~= "stand-in" then error("a run failed: " .. tostring(it.log[1])) end
    end
  end)

  it("does not pay for what earlier runs left behind; the policy's own bound does", function()
    local body = "kept = kept or {} for i = 1, 6 do kept[#kept + 1] = ('x'):rep(50000) .. #kept end return good(run)"
    local it = make(policy_with(body, true), {
      limits = { policy_run_bytes = 1 << 20, policy_bytes = 3 << 20 } })
    local worked = 0
    for _ = 1, 20 do
      local ok, result = it.run(down)
      if ok then
        assert.equal("stand-in", result.result)
        worked = worked + 1
      else
        assert.is_true(rawequal(ERROR, result))
      end
    end
    assert.is_true(worked >= 5 and worked <= 10)
    assert.equal(20, it.primaries)
  end)

  -- On one processor with others who are always busy this process is stopped in the middle of much that it does.
  it("may use JSON on a busy machine, too: only what it computes itself takes long", function()
    local pid = ("%d"):format(uv.os_getpid())
    local cpus = assert(io.open("/proc/self/status")):read("a"):match("Cpus_allowed_list:%s*(%S+)")
    local function stay_on(list) assert.equal(0, shell.run{ "taskset", "-cp", list, pid }.status) end
    local it = make(policy_with([[
      local t = {}
      for i = 1, 100 do t[i] = {} end
      local till = now() + 1
      while now() < till do JSON.encode(t) end
      return good(run)]], true), { limits = { policy_ms = 60000, policy_instructions = 1 << 40 } })
    local busy = {}
    stay_on(cpus:match("%d+"))
    for i = 1, 4 do busy[i] = shell.start{ "lua5.4", "-e", "while true do end" } end
    local ok, result = it.run(down)
    for _, each in ipairs(busy) do each:stop() end
    stay_on(cpus)
    assert.is_true(ok)
    assert.equal("stand-in", result.result, table.concat(it.log, "\n"))
    assert.same({}, it.log)
  end)

  it("counts time, waits not included", function()
    local began = peers.now_us()
    local it = make(policy_with("run:sleep(150) return good(run)", true), { limits = { policy_ms = 50 } })
    local ok, result = it.run(down)
    assert.is_true(ok)
    assert.equal("stand-in", result.result)
    it = make(policy_with("while true do end"), { limits = { policy_ms = 50 } })
    assert.is_false((it.run(down)))
    assert.is_true(peers.now_us() - began < 1000000)
  end)
end)

describe("check_auth", function()
  for what, body in pairs{
    ["raises"] = "error('x')", ["loops"] = "while true do end",
    ["yields"] = "coroutine.yield('allowed') return 'allowed'",
    ["returns true"] = "return true", ["returns 2"] = "return 2", ["returns ALLOWED"] = "return 'ALLOWED'",
    ["returns a table"] = "return { 'allowed' }", ["returns nothing"] = "",
    ["eats memory"] = "return ('x'):rep(1 << 40)",
    ["returns allowed and a NUL"] = "return 'allowed\\0'",
  } do
    it("is unreachable when the policy's verdict " .. what, function()
      local it = make(script("return { route = print, should_failover = print, verdict = function() "
        .. body .. " end }"))
      assert.equal("unreachable", it.router:check_auth("claude"))
      it.status = 403
      assert.equal("forbidden", it.router:check_auth("claude"))
    end)
  end

  it("takes the stricter of script and gate", function()
    local it = make(script([[
      return { route = print, should_failover = print, verdict = function(p)
        if p.status == 204 then return "allowed" elseif p.status == 200 then return "forbidden" end
        return p.status == 403 and "allowed" or "unreachable"
      end }]]))
    local verdicts = { [204] = "allowed", [200] = "forbidden", [403] = "forbidden", [500] = "unreachable" }
    for status, verdict in pairs(verdicts) do
      it.status = status
      assert.equal(verdict, it.router:check_auth("claude"))
    end
  end)
end)

describe("loading", function()
  local HEAD = "local M = { should_failover = print, verdict = print, route = function() end } "
  local BAD = {
    { "is missing", "/nonexistent/policy.lua", "/nonexistent/policy.lua" },
    { "is a directory", dir, "directory" },
    { "does not parse", script("local M = {}\nreturn M M"), ":2:" },
    { "is bytecode", script(string.dump(function() return {} end)), "binary" },
    { "is empty", script(""), "return a table" },
    { "returns nothing", script("local M = {}"), "return a table" },
    { "returns a string", script("return 'route'"), "return a table" },
    { "has no route", script("return { should_failover = print, verdict = print }"), "'route'" },
    { "has no verdict", script("return { should_failover = print, route = print }"), "'verdict'" },
    { "has no should_failover", script("return { verdict = print, route = print }"), "'should_failover'" },
    { "has a route that is a table",
      script("return { route = {}, should_failover = print, verdict = print }"), "table" },
    { "raises", script("error('on purpose')"), "on purpose" },
    { "raises a table", script("error({})"), "not a string" },
    { "loops", script(HEAD .. "while true do end return M"), "instructions" },
    { "loops in a pcall",
      script(HEAD .. "pcall(function() while true do end end) return M"), "instructions" },
    { "eats memory",
      script(HEAD .. "local t = {} while true do t[#t + 1] = ('x'):rep(60000) .. #t end"), "memory" },
    { "yields", script(HEAD .. "coroutine.yield() return M"), "yield" },
    { "is too large", script(HEAD .. ("-"):rep(1 << 20) .. "\nreturn M"), "bytes" },
    { "asks for a setting that is none", script(HEAD .. "error(settings.nonsense.x)"), "nonsense" },
  }

  for _, case in ipairs(BAD) do
    it("a policy that " .. case[1] .. " is refused in words, and the old one stays", function()
      local limits = { policy_instructions = 2000000, policy_run_bytes = 1 << 20 }
      local ok, message = pcall(deputy.router, deputy.registry(), { policy = case[2], limits = limits, verify = "off" })
      assert.is_false(ok)
      assert.truthy(message:find(case[3], 1, true), message)

      local it = make(policy_with("return good(run)", true), { limits = limits })
      local loaded, failure = it.router:load_policy(case[2])
      assert.is_nil(loaded)
      assert.truthy(failure.message:find(case[3], 1, true), failure.message)
      local run_ok, result = it.run(down)
      assert.is_true(run_ok)
      assert.equal("stand-in", result.result)
    end)
  end

  it("swaps a good one in, with a fresh state", function()
    local it = make(policy_with("seen = (seen or 0) + 1 if seen > 1 then return good(run) end return nil", true))
    local other = policy_with("if seen then error('the old state') end return good(run)", true)
    assert.is_false((it.run(down)))
    assert.is_true(it.router:load_policy(other))
    local ok, result = it.run(down)
    assert.is_true(ok)
    assert.equal("stand-in", result.result)
  end)

  it("a run in flight finishes on the one it began with", function()
    local strict = policy_with("local reply, failure = run:primary() return reply, failure", true)
    local it = make(policy_with("return good(run)", true))
    local ok, result = it.run(function()
      assert.is_true(it.router:load_policy(strict)) -- the primary is under way
      down()
    end)
    assert.is_true(ok)
    assert.equal("stand-in", result.result)
    ok = it.run(down)
    assert.is_false(ok)
    assert.equal(1, it.stand_ins)
  end)

  it("many times leaks nothing that shows", function()
    local it = make(policy_with("return good(run)", true))
    local path = policy_with("return good(run)", true)
    for _ = 1, 200 do
      assert.is_true(it.router:load_policy(path))
      it.run(down)
    end
    assert.equal(200, it.stand_ins)
  end)
end)

-- Design 5.3, row by row, over real sockets. Retries are off: they have a spec of their own.
describe("the default policy", function()
  local TOKEN = "tok-alice"
  local BODY = [[{"model":"claude","messages":[{"role":"user","content":"hi"}]}]]
  local STREAM = [[{"model":"claude","stream":true,"messages":[{"role":"user","content":"hi"}]}]]
  local central, local_model, registry

  setup(function()
    central = peers.central{ llms = { claude = {} }, tokens = { [TOKEN] = { view = { "*" }, run = { "*" } } } }
    local_model = peers.openai{ models = { "qwen3" } }
    registry = deputy.registry()
    registry:register(deputy.openai{ name = "local", url = local_model.url .. "/v1", model = "qwen3" })
    registry:register_failover("claude", "local")
  end)
  teardown(peers.stop_all)

  local function router_for(settings, more)
    local options = {
      central_url = central.url, bearer_token = TOKEN, policy = "lua/router.lua",
      settings = { retries = 0, breaker = false },
      timeouts = { first_byte_ms = 80, first_token_ms = 80, idle_ms = 80, probe_ms = 2000, total_ms = 5000 },
    }
    for key, value in pairs(settings or {}) do options.settings[key] = value end
    for key, value in pairs(more or {}) do options[key] = value end
    return deputy.router(registry, options)
  end

  local function ask(router, request)
    central:clear()
    local_model:clear()
    request = request or {}
    request.llm, request.body = "claude", request.body or BODY
    local reply, failure, failed = router:complete(request)
    return reply, failure, failed, local_model:count("POST")
  end

  -- Written out, not computed from the policy.
  local FAILS_OVER = { [408] = true, [425] = true, [429] = true }
  for status = 500, 599 do FAILS_OVER[status] = true end

  it("fails over for the statuses that say 'not now', and for no other", function()
    central:set{ script = [[return function(request, state)
      if request.method == "POST" then return { status = state.fail_with, body = '{"error":{}}' } end
    end]] }
    local router <close> = router_for()
    for status = 300, 599 do
      central:set{ fail_with = status }
      local reply, failure, failed, locals = ask(router)
      local what = "status " .. status
      if FAILS_OVER[status] then
        assert.is_true(reply and reply.failover, what)
        assert.equal("local", reply.via, what)
        assert.equal(1, locals, what)
      else
        assert.is_nil(reply, what)
        assert.equal(status, failure.status, what)
        assert.equal(status == 304 and "" or '{"error":{}}', failed.body, what)
        assert.equal(0, locals, what)
        assert.equal(0, central:count("HEAD"), what)
      end
    end
    central:set{ script = false }
  end)

  local function chunk(delta, finish)
    return ('{"choices":[{"index":0,"delta":%s,"finish_reason":%s}]}'):format(delta, finish or "null")
  end
  local HELLO = chunk('{"content":"hello"}')

  for _, case in ipairs{
    { "reset before the head", { { reset = true } }, "yes", "connect" },
    { "closed before the head", { { close = true } }, "yes", "connect" },
    { "no first byte", { { stall = true } }, "yes", "timeout", "first_byte" },
    { "an empty 200", { status = 200, body = "" }, "yes", "malformed" },
    { "a 204", { status = 204 }, "yes", "malformed" },
    { "an HTML 200",
      { status = 200, headers = { ["Content-Type"] = "text/html" }, body = "<p>" }, "yes", "malformed" },
    { "not JSON", { status = 200, body = "hello" }, "yes", "malformed" },
    { "half of JSON", { status = 200, body = '{"choices":[' }, "yes", "malformed" },
    { "a JSON array", { status = 200, body = "[]" }, "yes", "malformed" },
    { "a cut body", { { status = 200, headers = { ["Content-Length"] = "50" }, body = "{" }, { close = true } },
      "yes", "cut" },
    { "a stalled body", { { status = 200, headers = { ["Content-Length"] = "50" }, body = "{" }, { stall = true } },
      "yes", "timeout", "idle" },
    { "an error in a 200", { status = 200, json = { error = { message = "overloaded", type = "server_error" } } },
      "yes", "in_band" },
    { "something that is not HTTP", { { send = "hello\r\n\r\n" }, { close = true } }, "yes", "malformed" },
    { "a head over the limit", { { send = "HTTP/1.1 200 OK\r\n" }, { repeat_send = "X: y\r\n" } }, "no", "limit" },
    { "a reply over the limit", { status = 200, body = '{"x":"' .. ("x"):rep(5000) .. '"}' }, "no", "limit" },
    { "an error over the limit", { status = 500, body = ("x"):rep(5000) }, "yes", "status" },
    { "no first token",
      { { sse = { chunk('{"role":"assistant","content":""}') }, unfinished = true }, { stall = true } },
      "yes", "timeout", "first_token", stream = true },
    { "a stream that is empty", { status = 200, sse = {} }, "yes", "malformed", stream = true },
    { "a stream with DONE alone", { status = 200, sse = {}, done = true }, "yes", "malformed", stream = true },
    { "a stream cut before output",
      { { sse = { chunk('{"role":"assistant"}') }, unfinished = true }, { close = true } },
      "yes", "cut", stream = true },
    { "a stream with an error before output", { sse = { '{"error":{"message":"overloaded"}}' } },
      "yes", "in_band", stream = true },
    { "a plain reply to a stream", { status = 200, json = { choices = {} } }, "yes", "malformed", stream = true },
    { "a whole stream cut after output", { { sse = { HELLO }, unfinished = true }, { close = true } },
      "yes", "cut", stream = true, whole = true },
    { "a whole stream stalled after output", { { sse = { HELLO }, unfinished = true }, { stall = true } },
      "yes", "timeout", "idle", stream = true, whole = true },
    { "a whole stream with an error after output", { sse = { HELLO, '{"error":{"message":"x"}}' } },
      "yes", "in_band", stream = true, whole = true },
    { "the context's length", { status = 400, json = { error = { code = "context_length_exceeded" } } },
      "no", "status" },
    { "the content policy", { status = 400, json = { error = { code = "content_policy_violation" } } },
      "no", "status" },
  } do
    it(("fails over after %s: %s"):format(case[1], case[3]), function()
      central:set{ inference = case[2] }
      local router <close> = router_for(nil, { limits = { max_reply_bytes = 4096, max_error_bytes = 4096,
        max_header_bytes = 4096 } })
      local reply, failure, _, locals = ask(router, { body = case.stream and STREAM or BODY, whole = case.whole })
      central:set{ inference = false }
      if case[3] == "yes" then
        assert.is_table(reply, failure and failure.message)
        assert.is_true(reply.failover)
        assert.equal(1, locals)
        assert.equal(case[4], reply.trace[1].kind)
      elseif case[3] == "no" then
        assert.is_nil(reply)
        assert.equal(case[4], failure.kind)
        assert.equal(0, locals)
        assert.equal(0, central:count("HEAD"))
      end
    end)
  end

  it("does not fail over when the deadline has passed", function()
    central:set{ inference = { { stall = true } } }
    local router <close> = router_for(nil, { timeouts = { first_byte_ms = 5000, total_ms = 80 } })
    local reply, failure, _, locals = ask(router)
    central:set{ inference = false }
    assert.is_nil(reply)
    assert.equal("deadline", failure.kind)
    assert.equal(0, locals)
    assert.equal(0, central:count("HEAD"))
  end)

  it("fails over for everything but the caller's own going when failoverOn is any", function()
    local router <close> = router_for{ failoverOn = "any" }
    for _, status in ipairs{ 301, 400, 401, 403, 404, 422 } do
      central:set{ inference = { status = status, body = "{}" } }
      local reply = ask(router)
      assert.is_true(reply and reply.failover)
    end
    central:set{ inference = false }
  end)

  it("fails over for an error without kind or status of a host's own primary", function()
    local router <close> = router_for()
    for _, value in ipairs{ "text", { 1 }, 5, true } do
      central:clear()
      local result = router:run("claude", function() error(value, 0) end, function() return "local" end)
      assert.equal("local", result.result)
      assert.equal(1, central:count("HEAD"))
    end
  end)

  it("says yes and no to each kind", function()
    local path = package.path
    local chunk_, why = loadfile("lua/router.lua", "t", setmetatable({ settings = { retries = 0, breaker = false } },
      { __index = _G }))
    local M = assert(chunk_, why)()
    package.path = path
    for kind, expected in pairs{
      connect = true, dns = true, tls = true, timeout = true, malformed = true, in_band = true, cut = true,
      error = true, limit = false, refused = false, cancelled = false, deadline = false, none = false, nonsense = false,
    } do
      assert.equal(expected, M.should_failover{ kind = kind } and true or false, kind)
    end
    for status, expected in pairs{ [429] = true, [503] = true, [529] = true, [400] = false, [401] = false } do
      assert.equal(expected, M.should_failover{ kind = "status", status = status } and true or false)
      assert.equal(expected, M.should_failover{ kind = "in_band", status = status } and true or false)
    end
  end)
end)
