-- One accepted connection: a coroutine that reads, writes and waits in straight lines, on top of luv or TLS callbacks.
local uv = require "luv"

local Connection = {}
Connection.__index = Connection

local MAX_UNREAD = 64 * 1024 * 1024
local LINGER_MS = 500

-- `stream` has read_start, write, shutdown, close, close_reset as luv's TCP handle has. `record` is the connection's
-- entry in the log. `on_error(text)` hears of a script that failed.
function Connection.new(stream, record, on_error)
  return setmetatable({
    stream = stream, record = record, on_error = on_error,
    inbox = {}, unread = 0, buffer = "", at = 1, eof = false, closed = false,
  }, Connection)
end

function Connection:run(fn)
  self.thread = coroutine.create(fn)
  self:go(self)
end

function Connection:go(...)
  local ok, err = coroutine.resume(self.thread, ...)
  if ok then return end
  self.on_error(debug.traceback(self.thread, tostring(err)))
  self:reset()
end

function Connection:await(what)
  self.waiting = what
  return coroutine.yield()
end

function Connection:wake(what)
  if self.closed or self.waiting ~= what then return end
  self.waiting = nil
  self:go()
end

local function ended(self, how)
  if self.record.ended then return end
  self.record.ended, self.record.ended_us = how, math.tointeger(uv.hrtime() // 1000)
end

local function drop(self)
  self.closed, self.waiting = true, nil
  if self.timer then self.timer:close() end
  self.timer = nil
end

function Connection:start_reading()
  if self.reading or self.closed then return end
  self.reading = true
  self.stream:read_start(function(err, chunk)
    if self.closed then return end
    if chunk then
      local record = self.record
      record.bytes_in = record.bytes_in + #chunk
      record.received[#record.received + 1] = chunk
      if self.discard then return end
      self.inbox[#self.inbox + 1] = chunk
      self.unread = self.unread + #chunk
      if self.unread > MAX_UNREAD then return self:reset() end
      return self:wake("data")
    end
    ended(self, err and "client_reset" or "client")
    self.eof = true
    if err or self.stalled or self.discard then return self:destroy() end
    self:wake("data")
  end)
end

-- What came since the last call; waits for it. nil at the end of the stream.
function Connection:more()
  while #self.inbox == 0 do
    if self.eof then return nil end
    self:await("data")
  end
  local bytes = table.concat(self.inbox)
  self.inbox, self.unread = {}, 0
  return bytes
end

function Connection:wait(ms)
  self.timer = self.timer or uv.new_timer()
  self.timer:start(math.floor(ms), 0, function() self:wake("timer") end)
  self:await("timer")
end

-- Cuts what follows: after `count` more bytes sent, `how` ("reset", "close", "stall") happens.
function Connection:cut_after(count, how)
  self.cut_left, self.cut_how = count, how
  if count == 0 then self:cut() end
end

function Connection:cut()
  if self.cut_how == "stall" then return self:stall() end
  if self.cut_how == "close" then return self:close() end
  self:reset()
  self:await("never")
end

-- Sends and waits until the kernel has it. Does not come back when the client is gone.
function Connection:send(bytes)
  if self.cut_left then
    bytes = bytes:sub(1, self.cut_left)
    self.cut_left = self.cut_left - #bytes
  end
  if #bytes > 0 then
    self.record.bytes_out = self.record.bytes_out + #bytes
    self.stream:write(bytes, function(err)
      if self.closed then return end
      if err then
        ended(self, "client_reset")
        return self:destroy()
      end
      self:wake("written")
    end)
    self:await("written")
  end
  if self.cut_left == 0 then self:cut() end
end

-- Ends our direction only.
function Connection:half_close()
  ended(self, "peer")
  self.stream:shutdown(function() self:wake("shut") end)
  self:await("shut")
end

-- Keeps the connection open and sends nothing more, until the client leaves.
function Connection:stall()
  self.stalled = true
  if self.eof then self:destroy() end
  self:await("never")
end

-- FIN, then waits a little for the client's: closing on unread bytes would send RST and could eat our last words.
function Connection:close()
  self.discard = true
  self:half_close()
  if self.eof then
    self:destroy()
  else
    self:start_reading()
    self:wait(LINGER_MS)
    self:destroy()
  end
  self:await("never")
end

-- RST at once.
function Connection:reset()
  if self.closed then return end
  ended(self, "peer_reset")
  drop(self)
  self.stream:close_reset()
end

function Connection:destroy()
  if self.closed then return end
  ended(self, "peer")
  drop(self)
  if not self.stream:is_closing() then self.stream:close() end
end

return Connection
