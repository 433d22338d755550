-- A breaker for each name: remembers what fails again and again, so that nobody waits for it each time.
--
--   local breaker = require("deputy.breaker").new{ failures = 5, openMs = 10000 }
--   if breaker:is_open(llm) then ... the others go first ... end
--   breaker:failed(llm)      after a failure
--   breaker:succeeded(llm)   after anything else
--
-- Closed until `failures` in a row have been counted. Then open for `openMs`. After that it is half open: is_open says
-- "no" to one caller, who tries; the rest still hear "yes". When the trial fails, or is never heard of again, the next
-- one is let through `openMs` later. One success closes it.
--
-- At most `names` (1000) are kept; those that were not looked at for longest are forgotten, which closes them.
--
-- Whoever looks from outside is told by state("breaker", name, "open" or "half_open", seconds); one that is closed has
-- no entry there. "half_open": the trial is out; one that is "open" and whose seconds have passed waits for its trial.
local M = {}
M.__index = M

local function say_nothing() end

--- A new set of breakers. The clock (seconds) is the script's `now` unless it is given, and `tell` its `state`.
function M.new(options)
  return setmetatable({
    limit = options.failures,
    open_s = options.openMs / 1000,
    half = math.max(1, (options.names or 1000) // 2),
    clock = options.now,
    tell = options.tell or state or say_nothing,
    young = {}, -- name -> { failures =, open_until = }; only of what has failed
    old = {},
    n = 0,
  }, M)
end

-- Two generations instead of a list in order of use: what is looked at moves to the young one, and when that is full
-- the old one is forgotten.
local function keep(self, name, entry)
  if self.n >= self.half then
    for forgotten, each in pairs(self.old) do
      if each.failures >= self.limit then self.tell("breaker", forgotten) end
    end
    self.old, self.young, self.n = self.young, {}, 0
  end
  self.young[name] = entry
  self.n = self.n + 1
end

local function find(self, name)
  local entry = self.young[name]
  if entry then return entry end
  entry = self.old[name]
  if entry then
    self.old[name] = nil
    keep(self, name, entry)
  end
  return entry
end

--- Should this name be passed over for now? Half open, one caller is told no: whoever hears that has to try.
function M:is_open(name)
  local entry = find(self, name)
  if not entry or entry.failures < self.limit then return false end
  local time = (self.clock or now)()
  if time < entry.open_until then return true end
  entry.open_until = time + self.open_s -- the trial is out
  self.tell("breaker", name, "half_open", self.open_s)
  return false
end

--- Counts a failure. At the limit the breaker opens.
function M:failed(name)
  local entry = find(self, name)
  if not entry then
    entry = { failures = 0, open_until = 0 }
    keep(self, name, entry)
  end
  if entry.failures < self.limit then entry.failures = entry.failures + 1 end
  if entry.failures == self.limit then
    entry.open_until = (self.clock or now)() + self.open_s
    self.tell("breaker", name, "open", self.open_s)
  end
end

--- It works: closes the breaker and forgets its failures.
function M:succeeded(name)
  local entry = self.young[name] or self.old[name]
  if not entry then return end
  if self.young[name] then
    self.young[name] = nil
    self.n = self.n - 1
  else
    self.old[name] = nil
  end
  if entry.failures >= self.limit then self.tell("breaker", name) end
end

return M
