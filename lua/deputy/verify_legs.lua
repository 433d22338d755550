-- What a world does for the script: how legs begin, whether a permit covers them, and how they end.
local facts = require "deputy.verify_facts"
local outcomes = require "deputy.verify_outcomes"
local sandbox = require "deputy.verify_sandbox"

local create = coroutine.create
local pack, format, max = table.pack, string.format, math.max

local PRIMARIES, PROBES = 6, 16

local legs = {}

function legs.finish(self, result)
  self.result = result
end

function legs.find(self, kind, ...)
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

function legs.is_held(self)
  self.owner.read(self.facts, "held")
  return self.facts.fields.held
end

local AGAIN = {
  verdict = { "retried_verdict", "the primary is called again after its verdict on the request or the caller" },
  bytes = { "retried_after_bytes", "the primary is called again after part of its reply had come" },
}

function legs.start_primary(self, seconds)
  local fields = self.facts.fields
  local again = AGAIN[class_now(self)]
  if legs.is_held(self) then
    legs.find(self, "retried_after_bytes", "the primary is called again although its reply has come")
  elseif again then
    legs.find(self, again[1], again[2])
  end
  fields.attempt = fields.attempt + 1
  if fields.attempt > PRIMARIES then
    legs.find(self, "endless", "the primary is called more than %d times in one run", PRIMARIES)
    legs.finish(self, "primary's error")
    return nil
  end
  return { op = "primary", point = fields.attempt == 1 and "primary" or "primary again",
    options = self.primary_options, limit = seconds, began = self.t }
end

function legs.start_probe(self, seconds, llm)
  local own = llm == nil or llm == facts.llm_of(self)
  self.probes = self.probes + 1
  if self.probes > PROBES then
    legs.find(self, "endless", "the central is asked more than %d times in one run", PROBES)
    legs.finish(self, "primary's error")
    return nil
  end
  local options = self.probe_options
  self.owner.read(self.facts, "caller")
  if self.facts.fields.caller == false then options = outcomes.probe_without_token end
  return { op = "probe", point = own and "probe" or "probe of another LLM", options = options, limit = seconds,
    own = own, began = self.t }
end

-- May this run hand itself to a local provider? The reason why not.
local function spend(self)
  local stale
  for i, at in ipairs(self.permits) do
    if self.t - at <= self.permit_s then
      table.remove(self.permits, i)
      return nil
    end
    stale = self.t - at
  end
  if stale then
    return format("the probe that allowed it was %g s old: a permit is good for %g s", stale, self.permit_s)
  end
  if self.first_probe == "yes" then return "the probe that allowed it was spent already: each call needs its own" end
  if self.first_probe == "no" then return "the central did not allow it" end
  return "the central was not asked in this run"
end

local function spend_cached(self)
  local reason = spend(self)
  if not reason then return nil end
  local bound = self.cache_allow_ms
  if not bound then return reason .. ", and the script declares no cache_allow_ms" end
  local caller = facts.caller_of(self)
  local entry = caller and self.allows[caller .. " " .. facts.llm_of(self)]
  facts.moment_of(self) -- decides how long ago the last request was
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

function legs.start_local(self, seconds, name)
  local known = name == self.facts.fields.first_name and "1" or name:match("^local%-(%d)$")
  if known then
    known = tonumber(known) <= facts.stand_ins_of(self)
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
    legs.find(self, "unpermitted", "a local provider is called, but %s", reason)
    if self.gate ~= "policy" then
      return nil, { kind = "refused", code = "gate", message = "the gate withheld it" }
    end
  end
  if class_now(self) == "verdict" and not self.on_any then
    legs.find(self, "failed_over_verdict",
      "a local provider is called after the primary's verdict on the request or the caller")
  end
  if legs.is_held(self) then
    legs.find(self, "thrown_away", "a local provider is called although the primary's reply has come")
  end
  return { op = "complete", point = "local", options = self.complete_options, limit = seconds, began = self.t }
end

-- A pause beyond the deadline only makes the caller wait for what could be said now.
function legs.start_sleep(self, seconds)
  local alone = not others_wait(self) and #self.threads == 1
  if alone and seconds > 0 and seconds > facts.left_of(self) then
    legs.find(self, "late", "run:sleep goes on past the run's deadline: look at run.deadline before")
    legs.finish(self, "primary's error, at the deadline")
    return nil
  end
  return { op = "sleep", point = "pause", options = nil, due = self.t + seconds, began = self.t }
end

function legs.start_first(self, thread, functions)
  local group = { parent = thread, n = #functions, running = #functions, failures = {} }
  thread.group = group
  for i = 1, #functions do
    local co = create(functions[i])
    sandbox.watch(self, co)
    local branch = { co = co, group_of = group, index = i, waits = "", ready = pack(self.run_object) }
    self.threads[#self.threads + 1] = branch
  end
end

function legs.drop(self, thread)
  thread.dead, thread.ready, thread.leg = true, nil, nil
  if thread.group then
    for _, other in ipairs(self.threads) do
      if other.group_of == thread.group and not other.dead then legs.drop(self, other) end
    end
  end
end

function legs.leave_group(self, thread, got)
  local group = thread.group_of
  local parent = group.parent
  thread.dead = true
  group.running = group.running - 1
  if got[1] then
    for _, other in ipairs(self.threads) do
      if other.group_of == group and not other.dead then legs.drop(self, other) end
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

local REPLY = { status = 200, content_type = "application/json", stream = false, size = 100,
  text = "reply" }

local function end_primary(self, option)
  if not option.failure then
    local reply = facts.hand_out(self, "reply", "primary", REPLY)
    self.facts.fields.held = true
    return reply
  end
  local object, record = facts.hand_out(self, "failure", "last", option.failure)
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
      local caller = option ~= outcomes.no_token and facts.caller_of(self)
      if caller then
        local key = caller .. " " .. facts.llm_of(self)
        local entry = self.allows[key]
        if clean then
          facts.moment_of(self)
          self.allows[key] = { at = self.origin + leg.began, yes = true }
        elseif entry and outcomes.is_no(option.probe) then
          entry.yes = false
        end
      end
    end
  end
  return (facts.hand_out(self, "probe", leg.own and "probe" or "other", option.probe))
end

function legs.end_leg(self, thread, option)
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
    local object = facts.hand_out(self, "failure", "local", option.failure)
    thread.ready = pack(nil, object)
  else
    local reply = facts.hand_out(self, "reply", "local", REPLY)
    thread.ready = pack(reply)
  end
end

return legs
