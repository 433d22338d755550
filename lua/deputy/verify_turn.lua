-- Runs one request of a world to its end: lets every coroutine run that can, then one of the things happen that are
-- waited for, until there is an outcome; and judges that.
local facts = require "deputy.verify_facts"
local legs = require "deputy.verify_legs"
local outcomes = require "deputy.verify_outcomes"
local sandbox = require "deputy.verify_sandbox"

local costatus = coroutine.status
local type, tostring = type, tostring
local pack, unpack, max = table.pack, table.unpack, math.max

local WAITS = 64

local turn = {}

local function describe_raise(self, err)
  if self.killed then return nil end
  return self:in_place(err)
end

local function script_failed(self, err)
  if self.killed then
    legs.find(self, "hang", "the script computes for more than %d instructions", sandbox.INSTRUCTIONS)
  else
    legs.find(self, "raises", "the script raises an error: %s", describe_raise(self, err))
  end
  legs.finish(self, (legs.is_held(self) and "primary's reply" or "primary's error") .. " (the script failed)")
end

local START = { primary = legs.start_primary, probe = legs.start_probe, complete = legs.start_local,
  sleep = legs.start_sleep }

-- What the script asked for has begun, or is known to fail at once.
local function start(self, thread, op, a, b)
  self.waits = self.waits + 1
  if self.waits > WAITS then
    legs.find(self, "endless", "the script waits more than %d times in one run", WAITS)
    return legs.finish(self, "primary's error")
  end
  if op == "first" then
    thread.waits = "first"
    return legs.start_first(self, thread, a)
  end
  local leg, refused = START[op](self, a, b)
  if leg then
    thread.leg = leg
    thread.waits = leg.point .. (leg.limit or "")
  elseif refused then
    thread.ready = pack(nil, (facts.hand_out(self, "failure", "local", refused)))
  end
end

local function ended(self, thread, got)
  if thread.group_of then
    legs.leave_group(self, thread, got)
  else
    thread.dead = true
    self.outcome = got
  end
end

local function turn_one(self, thread)
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
        legs.drop(self, parent)
        parent.dead, parent.group, parent.ready = false, nil, pack(facts.FAIL, got[2])
        return
      end
      return script_failed(self, got[2])
    end
    if costatus(thread.co) == "dead" then return ended(self, thread, pack(unpack(got, 2, got.n))) end
    if got[2] ~= facts.OP then
      legs.find(self, "raises", "the script yields by itself: only run's own functions may wait")
      return legs.finish(self, "primary's error (the script failed)")
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

local SINGLE = setmetatable({}, { __mode = "k" })

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
  local options, points, alike = {}, {}, {}
  for _, t in ipairs(waiting) do
    local l = t.leg
    alike[l.point] = (alike[l.point] or 0) + 1
    local point = alike[l.point] > 1 and l.point .. " #" .. alike[l.point] or l.point
    points[#points + 1] = point
    if l.op == "sleep" then
      if l.due <= due then
        local label = #waiting == 1 and "passes" or "the " .. point .. " passes"
        options[#options + 1] = { label = label, thread = t, takes = 0 }
      end
    else
      for _, o in ipairs(l.options) do
        local takes = o.takes and l.limit and l.limit < o.takes and l.limit or o.takes
        local at = max(self.t, l.began + takes)
        if at <= max(due, self.t) and (not self.deadline or at <= self.deadline) then
          options[#options + 1] = { label = #waiting == 1 and o.label or point .. " " .. o.label, thread = t,
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
    if legs.is_held(self) then
      legs.find(self, "thrown_away", "primary's reply had come, and a local provider's is returned")
    end
    return legs.finish(self, "local reply")
  end
  if with then return legs.finish(self, "primary's reply") end
  if REFUSALS[type(value)] and not value then
    if legs.is_held(self) then
      legs.find(self, "thrown_away", "primary's reply had come, and no reply is returned")
      return legs.finish(self, "primary's reply")
    end
    local why = type(second) == "table" and self.sims[second]
    if not self.last then
      legs.find(self, "foreign_error", "the script gives up without having asked the primary")
      return legs.finish(self, "what the primary says")
    end
    if second ~= nil and not (why and why.run == self.run and (why.role == "last" or why.role == "older")) then
      local whose = why and (why.role == "local" and "the local provider's" or "another run's")
      legs.find(self, "foreign_error", "the failure that is returned is not the primary's but %s",
        whose or "the script's own: a " .. type(second))
    end
    return legs.finish(self, "primary's error")
  end
  legs.find(self, "nonsense", "route returns %s; expected a reply of this run, or nil and the primary's failure",
    record and "a " .. record.class .. (record.run ~= self.run and " of another run" or "") or "a " .. type(value))
  legs.finish(self, legs.is_held(self) and "primary's reply" or self.last and "primary's error"
    or "what the primary says")
end

-- Lets every coroutine run that can. Did one?
local function turn_all(self)
  local moved, i = false, 1
  while i <= #self.threads and not self.result and not self.aborted do
    local thread = self.threads[i]
    if thread.ready and not thread.dead then
      moved = true
      turn_one(self, thread)
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
    legs.finish(self, "nothing")
  else
    local option = options[index]
    local thread = single or option.thread
    thread.waits = ""
    legs.end_leg(self, thread, option.is or option)
  end
end

--- Until there is a result, or the owner gives the run up.
function turn.to_the_end(self)
  while not self.result and not self.aborted do
    local moved = turn_all(self)
    if self.outcome then
      judge(self, self.outcome)
    elseif not moved and not self.result and not self.aborted then
      happen(self)
    end
  end
end

return turn
