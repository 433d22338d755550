-- lua/deputy/meta.lua against what is really there, in both directions.
local deputy = require "deputy"
local lfs = require "lfs"
local peers = require "spec.support.peers"
local tmp = require "spec.support.tmp"

local text = tmp.read("lua/deputy/meta.lua")
local host, policy = text:match("^(.*)%-%- Part 2: policies(.*)$")

-- The members that the stubs name, for each class: functions of its local table and ---@field lines.
local function documented(part)
  local classes, class = {}, nil
  local tables = {}
  for line in part:gmatch("[^\n]+") do
    local name = line:match("^%-%-%-@class ([%w_.]+)")
    local field, annotation = line:match("^%-%-%-@field ([%w_]+)%??%s+(.+)$")
    local variable = line:match("^local (%w+) = {}$")
    local owner, method = line:match("^function (%w+)[.:]([%w_]+)%(")
    if name then
      class = classes[name] or {}
      classes[name] = class
    elseif field then
      class[field] = annotation
    elseif variable then
      tables[variable] = class
    elseif owner then
      local members = tables[owner] or classes[owner] or {}
      tables[owner] = members
      members[method] = true
    end
  end
  return classes, tables
end

local function names(t)
  local list = {}
  for name in pairs(t) do list[#list + 1] = name end
  table.sort(list)
  return list
end

local function methods(object)
  local index = getmetatable(object).__index
  if type(index) == "function" then index = select(2, debug.getupvalue(index, 1)) end
  return index
end

describe("meta.lua", function()
  local classes = documented(host)
  local registry = deputy.registry()
  local router = deputy.router(registry, { policy = "lua/router.lua", probe = function() return 200 end,
    bearer_token = "tok" })

  it("is Lua that loads", function()
    assert.is_table(assert(load(text, "@lua/deputy/meta.lua", "t", {}))())
  end)

  it("names what the module has, and nothing else", function()
    assert.same(names(deputy), names(classes["deputy"]))
  end)

  it("names the methods of a registry, a router and a provider, and nothing else", function()
    assert.same(names(methods(registry)), names(classes["deputy.Registry"]))
    assert.same(names(methods(router)), names(classes["deputy.Router"]))
    local provider = names(classes["deputy.Provider"])
    assert.same({ "complete", "is_available", "list_models", "name" }, provider)
    assert.same({ "complete", "is_available", "list_models" }, names(methods(deputy.echo("x"))))
    assert.equal("x", deputy.echo("x").name)
  end)

  -- An unknown option is an error: so each documented one is tried, with a value of a type that none takes.
  it("names the options of a router, and no others", function()
    local function known(option, make)
      local _, message = pcall(make, option)
      return not message:find("unknown option", 1, true)
    end
    local function try(option) return deputy.router(registry, { [option] = coroutine.create(print) }) end
    local function try_in(table_name)
      return function(option) return deputy.router(registry, { [table_name] = { [option] = print } }) end
    end
    for option in pairs(classes["deputy.RouterOptions"]) do assert.is_true(known(option, try), option) end
    for option in pairs(classes["deputy.Timeouts"]) do assert.is_true(known(option, try_in("timeouts")), option) end
    for option in pairs(classes["deputy.Limits"]) do assert.is_true(known(option, try_in("limits")), option) end
    for option in pairs(classes["deputy.OpenaiOptions"]) do
      assert.is_true(known(option, function(name) return deputy.openai{ [name] = print } end), option)
    end
    assert.is_false(known("nonsense", try))
    assert.is_false(known("nonsense", try_in("limits")))
  end)

  it("names what the C header calls timeouts and limits", function()
    local header = tmp.read("include/deputy.h")
    for class, struct in pairs{ ["deputy.Timeouts"] = "deputy_timeouts", ["deputy.Limits"] = "deputy_limits" } do
      local fields = {}
      for name in header:match("typedef struct " .. struct .. " {(.-)}"):gmatch("[%w_]+%s+([%w_]+);") do
        fields[name] = true
      end
      assert.same(names(fields), names(classes[class]))
    end
  end)

  it("names what is in a result, a reply, a failure and a trace, and nothing else", function()
    local function within(value, class, hidden)
      for field in pairs(value) do assert.is_not_nil(classes[class][field], class .. "." .. field) end
      for _, field in ipairs(hidden or {}) do assert.is_not_nil(value[field]) end
    end
    local echo = deputy.echo("echo")
    registry:register(echo)
    registry:register_failover("claude", "echo")
    local result = router:run("claude", function() error{ status = 503, kind = "status" } end, function() return 1 end)
    within(result, "deputy.Result", { "trace" })
    for _, leg in ipairs(result.trace) do within(leg, "deputy.Trace") end
    within(echo:complete("{}"), "deputy.Reply")
    local _, failure, reply = echo:complete("nonsense")
    within(failure, "deputy.Failure")
    within(reply, "deputy.Reply")
    for _, field in ipairs{ "status", "kind", "code", "message" } do assert.is_not_nil(failure[field], field) end
  end)
end)

-- A policy tells through its log what it finds: so this is the state that scripts really get.
describe("meta.lua, for policies,", function()
  local classes = documented(policy)
  local globals = {}
  for name in policy:gmatch("\n(%a+) = {}\n") do globals[name] = true end
  for name in policy:gmatch("\nfunction (%a+)%(") do globals[name] = true end

  after_each(peers.stop_all)

  -- The lists of what is left of Lua itself: "--   table       concat insert ...", each going on in the lines after it.
  local function standard()
    local libraries, current = {}, nil
    for line in policy:match("(.-)\n%-%-%-%-"):gmatch("[^\n]+") do
      local library, words = line:match("^%-%-   (%a[%w_]*)  +(.+)$")
      if not library then library, words = line:match("^%-%-   (_G)  +(.+)$") end
      if library then
        current = {}
        libraries[library] = current
      else
        words = line:match("^%-%-               +(.+)$")
      end
      if current and words then
        for word in words:gmatch("%S+") do current[word] = true end
      end
    end
    return libraries
  end

  it("names every global, and nothing else", function()
    local known = standard()
    for name in pairs(globals) do known._G[name] = true end
    known.JSON = { encode = true, decode = true, null = true }
    local script = tmp.write(nil, "globals.lua", [[
      for name, value in pairs(_G) do
        if type(value) == "table" and name ~= "settings" then
          local members = {}
          for member in pairs(value) do members[#members + 1] = member end
          table.sort(members)
          log("info", name .. " " .. table.concat(members, " "))
        end
      end
      return { route = function(run) return run:primary() end, should_failover = function() return false end,
        verdict = function() return "unreachable" end }]])
    local found = {}
    deputy.router(deputy.registry(), { policy = script, on_log = function(_, line)
      local library, members = line:match("^policy: (%S+) (.*)$")
      found[library] = members
    end })
    local expected = {}
    for library, members in pairs(known) do expected[library] = table.concat(names(members), " ") end
    assert.same(expected, found)
  end)

  it("names the modules that a policy can require", function()
    local line, modules, there = policy:match("\n%-%-%- (A module that travels[^\n]*)"), {}, {}
    for name in line:gmatch("deputy%.%a+") do modules[#modules + 1] = name end
    for file in lfs.dir("lua/deputy") do
      local name = file:match("^(%a[%w_]*)%.lua$")
      if name and not name:find("^verify") then
        local script = ("require 'deputy.%s'\n"):format(name) .. tmp.read("lua/router.lua")
        local loads, problem = pcall(deputy.router, deputy.registry(),
          { policy = tmp.write(nil, "module.lua", script) })
        if loads then there["deputy." .. name] = true
        else assert.matches("a policy can only require what comes with deputy", tostring(problem), 1, true) end
      end
    end
    table.sort(modules)
    assert.same(names(there), modules)
    local lines = {}
    for _, name in ipairs(modules) do lines[#lines + 1] = ("assert(type(require %q) == 'table')"):format(name) end
    assert.is_truthy(deputy.router(deputy.registry(), { policy = tmp.write(nil, "modules.lua",
      table.concat(lines, "\n") .. "\n" .. tmp.read("lua/router.lua")) }))
  end)

  -- What the type of a ---@field is to Lua.
  local function lua_type(annotation)
    if annotation:match("^fun") then return "function" end
    if annotation:match("^integer") or annotation:match("^number") then return "number" end
    if annotation:match("^boolean") then return "boolean" end
    return "string"
  end

  local CLASSES = {
    run = "deputy.Run", failure = "deputy.PolicyFailure", probe = "deputy.ProbeAnswer",
    candidate = "deputy.Candidate", reply = "deputy.PolicyReply",
  }

  -- Loaded with verify on: so the simulated world has the same fields.
  local POLICY = [[
    local NAMES = %s
    local M = {}
    local function report(what, object)
      for _, name in ipairs(NAMES[what]) do
        local value = object[name]
        local kind = math.type(value) == "float" and "number" or type(value)
        log("info", what .. "." .. name .. " " .. kind)
      end
    end
    function M.should_failover(failure) return failure.kind == "status" and failure.status == 429 end
    function M.verdict(probe)
      if probe.kind ~= "ok" or probe.content_type == "text/html" then return "unreachable" end
      if probe.status == 401 or probe.status == 403 then return "forbidden" end
      return probe.status >= 200 and probe.status <= 299 and "allowed" or "unreachable"
    end
    function M.route(run)
      report("run", run)
      local reply, failure = run:primary{ timeout_ms = 5000 }
      if reply then return reply end
      report("failure", failure)
      if not M.should_failover(failure) then return nil, failure end
      local candidate = run:failover()
      if not candidate then return nil, failure end
      report("candidate", candidate)
      local probe = run:probe{ timeout_ms = 5000 }
      report("probe", probe)
      if M.verdict(probe) ~= "allowed" then return nil, failure end
      local answer = run:complete(candidate, { timeout_ms = 5000 })
      if not answer then return nil, failure end
      report("reply", answer)
      return answer
    end
    return M]]

  it("names what a run, a failure, a probe, a candidate and a reply have, of that type, and nothing else", function()
    local parts, expected = {}, {}
    for what, class in pairs(CLASSES) do
      local quoted = {}
      for i, name in ipairs(names(classes[class])) do
        quoted[i] = ("%q"):format(name)
        local annotation = classes[class][name]
        expected[what .. "." .. name] = annotation == true and "function" or lua_type(annotation)
      end
      parts[#parts + 1] = what .. " = { " .. table.concat(quoted, ", ") .. " }"
    end
    local script = tmp.write(nil, "fields.lua", POLICY:format("{ " .. table.concat(parts, ", ") .. " }"))

    local central = peers.central{
      llms = { claude = {} }, tokens = { tok = { view = { "claude" }, run = { "claude" } } },
      inference = { status = 429, headers = { ["Retry-After"] = "7", ["Content-Type"] = "application/json" },
        body = '{"error":{"message":"slow down","code":"rate_limit_exceeded"}}' },
      probe = { status = 200, headers = { ["Content-Type"] = "application/json; charset=utf-8" } },
    }
    local model = peers.openai{ models = { "qwen3" } }
    local registry, found = deputy.registry(), {}
    registry:register(deputy.openai{ name = "one", url = model.url .. "/v1", model = "qwen3" })
    registry:register_failover("claude", "one")
    local router = deputy.router(registry, {
      central_url = central.url, bearer_token = "tok", policy = script,
      on_log = function(_, line)
        local name, kind = line:match("^policy: (%S+) (%S+)$")
        if name then found[name] = kind end
      end,
    })
    local reply, failure = router:complete{ llm = "claude", body = '{"model":"claude","messages":[]}' }
    assert.equal("one", reply and reply.via, tostring(failure))
    assert.same(expected, found)

    -- A script cannot list the members of these objects: what C answers to is found in its source.
    for what, class in pairs(CLASSES) do
      local source, members = tmp.read("src/lua/lua_" .. what .. ".c"), {}
      for name in source:gmatch('strcmp%(name, "([%w_]+)"%)') do members[name] = true end
      for name in (source:match("luaL_Reg methods%[%] = {(.-)};") or ""):gmatch('{"([%w_]+)",') do
        members[name] = true
      end
      assert.same(names(members), names(classes[class]), what)
    end
  end)

  it("names what the functions of a run take", function()
    local taken, options = {}, {}
    for name in tmp.read("src/lua/lua_run.c"):gmatch('lua_getfield%(L, [%w-]+, "([%w_]+)"%)') do taken[name] = true end
    for _, class in ipairs{ "deputy.LegOptions", "deputy.ProbeOptions" } do
      for name in pairs(classes[class]) do options[name] = true end
    end
    assert.same(names(taken), names(options))
  end)

  it("names what a script's table may hold", function()
    assert.same({ "cache_allow_ms", "route", "settings", "should_failover", "verdict" },
      names(classes["deputy.Policy"]))
  end)
end)
