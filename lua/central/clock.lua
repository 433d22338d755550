-- Time as text: ISO 8601 in UTC with milliseconds, "2026-01-31T12:00:00.000Z". All of one length, so that the order of
-- the texts is the order of the times.
--
--   local clock = clocks.new(now)    now() gives seconds since 1970, with a fraction (the system's clock)
--   clock.now()                      seconds
--   clock.text()                     the present as text
--   clocks.elapsed(now)              a function: seconds that have passed by this clock since some beginning; a clock
--                                    that is set back makes it stand for a moment, and never go back
--   clocks.text(seconds)             any time as text
--   clocks.parse(text)               seconds of a text, or nil; seconds may lack the fraction, the zone must be Z
local socket = require "socket"

local clocks = {}

-- The end of year 9999: beyond it the texts get longer.
clocks.MAX = 253402300799

function clocks.text(seconds)
  -- A fraction such as .123 has no exact form: a little more, so that it does not turn into .122.
  local ms = math.floor(seconds * 1000 + 0.01)
  return ("%s.%03dZ"):format(os.date("!%Y-%m-%dT%H:%M:%S", ms // 1000), ms % 1000)
end

-- Days since 1970 of a date in the proleptic Gregorian calendar; years begin in March, so that the leap day is last.
local function days_of(year, month, day)
  if month <= 2 then year, month = year - 1, month + 12 end
  local days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5 + day - 1
  return days - 719468
end

function clocks.parse(text)
  local year, month, day, hour, minute, second, fraction =
    text:match("^(%d%d%d%d)%-(%d%d)%-(%d%d)T(%d%d):(%d%d):(%d%d)(%.?%d*)Z$")
  if not year or (fraction ~= "" and not fraction:find("^%.%d%d?%d?$")) then return nil end
  local seconds = days_of(tonumber(year), tonumber(month), tonumber(day)) * 86400 + tonumber(hour) * 3600
    + tonumber(minute) * 60 + tonumber(second)
  -- What a calendar does not know (February 30th, 25 o'clock) comes back as another text.
  if os.date("!%Y-%m-%dT%H:%M:%S", seconds) ~= text:sub(1, 19) then return nil end
  return seconds + (tonumber("0" .. fraction) or 0)
end

function clocks.elapsed(now)
  local total, seen = 0, now()
  return function()
    local present = now()
    total, seen = total + math.max(0, present - seen), present
    return total
  end
end

function clocks.new(now)
  now = now or socket.gettime
  local last, last_text
  return {
    now = now, elapsed = clocks.elapsed(now),
    text = function()
      local present = now()
      local ms = math.floor(present * 1000 + 0.01)
      if ms ~= last then last, last_text = ms, clocks.text(present) end
      return last_text
    end,
  }
end

return clocks
