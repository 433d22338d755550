-- What a world hands to the script, and what it decides about itself when the script first asks.
local outcomes = require "deputy.verify_outcomes"
local state = require "deputy.verify_state"

local NOW, WALL = state.NOW, state.WALL
local yield, running, isyieldable = coroutine.yield, coroutine.running, coroutine.isyieldable
local error, tostring = error, tostring

local CHANCES = 3

local OP, FAIL, ABORT = {}, {}, {} -- nothing that a script could make by itself

local facts = { OP = OP, FAIL = FAIL, ABORT = ABORT, source = debug.getinfo(1, "S").source }

-- ---- what the script holds in its hands -----------------------------------------------------------------------------

function facts.make_classes(self)
  local sims = self.sims
  local function class(name, index, to_text)
    return {
      __name = name,
      __metatable = name,
      __index = index or function(object, field)
        local record = sims[object]
        self.owner.read(record, field)
        self.asked[field] = true
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

facts.FIELDS = { "code", "content_type", "kind", "message", "name", "retry_after", "size", "status", "stream", "us" }

local function in_words(class, fields)
  local out = { class }
  for _, name in ipairs(facts.FIELDS) do
    if fields[name] ~= nil then out[#out + 1] = name .. "=" .. tostring(fields[name]) end
  end
  return table.concat(out, " ")
end

function facts.hand_out(self, class, role, fields)
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
function facts.pick(self, point, options)
  if self.aborted then error(ABORT, 0) end
  if #options == 1 and not options.shown then return options[1] end
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
function facts.decide(self, field, point, options)
  self.owner.read(self.facts, field)
  self.asked[field] = true
  local fields = self.facts.fields
  local value = fields[field]
  if value == nil then
    value = self:pick(point, options).value
    fields[field] = value
  end
  return value
end

function facts.moment_of(self)
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

function facts.wall_of(self)
  local at = facts.moment_of(self) - NOW
  self.owner.read(self.facts, "wall")
  if not self.wall then
    if not self.run then return WALL + outcomes.wall[1].value end
    self.wall = self:pick("wall clock", outcomes.wall).value - at
    self.facts.fields.wall = "known"
  end
  return WALL + self.wall + at
end

function facts.left_of(self)
  local fields = self.facts.fields
  self.owner.read(self.facts, "left")
  if not self.deadline then
    self.deadline = self.t + self:pick("deadline", outcomes.deadline).value
    fields.left = "known"
  end
  return self.deadline - self.t
end

-- One thing at a time: another caller of the same LLM, or the same caller of another LLM.
function facts.llm_of(self)
  self.owner.read(self.facts, "caller")
  local options = self.llm_options[self.llms + 1] or self.llm_options[#self.llm_options]
  if self.facts.fields.caller == outcomes.caller_names[2] then options = self.llm_options[1] end
  local llm = facts.decide(self, "llm", "LLM", options)
  if llm == outcomes.llm_names[self.llms + 1] then self.llms = self.llms + 1 end
  return llm
end

function facts.caller_of(self)
  self.owner.read(self.facts, "llm")
  local options = self.caller_options[self.callers + 1] or self.caller_options[#self.caller_options]
  if self.facts.fields.llm == outcomes.llm_names[2] then options = self.llm_options.caller end
  local caller = facts.decide(self, "caller", "caller", options)
  if caller and caller == outcomes.caller_names[self.callers + 1] then self.callers = self.callers + 1 end
  return caller
end

function facts.chance(self)
  if not self.run or self.chances >= CHANCES then return 0.5 end
  self.chances = self.chances + 1
  return self:pick("chance", outcomes.chance).value
end

function facts.stand_ins_of(self) return facts.decide(self, "stand_ins", "stand-ins", outcomes.stand_ins) end

function facts.candidate(self, i)
  local made = self.candidates[i]
  if not made then
    local name = "local-" .. i
    if i == 1 and self.name_options then name = facts.decide(self, "first_name", "stand-in", self.name_options) end
    made = facts.hand_out(self, "candidate", "candidate" .. i, { name = name })
    self.candidates[i] = made
  end
  return made
end

return facts
