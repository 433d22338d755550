-- The run as the script sees it: its functions, which wait by yielding to the world, and its fields.
local facts = require "deputy.verify_facts"
local outcomes = require "deputy.verify_outcomes"
local sandbox = require "deputy.verify_sandbox"

local yield, running, isyieldable = coroutine.yield, coroutine.running, coroutine.isyieldable
local type, error, tostring = type, error, tostring
local pack, unpack, format = table.pack, table.unpack, string.format

local run = { source = debug.getinfo(1, "S").source }

local function record_of(self, object)
  local record = type(object) == "table" and self.sims[object]
  if not record or record.class ~= "run" then
    error("expected a run as the first argument: call its functions with a colon, as in run:primary()", 3)
  end
  if record.run ~= self.run then error("this run is over: a script may not use it later", 3) end
  return record
end

local function wait(self, object, name, ...)
  record_of(self, object)
  if running() ~= self.current then
    error(format("run:%s() was called inside another coroutine: only the run's own may wait", name), 2)
  end
  if not isyieldable() then
    error(format("run:%s() cannot wait here: a C function such as table.sort or string.gsub is on the stack", name), 2)
  end
  local got = pack(yield(facts.OP, name, ...))
  if got[1] == facts.FAIL then error(got[2], 0) end
  return unpack(got, 1, got.n)
end

local function timeout_of(options)
  if options == nil then return nil end
  if type(options) ~= "table" then error("bad argument: table expected, got " .. type(options), 3) end
  local ms = options.timeout_ms
  if ms == nil then return nil end
  if math.type(ms) == nil or ms ~= math.floor(ms) then error("timeout_ms: number has no integer representation", 3) end
  if ms < 1 or ms > 4294967295 then error("timeout_ms: expected 1 or more milliseconds", 3) end
  return ms / 1000
end

function run.make_methods(self)
  local m = {}
  function m.primary(object, options) return wait(self, object, "primary", timeout_of(options)) end
  function m.probe(object, options)
    local seconds = timeout_of(options)
    local llm = options and options.llm
    if llm ~= nil and type(llm) ~= "string" then error("bad argument: string expected, got " .. type(llm), 2) end
    return wait(self, object, "probe", seconds, llm)
  end
  function m.complete(object, provider, options)
    local record = self.sims[provider == nil and self or provider]
    local name = type(provider) == "string" and provider
      or record and record.class == "candidate" and record.fields.name
    if not name then
      record_of(self, object)
      error("run:complete(provider): expected what run:failover() or run:candidates() gave, got " .. type(provider), 2)
    end
    return wait(self, object, "complete", timeout_of(options), name)
  end
  function m.sleep(object, ms)
    if math.type(ms) == nil then error("bad argument #1 to 'sleep' (number expected, got " .. type(ms) .. ")", 2) end
    if not (ms >= 0 and ms <= 86400000) then
      error(format("run:sleep(ms): expected 0 to 86400000 milliseconds, got %s", tostring(ms)), 2)
    end
    return wait(self, object, "sleep", ms / 1000)
  end
  function m.first(object, functions)
    if type(functions) ~= "table" then error("bad argument: table expected, got " .. type(functions), 2) end
    if #functions < 1 or #functions > 8 then
      error(format("run:first{...}: expected 1 to 8 functions, got %d", #functions), 2)
    end
    for i, f in ipairs(functions) do
      if type(f) ~= "function" then
        error(format("run:first{...}: expected a function at %d, got %s", i, type(f)), 2)
      end
    end
    return wait(self, object, "first", functions)
  end
  function m.failover(object)
    record_of(self, object)
    if facts.stand_ins_of(self) > 0 then return facts.candidate(self, 1) end
  end
  function m.candidates(object)
    record_of(self, object)
    local list = {}
    for i = 1, facts.stand_ins_of(self) do list[i] = facts.candidate(self, i) end
    return list
  end
  function m.log(object, level, text)
    record_of(self, object)
    sandbox.check_log(level, text)
  end
  self.methods = m
end

function run.field(self, record, field)
  local method = self.methods[field]
  if method then return method end
  if record.run ~= self.run then return nil end
  if field == "llm" then return facts.llm_of(self) end
  if field == "caller" then return facts.caller_of(self) or nil end
  if field == "deadline" then
    local at = facts.moment_of(self)
    return at + facts.left_of(self)
  end
  if field == "attempt" then
    self.owner.read(self.facts, "attempt")
    return self.facts.fields.attempt
  end
  if field == "gate" then return self.gate end
  if field == "id" then return facts.decide(self, "id", "run's number", outcomes.id) end
  if field == "stream" then return facts.decide(self, "stream", "stream", outcomes.stream) end
  if field == "endpoint" then return facts.decide(self, "endpoint", "endpoint", self.endpoint_options) end
end

return run
