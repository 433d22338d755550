-- How long processes stood ready to run while the machine gave them no CPU: what a busy machine took, not the program.
--   local since = require("spec.support.starved").clock(pid, ...)   this process is always among them
--   since()    milliseconds, of all these together; with it what the host of a virtual machine took from all its CPUs.
--              Without /proc/PID/schedstat (a kernel without CONFIG_SCHED_INFO) this is 0: nothing is forgiven.
local lfs = require "lfs"
local uv = require "luv"

local starved = {}
local TICK_MS = 10 -- USER_HZ is 100 wherever Linux runs

local function first_line(path)
  local file = io.open(path)
  local line = file and file:read("l")
  if file then file:close() end
  return line
end

-- Of every thread: nanoseconds on a run queue (the second number).
local function waited_ns(pid)
  local sum, folder = 0, ("/proc/%d/task"):format(pid)
  if not lfs.attributes(folder) then return 0 end
  for thread in lfs.dir(folder) do
    local line = first_line(("%s/%s/schedstat"):format(folder, thread))
    sum = sum + (line and tonumber(line:match("^%d+ (%d+)")) or 0)
  end
  return sum
end

local function stolen_ms()
  local line = first_line("/proc/stat") or ""
  return (tonumber(line:match("^cpu%s+%d+ %d+ %d+ %d+ %d+ %d+ %d+ (%d+)")) or 0) * TICK_MS
end

function starved.clock(...)
  local pids = { uv.os_getpid(), ... }
  local function now()
    local ns = 0
    for _, pid in ipairs(pids) do ns = ns + waited_ns(pid) end
    return ns / 1e6 + stolen_ms()
  end
  local began = now()
  return function() return now() - began end
end

return starved
