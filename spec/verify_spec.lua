-- The verifier's own test: mistakes that were made on purpose, each found by its name, and scripts without any.
local verify = require "deputy.verify"

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  return text
end

local function run(text, given)
  local options = { name = "policy.lua", text = text, depth = 1, timeout_s = 30 }
  for name, value in pairs(given or {}) do options[name] = value end
  return verify.run(options)
end

local function kinds(report, field)
  local seen, list = {}, {}
  for _, finding in ipairs(report[field or "findings"]) do
    if not seen[finding.kind] then list[#list + 1] = finding.kind end
    seen[finding.kind] = true
  end
  table.sort(list)
  return table.concat(list, " ")
end

local function sorted(words)
  local list = {}
  for word in words:gmatch("%S+") do list[#list + 1] = word end
  table.sort(list)
  return table.concat(list, " ")
end

-- A policy without a mistake; change(text) makes another of it.
local RIGHT = [[
local M = {}

function M.should_failover(failure)
  local kind, status = failure.kind, failure.status or 0
  if kind == "status" then return status == 429 or status >= 500 end
  return kind == "connect" or kind == "dns" or kind == "tls" or kind == "timeout"
end

function M.verdict(probe)
  if probe.kind ~= "ok" then return "unreachable" end
  if probe.status == 401 or probe.status == 403 then return "forbidden" end
  return probe.status >= 200 and probe.status <= 299 and "allowed" or "unreachable"
end

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  if not M.should_failover(failure) then return nil, failure end
  local provider = run:failover()
  if not provider then return nil, failure end
  if M.verdict(run:probe()) ~= "allowed" then return nil, failure end
  local answer = run:complete(provider)
  if answer then return answer end
  return nil, failure
end

return M
]]

local function changed(what, by)
  local from, to = RIGHT:find(what, 1, true)
  assert(from, what)
  return RIGHT:sub(1, from - 1) .. by .. RIGHT:sub(to + 1)
end

local function globals()
  local env = {}
  for _, name in ipairs{ "assert", "error", "getmetatable", "ipairs", "next", "pairs", "pcall", "rawget", "rawset",
    "select", "setmetatable", "tonumber", "tostring", "type", "string", "table", "math", "os", "coroutine" } do
    env[name] = _G[name]
  end
  return env
end

local function seeds()
  local list = {}
  local pipe = assert(io.popen("ls spec/verify/*.lua"))
  for path in pipe:lines() do
    local text = read(path)
    local head = assert(text:match("\n%-%- verify: ([^\n]*)"), path .. " does not say what verify finds")
    list[#list + 1] = {
      name = path:match("([^/]+)%.lua$"), text = text, what = text:match("^%-%- ([^\n]*)"),
      finds = sorted((head:gsub("%w+=[%w_]+", ""))), notes = head:match("note=([%w_]+)"),
      gate = head:match("gate=(%w+)"),
      depth = tonumber(head:match("depth=(%d)")),
    }
  end
  pipe:close()
  return list
end

describe("verify finds a mistake that was made on purpose:", function()
  local all = seeds()
  it("there are enough of them", function() assert.is_true(#all >= 25) end)
  for _, seed in ipairs(all) do
    it(seed.name .. " (" .. seed.what .. ")", function()
      local report = run(seed.text, { gate = seed.gate, depth = seed.depth })
      assert.equal(seed.finds, kinds(report))
      if seed.notes then assert.equal(seed.notes, kinds(report, "notes")) end
      assert.equal(seed.finds == "", report.fail_closed)
      for _, finding in ipairs(report.findings) do assert.is_true(#finding.sequence > 0) end
    end)
  end
end)

describe("verify finds nothing in", function()
  it("a policy without a mistake", function()
    local report = run(RIGHT, { depth = 3 })
    assert.same({}, report.findings)
    assert.is_true(report.fail_closed)
    assert.is_true(report.complete)
  end)

  for _, settings in ipairs{
    {}, { retries = 0 }, { breaker = false }, { retries = 0, breaker = false }, { failoverOn = "any" },
    { breaker = { failures = 1, openMs = 1000 } }, { retries = 2, breaker = { failures = 2 }, failoverOn = "any" },
  } do
    it("the default policy with " .. require("cjson").encode(settings), function()
      local report = run(read("lua/router.lua"), { depth = 2, settings = settings })
      assert.same({}, report.findings)
      assert.is_true(report.fail_closed)
    end)
  end

  it("the default policy, three requests deep, with breakers in every state", function()
    local report = run(read("lua/router.lua"), { depth = 3 })
    assert.same({}, report.findings)
    assert.is_true(report.fail_closed)
    assert.is_true(#report.others > 0)
    local opened = false
    for _, other in ipairs(report.others) do
      for _, row in ipairs(other.table) do
        opened = opened or (row.cells[1].point ~= "primary" and row.result == "local reply")
      end
    end
    assert.is_true(opened)
  end)
end)

describe("verify explores", function()
  it("depth 1 of the default policy within 200 ms, and more than 10,000 worlds a second", function()
    local text, best, worlds = read("lua/router.lua"), math.huge, 0
    for _ = 1, 3 do
      local report = run(text)
      best, worlds = math.min(best, report.seconds), report.worlds
    end
    local slow = os.getenv("LD_PRELOAD") or os.getenv("DEPUTY_SLOW")
    if not slow then assert.is_true(best <= 0.2, ("it took %.3f s"):format(best)) end
    assert.is_true(slow or worlds / best >= 10000)
  end)

  it("says when it was ended early, and then claims nothing", function()
    local report = run(read("lua/router.lua"), { depth = 3, max_worlds = 50 })
    assert.is_false(report.complete)
    assert.is_false(report.fail_closed)
    assert.matches("bound of 50 worlds", verify.format(report, "text"))
    report = run(read("lua/router.lua"), { depth = 6, timeout_s = 0.05 })
    assert.is_false(report.complete)
    assert.matches("ran out", report.stopped)
  end)

  it("no script that takes the compiler too long", function()
    local began = os.clock()
    local report = run("local a = 1 local x = a " .. ("and a "):rep(170000) .. RIGHT)
    assert.equal("load", kinds(report))
    assert.equal("policy.lua: it takes too long to compile", report.findings[1].message)
    assert.is_true(os.clock() - began <= 10)
  end)

  it("shows the shortest sequence", function()
    local report = run(changed('if M.verdict(run:probe()) ~= "allowed" then return nil, failure end\n', ""))
    assert.same({ "primary: connect; stand-ins: one" }, report.findings[1].sequence)
  end)

  it("a permit that is good for as long as the configuration says", function()
    local text = read("spec/verify/sleeps_after_probe.lua")
    assert.is_true(run(text, { permit_ms = 7000 }).fail_closed)
    local report = run(text:gsub("6000", "2000"), { permit_ms = 1000 })
    assert.equal("unpermitted", kinds(report))
    assert.matches("was 2 s old: a permit is good for 1 s", report.findings[1].message)
  end)

  it("shows the requests that lead there", function()
    local report = run(read("spec/verify/open_skips_probe.lua"), { depth = 2 })
    local sequence = report.findings[1].sequence
    assert.equal(2, #sequence)
    assert.matches("^request 1: .*%(3 times%)", sequence[1])
  end)

  it("names the line of an error as the script's author counts", function()
    local report = run(changed("  local provider = run:failover()", "\n\n  local provider = nothing.at.all"))
    assert.equal("raises", kinds(report))
    assert.matches("policy.lua:21: attempt to index a nil value %(global 'nothing'%)", report.findings[1].message)
  end)

  it("a script whose words it cannot spread out", function()
    local report = run(changed("return M\n", "return M --[==[ ends ]] here ]==]\n"))
    assert.is_true(report.fail_closed)
  end)

  it("through pcall, metamethods, iterators and coroutines of the script's own", function()
    local report = run(changed("local provider = run:failover()", [[
local provider
  local ask = setmetatable({}, { __index = function(_, name) return name == "it" and run:failover() end })
  local ok, value = pcall(function() return ask.it end)
  if ok then provider = value or nil end
  local pieces = coroutine.wrap(function() coroutine.yield(1) coroutine.yield(2) end)
  for _ = 1, 2 do assert(pieces()) end]]))
    assert.same({}, report.findings)
  end)

  it("and refuses to wait in a coroutine that is not the run's", function()
    local report = run(changed("local provider = run:failover()", [[
local provider = coroutine.wrap(function() return run:probe() end)() and run:failover()]]))
    assert.equal("raises", kinds(report))
    assert.matches("inside another coroutine", report.findings[1].message)
  end)

  it("what a script keeps in globals, closures, metatables and coroutines", function()
    local skip = 'if %s then return run:complete(provider) end\n'
    local keeps = {
      { "", "kept", "kept = true" },
      { "local t = setmetatable({}, {})\n", "getmetatable(t).kept", "getmetatable(t).kept = true" },
      { "local get, set\ndo local kept; get = function() return kept end; set = function() kept = true end end\n",
        "get()", "set()" },
      { "", "string.kept", "string.kept = true" },
    }
    for _, keep in ipairs(keeps) do
      local probe = 'if M.verdict(run:probe()) ~= "allowed" then return nil, failure end\n'
      local report = run(keep[1] .. changed(probe, skip:format(keep[2]) .. probe .. keep[3] .. "\n"), { depth = 2 })
      assert.matches("unpermitted", kinds(report), keep[2])
    end
  end)

  it("no string's metatable: the engine protects it", function()
    local report = run("getmetatable('').__index = nil " .. RIGHT)
    assert.equal("load", kinds(report))
  end)

  it("with the environment that it is given", function()
    local asked
    local report = run("log('info', mine()) " .. RIGHT, { environment = function()
      local env = globals()
      env.mine = function()
        asked = true
        return "x"
      end
      return env
    end })
    assert.is_true(asked)
    assert.is_true(report.fail_closed)
    assert.is_nil(rawget(_G, "log"))
  end)

  it("modules that somebody else loads, in the simulated world all the same", function()
    local environment = function()
      local env = globals()
      env.require = require
      return env
    end
    package.loaded["deputy.breaker"], package.loaded["deputy.retry"] = nil, nil
    local report = run(read("lua/router.lua"), { environment = environment, depth = 2,
      settings = { breaker = { failures = 1 } } })
    package.loaded["deputy.breaker"], package.loaded["deputy.retry"] = nil, nil
    assert.same({}, report.findings)
    assert.is_true(report.fail_closed)
  end)

  it("leaves no trace of a script in the libraries of its host", function()
    run("string.format = nil table.concat = nil math.floor = nil _G.os = nil " .. RIGHT)
    assert.is_function(string.format)
    assert.is_function(table.concat)
    assert.is_function(os.time)
  end)
end)

describe("verify knows what a cached allow costs", function()
  it("and names the lag behind no gate", function()
    local report = run(read("examples/policies/cached_allow.lua"), { gate = "policy", depth = 2 })
    assert.same({}, report.findings)
    assert.equal(30000, report.cache_allow_ms)
    assert.equal(30000, report.lag_ms)
    assert.matches("at most 30000 ms", verify.format(report, "text"))
    assert.matches('"revocation_lag_ms":30000', verify.format(report, "json"))
  end)

  it("and finds none where each request is asked about", function()
    local report = run(read("examples/policies/strict.lua"), { gate = "policy", depth = 2 })
    assert.is_true(report.fail_closed)
    assert.is_nil(report.lag_ms)
    assert.matches("keeps no allowed answer", (verify.format(report, "text"):gsub("%s+", " ")))
  end)
end)

describe("a report", function()
  local good, bad

  setup(function()
    good = run(read("lua/router.lua"), { name = "lua/router.lua", depth = 2 })
    bad = run(read("spec/verify/cached_allow.lua"), { depth = 2 })
  end)

  it("fits 80 columns", function()
    for _, report in ipairs{ good, bad } do
      for line in verify.format(report, "text"):gmatch("[^\n]*") do assert.is_true(#line <= 80, line) end
    end
  end)

  it("says what it is, and whether the script is fail-closed", function()
    local text = verify.format(good, "text")
    assert.matches("^lua/router.lua: fail%-closed\n", text)
    assert.matches("bounded: [%d,]+ worlds, depth 2", text)
    assert.matches("The gate in C is the guarantee", text)
    assert.matches("NOT fail%-closed: 1 finding\n", verify.format(bad, "text"))
    assert.matches("request 1: .*\n.*request 2: ", verify.format(bad, "text"))
  end)

  it("prints the decision table that it found", function()
    local text = verify.format(good, "text")
    assert.matches("primary +stand%-ins +probe +local", text)
    assert.matches("answers +primary's reply", text)
    assert.matches("A  connect, dns, tls, 408, 425, 500, 502, 503, 504, 529, 429 %(Retry%-After: 2%)", text)
    assert.matches("local reply", text)
  end)

  it("is JSON", function()
    for _, report in ipairs{ good, bad } do
      local json = require("cjson").decode(verify.format(report, "json"))
      assert.equal(report.fail_closed, json.fail_closed)
      assert.equal(report.worlds, json.worlds)
      assert.equal(#report.findings, #json.findings)
      assert.equal(#report.table, #json.table)
      assert.equal("primary", json.table[1].when[1].point)
    end
  end)

  it("is Markdown", function()
    local text = verify.format(bad, "markdown")
    assert.matches("^# policy.lua: NOT fail%-closed", text)
    assert.matches("\n| primary | stand%-ins | probe | local ", text)
    assert.matches("\n## unpermitted: ", text)
  end)

  it("hands no control character of the script to a terminal, however it is encoded", function()
    local said = [[error("\27[2Jbad\7 \u{9b}31mthing\r\n\0", 0)]]
    for _, text in ipairs{ said, changed("local provider =", said .. " local provider =") } do
      local report = run(text, { name = "\27[2Jpolicy.lua" })
      for _, how in ipairs{ "text", "brief", "json", "markdown" } do
        local shown = verify.format(report, how)
        assert.matches("thing", shown)
        assert.is_nil(shown:gsub("\n", ""):find("%c"), how)
        assert.is_nil(shown:find("\xc2[\x80-\x9f]"), how)
      end
    end
  end)

  it("has no other shape", function()
    local why = 'expected "text", "brief", "json" or "markdown", got "xml"'
    assert.has_error(function() verify.format(good, "xml") end, why)
  end)
end)
