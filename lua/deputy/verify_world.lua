-- The world that a policy is verified in: no network, no real clock. Whatever the script asks for that could turn out
-- in more than one way is a choice point: the world asks its owner which way it goes. What C would do with a run
-- (permits, the primary's failure as it was kept, the outcome after a bad end) is done here in the same way.
--
--   local world = World.new{ name =, text =, settings =, gate =, environment =, owner = }
--   local problem = world:load()              why the script is no policy, or nil
--   local result, left = world:route(moment)  runs one request from a moment; result: a word for what the caller got
--
-- owner.choose(world, point, options) -> an index, or nil: give this run up
-- owner.find(kind, message)           a finding, in the run that goes on
-- owner.read(record, field)           the script has looked at a field of something that the world handed out
local outcomes = require "deputy.verify_outcomes"
local sandbox = require "deputy.verify_sandbox"
local state = require "deputy.verify_state"

local World = {}
World.__index = World

local NOW, WALL = state.NOW, state.WALL
local create, yield, running = coroutine.create, coroutine.yield, coroutine.running
local isyieldable, costatus = coroutine.isyieldable, coroutine.status
local type, error, pcall, tostring = type, error, pcall, tostring
local pack, unpack = table.pack, table.unpack
local format, max = string.format, math.max

local PERMIT_S = 5
local WALL_STEP_S = 600 -- moments of the day that are closer together count as one
local PRIMARIES, PROBES, WAITS, CHANCES = 6, 16, 64, 3

-- ---- what the script holds in its hands -----------------------------------------------------------------------------

local OP, FAIL, ABORT = {}, {}, {} -- nothing that a script could make by itself

local function make_classes(self)
  local sims = self.sims
  local function class(name, index, to_text)
    return {
      __name = name,
      __metatable = name,
      __index = index or function(object, field)
        local record = sims[object]
        self.owner.read(record, field)
        return record.fields[field]
      end,
      __newindex = function() error("attempt to index a " .. name .. " value that cannot be changed", 2) end,
      __pairs = function() error("bad argument #1 to 'pairs' (table expected, got " .. name .. ")", 2) end,
      __len = function() error("attempt to get length of a " .. name .. " value", 2) end,
      __tostring = to_text or function() return name end,
    }
  end
  self.classes = {
    failure = class("deputy.failure", nil, function(object) return object.kind .. ": " .. object.message end),
    probe = class("deputy.probe"),
    reply = class("deputy.reply"),
    candidate = class("deputy.candidate", nil, function(object) return object.name end),
    run = class("deputy.run", function(object, field) return self:run_field(sims[object], field) end),
  }
end

local FIELDS = { "code", "content_type", "kind", "message", "name", "retry_after", "size", "status", "stream", "us" }

local function in_words(class, fields)
  local out = { class }
  for _, name in ipairs(FIELDS) do
    if fields[name] ~= nil then out[#out + 1] = name .. "=" .. tostring(fields[name]) end
  end
  return table.concat(out, " ")
end

local function hand_out(self, class, role, fields)
  local object = setmetatable({}, self.classes[class])
  local ordinal = self.ordinal + 1
  self.ordinal = ordinal
  local record = { class = class, role = role, fields = fields, ordinal = ordinal, run = self.run,
    text = fields.text or in_words(class, fields) }
  self.sims[object] = record
  return object, record
end

-- ---- choices --------------------------------------------------------------------------------------------------------

-- Asked from inside the script: the coroutine stops, so that its state can be looked at. Where it cannot stop, no state
-- is compared and everything that follows is explored.
function World:pick(point, options)
  if self.aborted then error(ABORT, 0) end
  if #options == 1 then return options[1] end
  local index
  if self.current and running() == self.current and isyieldable() then
    index = yield(OP, "choose", point, options)
  else
    index = self.owner.choose(self, point, options, self.current ~= nil)
  end
  if not index then
    self.aborted = true -- whatever the script makes of the error
    error(ABORT, 0)
  end
  return options[index]
end

-- What a run is like is decided when it is first asked for, and counts from then on for those who ask.
local function decide(self, field, point, options)
  self.owner.read(self.facts, field)
  local fields = self.facts.fields
  local value = fields[field]
  if value == nil then
    value = self:pick(point, options).value
    fields[field] = value
  end
  return value
end

local function moment_of(self)
  if self.request > 1 then
    local fields = self.facts.fields
    self.owner.read(self.facts, "gap")
    if not fields.gap then
      self.origin = self.origin + self:pick("last request", self.gaps).seconds
      fields.gap = true
    end
  end
  return NOW + self.origin + self.t
end

local function wall_of(self)
  local at = moment_of(self) - NOW
  self.owner.read(self.facts, "wall")
  if not self.wall then
    if not self.run then return WALL + outcomes.wall[1].value end
    self.wall = self:pick("wall clock", outcomes.wall).value - at
    self.facts.fields.wall = "known"
  end
  return WALL + self.wall + at
end

local function left_of(self)
  local fields = self.facts.fields
  self.owner.read(self.facts, "left")
  if not self.deadline then
    self.deadline = self.t + self:pick("deadline", outcomes.deadline).value
    fields.left = "known"
  end
  return self.deadline - self.t
end

-- One thing at a time: another caller of the same LLM, or the same caller of another LLM.
local function llm_of(self)
  self.owner.read(self.facts, "caller")
  local options = self.llm_options[self.llms + 1] or self.llm_options[#self.llm_options]
  if self.facts.fields.caller == outcomes.caller_names[2] then options = self.llm_options[1] end
  local llm = decide(self, "llm", "LLM", options)
  if llm == outcomes.llm_names[self.llms + 1] then self.llms = self.llms + 1 end
  return llm
end

local function caller_of(self)
  self.owner.read(self.facts, "llm")
  local options = self.caller_options[self.callers + 1] or self.caller_options[#self.caller_options]
  if self.facts.fields.llm == outcomes.llm_names[2] then options = self.llm_options.caller end
  local caller = decide(self, "caller", "caller", options)
  if caller and caller == outcomes.caller_names[self.callers + 1] then self.callers = self.callers + 1 end
  return caller
end

World.moment_now, World.wall_now = moment_of, wall_of

function World:chance()
  if not self.run or self.chances >= CHANCES then return 0.5 end
  self.chances = self.chances + 1
  return self:pick("chance", outcomes.chance).value
end

local function stand_ins_of(self) return decide(self, "stand_ins", "stand-ins", outcomes.stand_ins) end

local function candidate(self, i)
  local made = self.candidates[i]
  if not made then
    made = hand_out(self, "candidate", "candidate" .. i, { name = "local-" .. i })
    self.candidates[i] = made
  end
  return made
end

-- ---- the run, as the script sees it ---------------------------------------------------------------------------------

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
  local got = pack(yield(OP, name, ...))
  if got[1] == FAIL then error(got[2], 0) end
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

local function make_methods(self)
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
    if stand_ins_of(self) > 0 then return candidate(self, 1) end
  end
  function m.candidates(object)
    record_of(self, object)
    local list = {}
    for i = 1, stand_ins_of(self) do list[i] = candidate(self, i) end
    return list
  end
  function m.log(object, level, text)
    record_of(self, object)
    sandbox.check_log(level, text)
  end
  self.methods = m
end

function World:run_field(record, field)
  local method = self.methods[field]
  if method then return method end
  if record.run ~= self.run then return nil end
  if field == "llm" then return llm_of(self) end
  if field == "caller" then return caller_of(self) or nil end
  if field == "deadline" then
    local at = moment_of(self)
    return at + left_of(self)
  end
  if field == "attempt" then
    self.owner.read(self.facts, "attempt")
    return self.facts.fields.attempt
  end
  if field == "gate" then return self.gate end
  if field == "id" then return decide(self, "id", "run's number", outcomes.id) end
  if field == "stream" then return decide(self, "stream", "stream", outcomes.stream) end
  if field == "endpoint" then return decide(self, "endpoint", "endpoint", outcomes.endpoint) end
end

-- ---- making and loading ---------------------------------------------------------------------------------------------

-- How long the last request may be ago: the numbers of the script and its settings that look like milliseconds, exactly
-- and a little more, and times that are short and long for anybody.
local function gap_options(self)
  local seen, list, longest = {}, { { label = "just now", seconds = 0, first = true } }, 1
  local function add(seconds)
    if seconds > 0 and seconds <= 1e6 and not seen[seconds] and #list < 14 then
      seen[seconds] = true
      list[#list + 1] = { label = format("%.10g s ago", seconds), seconds = seconds }
    end
  end
  local function around(seconds)
    longest = max(longest, seconds + 0.001)
    add(seconds)
    add(seconds + 0.001)
  end
  local function walk(t, depth)
    for _, value in pairs(t) do
      if math.type(value) and value >= 100 then around(value / 1000) end
      if type(value) == "table" and depth < 4 then walk(value, depth + 1) end
    end
  end
  if math.type(self.cache_allow_ms) then around(self.cache_allow_ms / 1000) end
  walk(self.settings, 1)
  local text = self.text:gsub("%-%-[^\n]*", ""):gsub("from = [%d.]+", ""):gsub("to = [%d.]+", "")
  for number in text:gmatch("%f[%w_.]%d+%f[^%w_.]") do
    local n = tonumber(number)
    if n >= 1000 and n <= 86400000 then around(n / 1000) end
    if n == 60 then
      add(61)
      add(3601)
      longest = max(longest, 3601)
    elseif n == 24 or n == 86400 then
      longest = max(longest, 86401)
    end
  end
  add(1)
  add(86401)
  self.gaps, self.longest = list, longest
end

-- Another LLM, another caller: only where a script may use what it knows from earlier does it matter who it is about.
local function name_options(values, gate, without)
  local steps = {}
  for seen = 0, #values do
    local list = {}
    for i = 1, gate == "policy" and math.min(seen + 1, #values) or 1 do
      list[i] = { label = values[i], value = values[i], first = i == 1 }
    end
    if seen == 0 then list[#list + 1] = without end
    steps[seen + 1] = list
  end
  return steps
end

function World.new(given)
  local self = setmetatable({
    name = given.name, text = given.text, settings = given.settings or {}, gate = given.gate or "probe",
    given_environment = given.environment, given_resume = given.resume, owner = given.owner,
    atoms = {}, sims = setmetatable({}, { __mode = "k" }), ordinal = 0, instructions = 0, fuel = sandbox.INSTRUCTIONS,
    runs = 0,
    origin = 0, t = 0, request = 0, chances = 0, llms = 0, callers = 0, allows = {},
  }, World)
  self.facts = { ordinal = 0, fields = {} }
  self.llm_options = name_options(outcomes.llm_names, self.gate)
  self.caller_options = name_options(outcomes.caller_names, self.gate, { label = "without a token", value = false })
  self.llm_options.caller = { self.caller_options[1][1] }
  make_classes(self)
  make_methods(self)
  sandbox.make(self)
  return self
end

--- The line that a message about the spread program means.
function World:in_place(message)
  local lines = self.lines
  if type(message) ~= "string" then return "an error that is not a string" end
  if not lines then return message end
  local head = self.name .. ":"
  local out, at = {}, 1
  while true do
    local from, to = message:find(head, at, true)
    local number = from and message:match("^%d+", to + 1)
    if not number then break end
    out[#out + 1] = message:sub(at, to)
    out[#out + 1] = tostring(lines[tonumber(number)] or number)
    at = to + 1 + #number
  end
  out[#out + 1] = message:sub(at)
  return table.concat(out)
end

local FUNCTIONS = { "route", "should_failover", "verdict" }

--- Loads the script. A sentence when it is no policy.
function World:load()
  local chunk, problem = load(self.text, "@" .. self.name, "t", self.env)
  if not chunk then return problem end
  local spread, lines = state.spread(self.text)
  if spread then
    local better = load(spread, "@" .. self.name, "t", self.env)
    if better then chunk, self.lines = better, lines end
  end
  local co = create(chunk)
  sandbox.watch(self, co)
  local ok, script = sandbox.resume(self, co)
  if not ok then return self:in_place(script) end
  if costatus(co) ~= "dead" then return self.name .. ": it yielded while it was loaded" end
  if type(script) ~= "table" then
    return format("%s: expected the script to return a table with route, should_failover and verdict, it returned %s",
      self.name, type(script))
  end
  for _, name in ipairs(FUNCTIONS) do
    if type(script[name]) ~= "function" then
      return format("%s: expected the script's table to have a function '%s', found %s", self.name, name,
        type(script[name]))
    end
  end
  self.script, self.route_function = script, script.route
  self.cache_allow_ms = script.cache_allow_ms
  self.roots = { self.env, script, script.route, self.loaded }
  self.on_any = self.settings.failoverOn == "any"
  gap_options(self)
  self.writer = state.writer{ atoms = self.atoms, sims = self.sims,
    ours = { [debug.getinfo(1, "S").source] = true, [sandbox.source] = true },
    base = state.snapshot(self.roots, self.atoms, self.sims), longest = self.longest }
  return nil
end

-- ---- moments between two requests -----------------------------------------------------------------------------------

--- What the next request begins with.
function World:moment()
  local allows = {}
  for key, entry in pairs(self.allows) do allows[key] = { at = entry.at, yes = entry.yes } end
  return {
    snapshot = state.snapshot(self.roots, self.atoms, self.sims), origin = self.origin + self.t, wall = self.wall,
    llms = self.llms, callers = self.callers, allows = allows,
  }
end

local function age_text(self, entry, now)
  local age = entry.at and now - entry.at
  local text = not age and "never" or age > self.longest and "long" or format("%.3f", age)
  return format(" t%s %s", text, tostring(entry.yes))
end

--- The text of the moment at which the run that went on has ended. All that a kept object says counts as read.
function World:moment_key()
  local now = self.origin + self.t
  local text, objects = self.writer({ origin = NOW + now, wall = self.wall and WALL + self.wall + now, run = self.run },
    {})
  local out = { text, self.wall and (self.wall + now) // WALL_STEP_S or "-", self.llms, self.callers }
  for _, record in ipairs(objects) do
    out[#out + 1] = record.text
    for _, field in ipairs(FIELDS) do self.owner.read(record, field) end
  end
  local keys = {}
  for key in pairs(self.allows) do keys[#keys + 1] = key end
  table.sort(keys)
  for _, key in ipairs(keys) do
    local entry = self.allows[key]
    out[#out + 1] = key .. age_text(self, entry, now)
  end
  return table.concat(out, "|")
end

local function begin(self, moment)
  state.restore(moment.snapshot)
  self.runs = self.runs + 1
  self.run = self.runs
  self.origin, self.wall, self.llms, self.callers = moment.origin, moment.wall, moment.llms, moment.callers
  self.t, self.ordinal = 0, 0
  self.instructions, self.fuel, self.killed = 0, sandbox.INSTRUCTIONS, false
  self.deadline, self.candidates, self.registered = nil, {}, {}
  self.probes, self.waits, self.chances, self.first_probe = 0, 0, 0, nil
  self.permits, self.last = {}, nil
  self.result, self.aborted = nil, false
  self.threads = {}
  self.facts.fields = { attempt = 0 }
  self.facts.run = self.run
  self.allows = {}
  for key, entry in pairs(moment.allows) do self.allows[key] = { at = entry.at, yes = entry.yes } end
end

-- ---- what is done for the script ------------------------------------------------------------------------------------

local function finish(self, result)
  self.result = result
end

local function find(self, kind, ...)
  if self.aborted then return end
  self.owner.find(kind, format(...))
end

local function others_wait(self)
  for _, thread in ipairs(self.threads) do
    if thread.leg and thread.leg.op ~= "sleep" then return true end
  end
  return false
end

local function class_now(self)
  self.owner.read(self.facts, "class")
  return self.facts.fields.class
end

local function is_held(self)
  self.owner.read(self.facts, "held")
  return self.facts.fields.held
end

local AGAIN = {
  verdict = { "retried_verdict", "the primary is called again after its verdict on the request or the caller" },
  bytes = { "retried_after_bytes", "the primary is called again after part of its reply had come" },
}

local function start_primary(self, seconds)
  local fields = self.facts.fields
  local again = AGAIN[class_now(self)]
  if is_held(self) then
    find(self, "retried_after_bytes", "the primary is called again although its reply has come")
  elseif again then
    find(self, again[1], again[2])
  end
  fields.attempt = fields.attempt + 1
  if fields.attempt > PRIMARIES then
    find(self, "endless", "the primary is called more than %d times in one run", PRIMARIES)
    finish(self, "primary's error")
    return nil
  end
  return { op = "primary", point = fields.attempt == 1 and "primary" or "primary again", options = outcomes.primary,
    limit = seconds, began = self.t }
end

local function start_probe(self, seconds, llm)
  local own = llm == nil or llm == llm_of(self)
  self.probes = self.probes + 1
  if self.probes > PROBES then
    find(self, "endless", "the central is asked more than %d times in one run", PROBES)
    finish(self, "primary's error")
    return nil
  end
  local options = self.gate == "policy" and outcomes.probe_ungated or outcomes.probe
  self.owner.read(self.facts, "caller")
  if self.facts.fields.caller == false then options = outcomes.probe_without_token end
  return { op = "probe", point = own and "probe" or "probe of another LLM", options = options, limit = seconds,
    own = own, began = self.t }
end

-- May this run hand itself to a local provider? The reason why not.
local function spend(self)
  local stale
  for i, at in ipairs(self.permits) do
    if self.t - at <= PERMIT_S then
      table.remove(self.permits, i)
      return nil
    end
    stale = self.t - at
  end
  if stale then return format("the probe that allowed it was %g s old: a permit is good for %d s", stale, PERMIT_S) end
  if self.first_probe == "yes" then return "the probe that allowed it was spent already: each call needs its own" end
  if self.first_probe == "no" then return "the central did not allow it" end
  return "the central was not asked in this run"
end

local function spend_cached(self)
  local reason = spend(self)
  if not reason then return nil end
  local bound = self.cache_allow_ms
  if not bound then return reason .. ", and the script declares no cache_allow_ms" end
  local caller = caller_of(self)
  local entry = caller and self.allows[caller .. " " .. llm_of(self)]
  moment_of(self) -- decides how long ago the last request was
  local now = self.origin + self.t
  if not entry or not entry.at then return "the central never allowed this LLM to this caller" end
  if not entry.yes then return "the central's newest answer to this caller was a no" end
  local age_ms = (now - entry.at) * 1000
  if age_ms > bound + 1e-3 then
    return format("the last clean 2xx was %g ms old, the script declares at most %g", age_ms, bound)
  end
  self.owner.lag(age_ms)
  return nil
end

local function start_local(self, seconds, name)
  local known = name:match("^local%-(%d)$")
  if known then
    known = tonumber(known) <= stand_ins_of(self)
  else
    if self.registered[name] == nil then
      self.registered[name] = self:pick("provider " .. name, outcomes.registered).value
    end
    known = self.registered[name]
  end
  if not known then
    return nil, { kind = "refused", code = "not_registered", message = "not registered for this LLM" }
  end
  local reason
  if self.gate == "policy" then reason = spend_cached(self) else reason = spend(self) end
  if reason then
    find(self, "unpermitted", "a local provider is called, but %s", reason)
    if self.gate ~= "policy" then
      return nil, { kind = "refused", code = "gate", message = "the gate withheld it" }
    end
  end
  if class_now(self) == "verdict" and not self.on_any then
    find(self, "failed_over_verdict",
      "a local provider is called after the primary's verdict on the request or the caller")
  end
  if is_held(self) then
    find(self, "thrown_away", "a local provider is called although the primary's reply has come")
  end
  return { op = "complete", point = "local", options = outcomes.complete, limit = seconds, began = self.t }
end

-- A pause beyond the deadline only makes the caller wait for what could be said now.
local function start_sleep(self, seconds)
  local alone = not others_wait(self) and #self.threads == 1
  if alone and seconds > 0 and seconds > left_of(self) then
    find(self, "late", "run:sleep goes on past the run's deadline")
    finish(self, "primary's error, at the deadline")
    return nil
  end
  return { op = "sleep", point = "pause", options = nil, due = self.t + seconds, began = self.t }
end

local function start_first(self, thread, functions)
  local group = { parent = thread, n = #functions, running = #functions, failures = {} }
  thread.group = group
  for i = 1, #functions do
    local co = create(functions[i])
    sandbox.watch(self, co)
    local branch = { co = co, group_of = group, index = i, waits = "", ready = pack(self.run_object) }
    self.threads[#self.threads + 1] = branch
  end
end

local function drop(self, thread)
  thread.dead, thread.ready, thread.leg = true, nil, nil
  if thread.group then
    for _, other in ipairs(self.threads) do
      if other.group_of == thread.group and not other.dead then drop(self, other) end
    end
  end
end

local function leave_group(self, thread, got)
  local group = thread.group_of
  local parent = group.parent
  thread.dead = true
  group.running = group.running - 1
  if got[1] then
    for _, other in ipairs(self.threads) do
      if other.group_of == group and not other.dead then drop(self, other) end
    end
    parent.group, parent.ready, parent.waits = nil, got, ""
    return
  end
  group.failures[thread.index] = got[2]
  if group.running > 0 then return end
  local chosen
  for i = 1, group.n do
    local record = type(group.failures[i]) == "table" and self.sims[group.failures[i]]
    if record and (record.role == "last" or record.role == "older") then
      chosen = group.failures[i]
      break
    end
    if group.failures[i] ~= nil then chosen = group.failures[i] end
  end
  parent.group, parent.ready, parent.waits = nil, pack(nil, chosen), ""
end

-- ---- how legs end ---------------------------------------------------------------------------------------------------

local REPLY = { status = 200, content_type = "application/json", stream = false, size = 100,
  text = "reply" }

local function end_primary(self, option)
  if not option.failure then
    local reply = hand_out(self, "reply", "primary", REPLY)
    self.facts.fields.held = true
    return reply
  end
  local object, record = hand_out(self, "failure", "last", option.failure)
  if self.last then self.last.role = "older" end
  self.last, self.facts.fields.class = record, outcomes.class_of(option.failure)
  return nil, object
end

local function end_probe(self, leg, option)
  local clean = outcomes.is_clean(option.probe)
  if leg.own then
    if clean then
      self.permits[#self.permits + 1] = leg.began
      self.first_probe = "yes"
    else
      self.permits = {}
      self.first_probe = "no"
    end
    if self.gate == "policy" then
      local caller = option ~= outcomes.no_token and caller_of(self)
      if caller then
        local key = caller .. " " .. llm_of(self)
        local entry = self.allows[key]
        if clean then
          moment_of(self)
          self.allows[key] = { at = self.origin + leg.began, yes = true }
        elseif entry and outcomes.is_no(option.probe) then
          entry.yes = false
        end
      end
    end
  end
  return (hand_out(self, "probe", leg.own and "probe" or "other", option.probe))
end

local function end_leg(self, thread, option)
  local leg = thread.leg
  thread.leg = nil
  if leg.op == "sleep" then
    self.t = max(self.t, leg.due)
    thread.ready = pack(true)
    return
  end
  local takes = option.takes
  self.t = max(self.t, leg.began + (leg.limit and leg.limit < takes and leg.limit or takes))
  if leg.op == "primary" then
    thread.ready = pack(end_primary(self, option))
  elseif leg.op == "probe" then
    thread.ready = pack(end_probe(self, leg, option))
  elseif option.failure then
    local object = hand_out(self, "failure", "local", option.failure)
    thread.ready = pack(nil, object)
  else
    local reply = hand_out(self, "reply", "local", REPLY)
    thread.ready = pack(reply)
  end
end

-- ---- turning --------------------------------------------------------------------------------------------------------

local function describe_raise(self, err)
  if self.killed then return nil end
  return self:in_place(err)
end

local function script_failed(self, err)
  if self.killed then
    find(self, "hang", "the script computes for more than %d instructions", sandbox.INSTRUCTIONS)
  else
    find(self, "raises", "the script raises an error: %s", describe_raise(self, err))
  end
  finish(self, is_held(self) and "primary's reply (the script failed)" or "primary's error (the script failed)")
end

local START = { primary = start_primary, probe = start_probe, complete = start_local, sleep = start_sleep }

-- What the script asked for has begun, or is known to fail at once.
local function start(self, thread, op, a, b)
  self.waits = self.waits + 1
  if self.waits > WAITS then
    find(self, "endless", "the script waits more than %d times in one run", WAITS)
    return finish(self, "primary's error")
  end
  if op == "first" then
    thread.waits = "first"
    return start_first(self, thread, a)
  end
  local leg, refused = START[op](self, a, b)
  if leg then
    thread.leg = leg
    thread.waits = leg.point .. (leg.limit or "")
  elseif refused then
    thread.ready = pack(nil, (hand_out(self, "failure", "local", refused)))
  end
end

local function ended(self, thread, got)
  if thread.group_of then
    leave_group(self, thread, got)
  else
    thread.dead = true
    self.outcome = got
  end
end

local function turn(self, thread)
  local args = thread.ready
  thread.ready = nil
  while true do
    self.current = thread.co
    local got = pack(sandbox.resume(self, thread.co, unpack(args, 1, args.n)))
    self.current = nil
    if self.aborted then return end
    if not got[1] or self.killed then
      if thread.group_of and not self.killed then
        local parent = thread.group_of.parent
        drop(self, parent)
        parent.dead, parent.group, parent.ready = false, nil, pack(FAIL, got[2])
        return
      end
      return script_failed(self, got[2])
    end
    if costatus(thread.co) == "dead" then return ended(self, thread, pack(unpack(got, 2, got.n))) end
    if got[2] ~= OP then
      find(self, "raises", "the script yields by itself: only run's own functions may wait")
      return finish(self, "primary's error (the script failed)")
    end
    if got[3] ~= "choose" then
      thread.waits = got[3] .. " " .. tostring(got[4]) .. tostring(got[5])
      return start(self, thread, got[3], got[4], got[5])
    end
    thread.waits = got[4]
    local index = self.owner.choose(self, got[4], got[5])
    thread.waits = ""
    if not index then
      self.aborted = true
      return
    end
    args = pack(index)
  end
end

local SINGLE = {}

-- All that can happen next, and to whom.
local function next_events(self)
  local waiting, due = {}, math.huge
  for _, thread in ipairs(self.threads) do
    local leg = thread.leg
    if leg then
      waiting[#waiting + 1] = thread
      due = math.min(due, leg.due or leg.began + math.min(outcomes.longest[leg.op], leg.limit or math.huge))
    end
  end
  local thread = waiting[1]
  local leg = thread.leg
  if #waiting == 1 and leg.op ~= "sleep" and not self.deadline then
    local options = SINGLE[leg.options]
    if not options then
      options = { unpack(leg.options) }
      options[#options + 1] = outcomes.leaves
      SINGLE[leg.options] = options
    end
    return leg.point, options, thread
  end
  local options, points = {}, {}
  for _, t in ipairs(waiting) do
    local l = t.leg
    points[#points + 1] = l.point
    if l.op == "sleep" then
      if l.due <= due then
        options[#options + 1] = { label = #waiting == 1 and "passes" or "the pause passes", thread = t, takes = 0 }
      end
    else
      for _, o in ipairs(l.options) do
        local takes = o.takes and l.limit and l.limit < o.takes and l.limit or o.takes
        local at = max(self.t, l.began + takes)
        if at <= max(due, self.t) and (not self.deadline or at <= self.deadline) then
          options[#options + 1] = { label = #waiting == 1 and o.label or l.point .. " " .. o.label, thread = t,
            is = o }
        end
      end
    end
  end
  options[#options + 1] = outcomes.leaves
  return table.concat(points, ", "), options, nil
end

local REFUSALS = { ["nil"] = true, ["boolean"] = true }

-- The script has returned: what does the caller get, and was it the script's to give?
local function judge(self, got)
  local value, second = got[1], got[2]
  local record = type(value) == "table" and self.sims[value]
  local with = record and record.class == "reply" and record.run == self.run and record
  if with and with.role == "local" then
    if is_held(self) then
      find(self, "thrown_away", "primary's reply had come, and a local provider's is returned")
    end
    return finish(self, "local reply")
  end
  if with then return finish(self, "primary's reply") end
  if REFUSALS[type(value)] and not value then
    if is_held(self) then
      find(self, "thrown_away", "primary's reply had come, and no reply is returned")
      return finish(self, "primary's reply")
    end
    local why = type(second) == "table" and self.sims[second]
    if not self.last then
      find(self, "foreign_error", "the script gives up without having asked the primary")
      return finish(self, "what the primary says")
    end
    if second ~= nil and not (why and why.run == self.run and (why.role == "last" or why.role == "older")) then
      local whose = why and (why.role == "local" and "the local provider's" or "another run's")
      find(self, "foreign_error", "the failure that is returned is not the primary's but %s",
        whose or "the script's own: a " .. type(second))
    end
    return finish(self, "primary's error")
  end
  find(self, "nonsense", "route returns %s; expected a reply of this run, or nil and the primary's failure",
    record and "a " .. record.class .. (record.run ~= self.run and " of another run" or "") or "a " .. type(value))
  finish(self, is_held(self) and "primary's reply" or self.last and "primary's error" or "what the primary says")
end

-- Lets every coroutine run that can. Did one?
local function turn_all(self)
  local moved, i = false, 1
  while i <= #self.threads and not self.result and not self.aborted do
    local thread = self.threads[i]
    if thread.ready and not thread.dead then
      moved = true
      turn(self, thread)
    end
    i = i + 1
  end
  return moved
end

-- Lets one of the things happen that are waited for.
local function happen(self)
  local point, options, single = next_events(self)
  local index = self.owner.choose(self, point, options)
  if not index then
    self.aborted = true
  elseif options[index] == outcomes.leaves then
    self.left = true
    finish(self, "nothing")
  else
    local option = options[index]
    local thread = single or option.thread
    thread.waits = ""
    end_leg(self, thread, option.is or option)
  end
end

local function run_to_the_end(self)
  while not self.result and not self.aborted do
    local moved = turn_all(self)
    if self.outcome then
      judge(self, self.outcome)
    elseif not moved and not self.result and not self.aborted then
      happen(self)
    end
  end
end

--- Runs one request. The word for what the caller got; nil when the owner gave the run up. And whether the caller left.
function World:route(moment, request)
  begin(self, moment)
  self.request, self.outcome, self.left = request, nil, false
  local object = hand_out(self, "run", "run", { text = "run" })
  self.run_object = object
  local co = create(self.route_function)
  sandbox.watch(self, co)
  self.threads[1] = { co = co, waits = "", ready = pack(object) }
  local ok, problem = pcall(run_to_the_end, self)
  if not ok and problem ~= ABORT then error(problem, 0) end
  if not ok or self.aborted then return nil end
  return self.result, self.left
end

--- The text of the state in which a choice is to be made, and the world's objects in it.
function World:key(point, options)
  local now = NOW + self.origin + self.t
  local alive = {}
  for _, thread in ipairs(self.threads) do
    if not thread.dead then alive[#alive + 1] = thread end
  end
  local text, objects = self.writer({ origin = now, wall = self.wall and WALL + self.wall + now - NOW, run = self.run },
    alive)
  local out = { point, #options, self.request > 1 and not self.facts.fields.gap and "?" or "", self.llms, self.callers,
    self.last and "f" or "" }
  for _, at in ipairs(self.permits) do out[#out + 1] = format("p%.3f", self.t - at) end
  for name, known in pairs(self.registered) do out[#out + 1] = name .. tostring(known) end
  for _, thread in ipairs(alive) do
    local leg = thread.leg
    if leg then out[#out + 1] = format("l%.3f", leg.due and leg.due - self.t or self.t - leg.began) end
  end
  if next(self.allows) then
    for _, llm in ipairs(outcomes.llm_names) do
      for _, caller in ipairs(outcomes.caller_names) do
        local entry = self.allows[caller .. " " .. llm]
        out[#out + 1] = entry and age_text(self, entry, self.origin + self.t) or "-"
      end
    end
  end
  out[#out + 1] = text
  if self.wall then self.facts.fields.wall = (self.wall + self.origin + self.t) // WALL_STEP_S end
  if self.deadline then
    local left = self.deadline - self.t
    self.facts.fields.left = left > 500 and "far" or format("%.4f", left)
  end
  return table.concat(out, "|"), objects
end

-- ---- verdict, by itself ---------------------------------------------------------------------------------------------

local VERDICTS = { allowed = true, forbidden = true, unreachable = true }

--- Calls script.verdict for every answer to a probe: C asks it for check_auth.
function World:judge_verdicts(moment)
  for _, option in ipairs(self.gate == "policy" and outcomes.probe_ungated or outcomes.probe) do
    begin(self, moment)
    self.request = 1
    local probe = hand_out(self, "probe", "probe", option.probe)
    local co = create(self.script.verdict)
    sandbox.watch(self, co)
    local ok, verdict = sandbox.resume(self, co, probe)
    local label = "probe: " .. option.label
    if not ok then
      self.owner.find(self.killed and "hang" or "raises", "verdict raises an error: " .. self:in_place(verdict), label)
    elseif not verdict then
      local message = format('verdict returns %s, which is taken for "unreachable"', tostring(verdict))
      self.owner.find("vague_verdict", message, label)
    elseif not VERDICTS[verdict] then
      self.owner.find("loose_verdict", format('verdict returns %s; expected "allowed", "forbidden" or "unreachable"',
        type(verdict) == "string" and format("%q", verdict) or "a " .. type(verdict)), label)
    elseif verdict == "allowed" and not outcomes.is_clean(option.probe) then
      self.owner.find("loose_verdict", "verdict allows what is not a clean 2xx", label)
    end
  end
end

--- Calls script.should_failover for every failure.
function World:judge_failures(moment)
  for _, option in ipairs(outcomes.primary) do
    if option.failure then
      begin(self, moment)
      self.request = 1
      local object = hand_out(self, "failure", "last", option.failure)
      local co = create(self.script.should_failover)
      sandbox.watch(self, co)
      local ok, problem = sandbox.resume(self, co, object)
      if not ok then
        self.owner.find(self.killed and "hang" or "raises",
          "should_failover raises an error: " .. self:in_place(problem), "primary: " .. option.label)
      end
    end
  end
end

return World
