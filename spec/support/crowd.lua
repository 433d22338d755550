-- A crowd of callers, in a process of its own that may have as many descriptors as there are callers.
--   local crowd = require "spec.support.crowd"
--   local c = crowd.start{ address = gw.address, count = 200, manner = "stall", request = bytes, at_once = 100 }
--     manner: "idle"   sends the request and reads on; there with its first event
--             "stall"  the same, but reads nothing more after that
--             "drip"   sends the request a byte a second
--   c:wait(ms)       until all are there; how many are, and how many are not
--   c:totals()       { bytes =, ended =, complete = } so far
--   c:read_on()      those that stalled read on
--   c:stop()         all leave at once
--   crowd.stop_all() in after_each
local shell = require "spec.support.shell"

local crowd = {}
local MAIN = debug.getinfo(1, "S").source:match("^@(.*)crowd%.lua$") .. "crowd_main.lua"
local MORE_DESCRIPTORS = 64

local running = {}
local Crowd = {}
Crowd.__index = Crowd

function crowd.start(spec)
  local files = spec.count + MORE_DESCRIPTORS
  local self = setmetatable({}, Crowd)
  self.process = shell.start{
    "sh", "-c", 'ulimit -Sn "$0" && exec "$@"', tostring(files), "lua5.4", MAIN, spec.address, tostring(spec.count),
    spec.manner, ("%q"):format(spec.request):gsub("\\\n", "\\n"):gsub("\r", "\\r"), tostring(spec.at_once or 100),
  }
  running[self] = true
  return self
end

function Crowd:answer(pattern, ms)
  local first, second, third = self.process:wait_for(pattern, ms)
  if not first then error("the crowd said nothing: " .. self.process.stderr, 3) end
  self.process.stdout = ""
  return tonumber(first) or first, tonumber(second), tonumber(third)
end

function Crowd:wait(ms) return self:answer("there (%d+) failed (%d+)\n", ms or 10000) end

function Crowd:totals()
  self.process:write("count\n")
  local bytes, ended, complete = self:answer("bytes (%d+) ended (%d+) complete (%d+)\n", 10000)
  return { bytes = bytes, ended = ended, complete = complete }
end

function Crowd:read_on()
  self.process:write("read\n")
  self:answer("(reading)\n", 10000)
end

function Crowd:stop()
  if not running[self] then return end
  running[self] = nil
  self.process:close_stdin()
  if not self.process:wait(5000) then self.process:stop() end
end

function crowd.stop_all()
  for self in pairs(running) do self:stop() end
end

return crowd
