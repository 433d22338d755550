-- Runs commands. Arguments go to the program as they are: there is no shell in between, nothing to quote.
--   local shell = require "spec.support.shell"
--   local r = shell.run{ "build/deputy", "probe", "claude", env = { HOME = dir }, stdin = "text", timeout_ms = 5000 }
--   r.status     exit status, nil when a signal ended it         r.signal    the signal's number, nil when none
--   r.stdout     r.stderr                                        r.timed_out true: killed at timeout_ms (10 s)
--   r.us         wall time in microseconds
-- More fields:  cwd =, clear_env = true (env alone, not on top of ours; PATH stays). In env, false unsets a name.
-- A command that is not there: status 127 and a line on stderr.
--
--   local p = shell.start{ ... same fields ... }   in the background; stdin stays open unless given
--   p.pid; p.stdout, p.stderr (so far, as of the last call below)
--   p:write(bytes)   p:close_stdin()   p:signal("sigterm")
--   p:wait_for(pattern, ms)  until stdout .. stderr match the Lua pattern; what string.match gives, or nil
--   p:wait(ms)               until it ends; the same table as run's, or nil when it still runs
--   p:stop()                 kills it and all of its process group, waits; returns run's table
-- Everything started here gets SIGKILL when the spec process ends, however that happens.
local uv = require "luv"

local shell = {}
local MAX_OUTPUT = 16 * 1024 * 1024

local Process = {}
Process.__index = Process

-- Turns the loop until done() or for ms. True when done. Shared by everything here that waits.
function shell.turn(done, ms)
  local late = false
  local timer = uv.new_timer()
  uv.update_time() -- else one that is due at once is over before the wait, which then has no end
  timer:start(ms, 0, function() late = true end)
  while not done() and not late do uv.run("once") end
  timer:close()
  uv.run("nowait")
  return done() and true or false
end

local function environment(spec)
  local vars = spec.clear_env and { PATH = os.getenv("PATH") } or uv.os_environ()
  for name, value in pairs(spec.env or {}) do vars[name] = value or nil end
  local list = {}
  for name, value in pairs(vars) do list[#list + 1] = name .. "=" .. value end
  return list
end

local function collect(self, pipe, field)
  pipe:read_start(function(err, chunk)
    if chunk and #self[field] < MAX_OUTPUT then
      self[field] = self[field] .. chunk
    elseif err or not chunk then
      pipe:close()
      self.open = self.open - 1
    end
  end)
  return pipe
end

function shell.start(spec)
  local self = setmetatable({ stdout = "", stderr = "", open = 3, began = uv.hrtime() }, Process)
  self.stdin = uv.new_pipe()
  local out, err = uv.new_pipe(), uv.new_pipe()
  local args = { "--pdeathsig", "KILL", "--", table.unpack(spec) }
  if spec[1] == "lua5.4" and os.getenv("LUA_PRELOAD") then -- a module that was built with a sanitizer needs it too
    table.move({ "env", "LD_PRELOAD=" .. os.getenv("LUA_PRELOAD"), table.unpack(spec) }, 1, #spec + 2, 4, args)
  end
  local handle, pid = uv.spawn("setpriv", {
    args = args, stdio = { self.stdin, out, err }, env = environment(spec), cwd = spec.cwd,
    detached = true, -- a process group of its own, so that stop reaches its children too
  }, function(code, signal)
    self.status, self.signal_number = code, signal
    self.us = math.tointeger((uv.hrtime() - self.began) // 1000)
    self.handle:close()
    self.open = self.open - 1
  end)
  if not handle then
    for _, pipe in ipairs{ self.stdin, out, err } do pipe:close() end
    uv.run("nowait")
    error("cannot start " .. tostring(spec[1]) .. ": " .. tostring(pid), 2)
  end
  self.handle, self.pid = handle, pid
  self.pipes = { self.stdin, collect(self, out, "stdout"), collect(self, err, "stderr") }
  if spec.stdin then
    self:write(spec.stdin)
    self:close_stdin()
  end
  return self
end

function Process:write(bytes)
  self.stdin:write(bytes)
end

function Process:close_stdin()
  if not self.stdin:is_closing() then
    local pipe = self.stdin
    pipe:shutdown(function() if not pipe:is_closing() then pipe:close() end end)
  end
end

function Process:signal(name)
  if not self.us then self.handle:kill(name) end
end

function Process:wait_for(pattern, ms)
  local function found() return (self.stdout .. self.stderr):match(pattern) end
  shell.turn(function() return found() or self.open == 0 end, ms or 5000)
  return found()
end

function Process:wait(ms)
  -- A grandchild may hold the pipes open: wait a little for them, not for ever.
  if not shell.turn(function() return self.us end, ms or 10000) then return nil end
  shell.turn(function() return self.open == 0 end, 200)
  for _, pipe in ipairs(self.pipes) do
    if not pipe:is_closing() then pipe:close() end
  end
  uv.run("nowait")
  local signalled = self.signal_number ~= 0
  return {
    status = not signalled and self.status or nil, signal = signalled and self.signal_number or nil,
    stdout = self.stdout, stderr = self.stderr, us = self.us, timed_out = false,
  }
end

function Process:stop()
  if not self.us then uv.kill(-self.pid, "sigkill") end
  return self:wait(5000)
end

function shell.run(spec)
  local process = shell.start(spec)
  process:close_stdin()
  local result = process:wait(spec.timeout_ms or 10000)
  if result then return result end
  result = process:stop()
  result.timed_out = true
  return result
end

return shell
