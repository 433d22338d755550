-- The world that a policy is verified in: no network, no real clock. Whatever the script asks for that could turn out
-- in more than one way is a choice point: the world asks its owner which way it goes. What C would do with a run
-- (permits, the primary's failure as it was kept, the outcome after a bad end) is done here in the same way.
--
--   local world = World.new{ name =, text =, settings =, gate =, permit_ms =, environment =, owner = }
--   local problem = world:load()              why the script is no policy, or nil
--   local result, left = world:route(moment)  runs one request from a moment; result: a word for what the caller got
--
-- owner.choose(world, point, options) -> an index, or nil: give this run up
-- owner.find(kind, message)           a finding, in the run that goes on
-- owner.read(record, field)           the script has looked at a field of something that the world handed out
local facts = require "deputy.verify_facts"
local outcomes = require "deputy.verify_outcomes"
local run = require "deputy.verify_run"
local sandbox = require "deputy.verify_sandbox"
local state = require "deputy.verify_state"
local turn = require "deputy.verify_turn"

local World = { pick = facts.pick, chance = facts.chance, moment_now = facts.moment_of, wall_now = facts.wall_of,
  run_field = run.field }
World.__index = World

local NOW, WALL = state.NOW, state.WALL
local create, costatus = coroutine.create, coroutine.status
local type, error, pcall, tostring = type, error, pcall, tostring
local pack, format, max = table.pack, string.format, math.max
local clock = os.clock

local COMPILE_S, PIECE = 1, 256
local STATUSES = 64 -- that a script names; more are not looked at
local WALL_STEP_S = 600 -- moments of the day that are closer together count as one

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

-- The statuses that the script and its settings name, besides those that every script meets.
local function status_options(self)
  local list, seen = {}, {}
  local function add(n)
    if math.type(n) and math.tointeger(n) and n >= 200 and n <= 599 and not seen[n] and #list < STATUSES then
      seen[n] = true
      list[#list + 1] = math.tointeger(n)
    end
  end
  local function walk(t, depth)
    for key, value in pairs(t) do
      add(key)
      add(value)
      if type(value) == "table" and depth < 4 then walk(value, depth + 1) end
    end
  end
  for number in self.text:gsub("%-%-[^\n]*", ""):gmatch("%f[%w_.]%d+%f[^%w_.]") do add(tonumber(number)) end
  walk(self.settings, 1)
  table.sort(list)
  self.primary_options = outcomes.primary_with(list)
  self.probe_options = outcomes.probe_with(list, self.gate)
  self.complete_options, self.endpoint_options = outcomes.complete, outcomes.endpoint
end

--- From now on each thing whose name the script has looked at has this one, and little else is tried. False when it
--- looks at none.
function World:name_everything(name)
  local asked, named = self.asked, { { label = name, value = name, first = true }, shown = true }
  local has_code = asked.code or asked.message
  if not (asked.llm or asked.name or asked.endpoint or has_code) then return false end
  self.llm_options, self.named = { named, caller = self.llm_options.caller }, name
  self.name_options, self.endpoint_options = asked.name and named, named
  self.primary_options = outcomes.primary_named(has_code and name)
  self.probe_options, self.complete_options = outcomes.probe_few, outcomes.complete_few
  return true
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
    permit_s = (given.permit_ms or 5000) / 1000,
    atoms = {}, sims = setmetatable({}, { __mode = "k" }), ordinal = 0, instructions = 0, fuel = sandbox.INSTRUCTIONS,
    runs = 0,
    origin = 0, t = 0, request = 0, chances = 0, llms = 0, callers = 0, allows = {}, asked = {},
  }, World)
  self.facts = { ordinal = 0, fields = {} }
  self.llm_options = name_options(outcomes.llm_names, self.gate)
  self.caller_options = name_options(outcomes.caller_names, self.gate, { label = "without a token", value = false })
  self.llm_options.caller = { self.caller_options[1][1] }
  facts.make_classes(self)
  run.make_methods(self)
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

-- In small pieces, as the engine does: the compiler takes the square of time for some programs, and no hook sees it.
local function compile(self, text)
  local began, at, late = clock(), 1, false
  local chunk, problem = load(function()
    late = clock() - began > COMPILE_S
    if late then return nil end
    local piece = text:sub(at, at + PIECE - 1)
    at = at + PIECE
    return piece
  end, "@" .. self.name, "t", self.env)
  if late then return nil, self.name .. ": it takes too long to compile" end
  return chunk, problem
end

--- Loads the script. A sentence when it is no policy.
function World:load()
  local chunk, problem = compile(self, self.text)
  if not chunk then return problem end
  local spread, lines = state.spread(self.text)
  if spread then
    local better = compile(self, spread)
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
  status_options(self)
  self.writer = state.writer{ atoms = self.atoms, sims = self.sims,
    ours = { [facts.source] = true, [run.source] = true, [sandbox.source] = true },
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
    for _, field in ipairs(facts.FIELDS) do self.owner.read(record, field) end
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

--- Runs one request. The word for what the caller got; nil when the owner gave the run up. And whether the caller left.
function World:route(moment, request)
  begin(self, moment)
  self.request, self.outcome, self.left = request, nil, false
  local object = facts.hand_out(self, "run", "run", { text = "run" })
  self.run_object = object
  local co = create(self.route_function)
  sandbox.watch(self, co)
  self.threads[1] = { co = co, waits = "", ready = pack(object) }
  local ok, problem = pcall(turn.to_the_end, self)
  if not ok and problem ~= facts.ABORT then error(problem, 0) end
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
    for _, llm in ipairs(self.named and { self.named } or outcomes.llm_names) do
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
  for _, option in ipairs(self.probe_options) do
    begin(self, moment)
    self.request = 1
    local probe = facts.hand_out(self, "probe", "probe", option.probe)
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
  for _, option in ipairs(self.primary_options) do
    if option.failure then
      begin(self, moment)
      self.request = 1
      local object = facts.hand_out(self, "failure", "last", option.failure)
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
