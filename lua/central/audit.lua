-- The audit log: who did what to what, and each refusal. The database itself forbids changing and deleting its rows.
--
--   local audit = audits.new(database, clock)
--   audit:done(actor, action, target, detail)    in the transaction of what was done: both happen or none
--   audit:refused(actor, action, target, code)   noted at once, written by the next flush()
--   audit:flush()                                once a second, and before the log is read
--   audit:list{ before =, limit = }              the latest first; and the number to go on before, nil at the end
-- actor: { id =, name =, token_id =, peer = } or nil when nobody knows; target: { kind =, id =, name = } or nil;
-- detail: a table without secrets.
--
-- Whoever is refused can ask again as often as he likes, so refusals are bounded: the same one (actor, action, target,
-- code) within a minute is one row with the number of times; rows come at PER_SECOND in the long run; what is waiting
-- is at most MAX_WAITING rows, and refusals beyond these are summed up in one row "others". None goes uncounted, but
-- what waits is lost when the process is killed: a second's worth, usually.
local cjson = require "cjson"

local audits = {}
audits.PER_SECOND = 10
audits.BURST = 100
audits.MAX_WAITING = 256
audits.REPEAT_S = 60
-- Everybody waits while it writes: what a database far away does not take within this waits for the next time.
audits.FLUSH_S = 0.2

-- By time and then by number: a refusal is written later than it happened. To go on before a number is to go on before
-- the entry that has it, or else the nearest one below.
-- audit.seq in ORDER BY: seq alone would be PostgreSQL's name for the text of the first column.
local SQL = {
  insert = [[
    INSERT INTO audit (at, since, actor_id, actor, token_id, peer, action, target_kind, target_id, target, outcome,
      code, times, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)]],
  latest = [[
    SELECT CAST(seq AS TEXT), at, since, actor_id, actor, token_id, peer, action, target_kind, target_id, target,
      outcome, code, times, detail FROM audit ORDER BY at DESC, audit.seq DESC LIMIT ?]],
  before = [[
    SELECT CAST(seq AS TEXT), at, since, actor_id, actor, token_id, peer, action, target_kind, target_id, target,
      outcome, code, times, detail FROM audit WHERE (at, seq) <
        ((SELECT a.at FROM audit a WHERE a.seq <= CAST(? AS BIGINT) ORDER BY a.seq DESC LIMIT 1), CAST(? AS BIGINT))
      ORDER BY at DESC, audit.seq DESC LIMIT ?]],
}

local NOBODY = { name = "-" }
local MAX_TIMES = 2147483647

local Audit = {}
Audit.__index = Audit

function audits.new(database, clock)
  return setmetatable({
    database = database, clock = clock, waiting = {}, order = {}, recent = {}, budget = audits.BURST,
    filled_at = clock.elapsed(), others = 0, cleaned_at = clock.elapsed(),
  }, Audit)
end

function Audit:insert(row)
  local actor, target = row.actor or NOBODY, row.target or {}
  self.database:run(SQL.insert, row.at, row.since, actor.id, actor.name, actor.token_id,
    actor.peer, row.action, target.kind, target.id, target.name, row.outcome, row.code,
    row.times or 1, row.detail)
end

function Audit:done(actor, action, target, detail)
  self:insert{
    at = self.clock.text(), actor = actor, action = action, target = target, outcome = "done",
    detail = detail and next(detail) ~= nil and cjson.encode(detail) or nil,
  }
end

local function key_of(actor, action, target, code)
  return table.concat({
    actor.id or "", actor.token_id or "", actor.id and "" or actor.peer or "", action, target and target.id or "",
    target and target.name or "", code,
  }, "\0")
end

function Audit:refused(actor, action, target, code)
  actor = actor or NOBODY
  local key, at = key_of(actor, action, target, code), self.clock.text()
  local row = self.waiting[key]
  if row then
    row.since, row.at, row.times = row.since or row.at, at, math.min(row.times + 1, MAX_TIMES)
  elseif #self.order >= audits.MAX_WAITING then
    self.others = self.others + 1
  else
    -- Copied: what the caller handed in may be another request's by the time it is written.
    actor = { id = actor.id, name = actor.name, token_id = actor.token_id, peer = actor.peer }
    target = target and { kind = target.kind, id = target.id, name = target.name }
    self.waiting[key] = {
      at = at, actor = actor, action = action, target = target, outcome = "refused", code = code, times = 1,
    }
    self.order[#self.order + 1] = key
  end
end

-- What was written within the last minute waits until that is over; the rest goes, as far as the budget lasts.
function Audit:due(now, everything)
  self.budget = math.min(audits.BURST, self.budget + (now - self.filled_at) * audits.PER_SECOND)
  self.filled_at = now
  local due, rest = {}, {}
  for _, key in ipairs(self.order) do
    local repeated = self.recent[key] and now - self.recent[key] < audits.REPEAT_S
    if everything or (not repeated and self.budget >= 1) then
      due[#due + 1] = key
      self.budget = math.max(0, self.budget - 1)
    else
      rest[#rest + 1] = key
    end
  end
  return due, rest
end

function Audit:forget_old(now)
  if now - self.cleaned_at < audits.REPEAT_S then return end
  self.cleaned_at = now
  for key, at in pairs(self.recent) do
    if now - at >= audits.REPEAT_S then self.recent[key] = nil end
  end
end

-- everything: also what would wait for its minute to end; before the log is read, and at the end.
function Audit:flush(everything)
  local now = self.clock.elapsed()
  self:forget_old(now)
  if #self.order == 0 and self.others == 0 then return end
  local due, rest = self:due(now, everything)
  local others = self.others
  if #due == 0 and (others == 0 or self.budget < 1) then return end
  local written = 0
  self.database:note(function()
    for _, key in ipairs(due) do
      if self.clock.elapsed() - now > audits.FLUSH_S then break end
      self:insert(self.waiting[key])
      written = written + 1
    end
    if others > 0 then
      self:insert{
        at = self.clock.text(), action = "others", outcome = "refused", times = math.min(others, MAX_TIMES),
        code = "too_many_to_list",
      }
    end
    return true
  end)
  -- Only now: when the database failed, all of it still waits.
  for i = 1, written do self.waiting[due[i]], self.recent[due[i]] = nil, now end
  local left = table.move(due, written + 1, #due, 1, {})
  self.order, self.others = table.move(rest, 1, #rest, #left + 1, left), self.others - others
end

local function entry(row)
  return {
    seq = row[1], at = row[2], since = row[3], actorId = row[4], actor = row[5], tokenId = row[6], peer = row[7],
    action = row[8], targetKind = row[9], targetId = row[10], target = row[11], outcome = row[12], code = row[13],
    times = row[14], detail = row[15] and cjson.decode(row[15]),
  }
end

function Audit:list(options)
  local limit = options.limit
  local rows
  if options.before then
    rows = self.database:all(SQL.before, options.before, options.before, limit + 1)
  else
    rows = self.database:all(SQL.latest, limit + 1)
  end
  local entries = {}
  for i = 1, math.min(#rows, limit) do entries[i] = entry(rows[i]) end
  return entries, #rows > limit and entries[limit].seq or nil
end

return audits
