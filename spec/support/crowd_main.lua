-- Many callers in one process, led by spec/support/crowd.lua. Arguments: the address, how many, what they do, the
-- request (as Lua text), how many at once while they connect. Each number of callers that got where they are to be is
-- told on stdout; a line on stdin is a command: "read" (those that stalled read on), "count" (bytes and ends so far);
-- the end of stdin ends all.
local uv = require "luv"

local address, count, manner, source, at_once = arg[1], tonumber(arg[2]), arg[3], arg[4], tonumber(arg[5])
local request = assert(load("return " .. source))()
local host, port = address:match("^(.*):(%d+)$")

local callers, started, there, failed = {}, 0, 0, 0
local ended, complete = 0, 0
local start_some

local function say(...)
  io.stdout:write(string.format(...), "\n")
  io.stdout:flush()
end

local function arrive(self, well)
  if self.arrived then return end
  self.arrived = true
  if well then there = there + 1 else failed = failed + 1 end
  if there + failed == count then say("there %d failed %d", there, failed) end
  start_some()
end

local function on_end(self)
  if self.over then return end
  self.over = true
  ended = ended + 1
  if self.tail:find("0\r\n\r\n$") then complete = complete + 1 end
  self.tcp:close()
  arrive(self, false)
end

local function listen(self)
  self.tcp:read_start(function(err, chunk)
    if err or not chunk then return on_end(self) end
    self.bytes = self.bytes + #chunk
    self.tail = #chunk >= 16 and chunk:sub(-16) or (self.tail .. chunk):sub(-16)
    if self.tail:find("0\r\n\r\n$") then return on_end(self) end
    -- A stalled reader has had something of the body; an idle one its first event.
    if self.bytes > (manner == "stall" and 4096 or 150) then
      if manner == "stall" and not self.arrived then self.tcp:read_stop() end
      arrive(self, true)
    end
  end)
end

local function drip(self)
  local at = 0
  self.timer = uv.new_timer()
  self.timer:start(0, 1000, function()
    at = at + 1
    if at > #request or self.tcp:is_closing() then return self.timer:stop() end
    self.tcp:write(request:sub(at, at), function(err) if err then on_end(self) end end)
    arrive(self, true)
  end)
end

local function start_one()
  started = started + 1
  local self = { tcp = uv.new_tcp(), bytes = 0, tail = "" }
  callers[started] = self
  if manner == "stall" then pcall(uv.recv_buffer_size, self.tcp, 4096) end
  self.tcp:connect(host, tonumber(port), function(err)
    if err then return on_end(self) end
    listen(self)
    if manner == "drip" then return drip(self) end
    self.tcp:write(request)
  end)
end

function start_some()
  while started < count and started - there - failed < at_once do start_one() end
end

local commands = {
  read = function()
    for _, self in ipairs(callers) do
      if not self.over then listen(self) end
    end
    say "reading"
  end,
  count = function()
    local bytes = 0
    for _, self in ipairs(callers) do bytes = bytes + self.bytes end
    say("bytes %d ended %d complete %d", bytes, ended, complete)
  end,
}

local input = uv.new_pipe()
input:open(0)
input:read_start(function(err, chunk)
  if err or not chunk then os.exit(0, false) end
  for line in chunk:gmatch("[^\n]+") do commands[line]() end
end)
start_some()
uv.run()
