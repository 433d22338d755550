-- A TLS listener whose streams look like luv's TCP handles, so that every byte script works over TLS too.
local uv = require "luv"
local socket = require "socket"
local ssl = require "ssl"

local tls = {}

local Stream = {}
Stream.__index = Stream

local function watch(self)
  if self.poll:is_closing() then return end
  local events = (self.wants_read and "r" or "") .. (self.wants_write and "w" or "")
  if events == "" then
    self.poll:stop()
  else
    self.poll:start(events, self.on_event)
  end
end

-- OpenSSL may need to write in order to read and the other way round: what it asks for is watched for.
local function need(self, why)
  self.wants_write = why == "wantwrite" or #self.queue > 0
  self.wants_read = true
  watch(self)
end

local function pump_reads(self)
  while self.on_read and not self.poll:is_closing() do
    local bytes, why, part = self.ssl:receive(16384)
    bytes = bytes or part
    if bytes and #bytes > 0 then self.on_read(nil, bytes) end
    if why == "wantread" or why == "wantwrite" or why == "timeout" then return need(self, why) end
    if why then
      local on_read = self.on_read
      self.on_read, self.wants_read = nil, false
      watch(self)
      return on_read(why ~= "closed" and why or nil, nil)
    end
  end
end

local function pump_writes(self)
  while self.queue[1] and not self.poll:is_closing() do
    local first = self.queue[1]
    local sent, why, partly = self.ssl:send(first.bytes, first.from)
    if not sent and why ~= "wantread" and why ~= "wantwrite" and why ~= "timeout" then
      table.remove(self.queue, 1)
      first.done(why)
    elseif not sent then
      first.from = partly + 1
      return need(self, why)
    else
      table.remove(self.queue, 1)
      first.done(nil)
    end
  end
end

local function soon(fn)
  local timer = uv.new_timer()
  timer:start(0, 0, function()
    timer:close()
    fn()
  end)
end

function Stream:read_start(on_read)
  self.on_read = on_read
  need(self)
  -- Bytes may already wait inside OpenSSL, where poll does not see them.
  soon(function() pump_reads(self) end)
end

-- As with luv, `done` never runs inside the call.
function Stream:write(bytes, done)
  self.queue[#self.queue + 1] = { bytes = bytes, from = 1, done = done }
  need(self, "wantwrite")
end

-- LuaSec sends close_notify only when it closes, so this ends both directions: there is no half-open TLS here.
function Stream:shutdown(done)
  if not self.poll:is_closing() then
    self.poll:close()
    self.ssl:close()
  end
  soon(function()
    if self.on_read then self.on_read(nil, nil) end
    done()
  end)
end

function Stream:is_closing()
  return self.poll:is_closing()
end

-- Does something to the socket that LuaSec owns, then lets go of it again.
local function borrow(self, owner, act)
  owner:setfd(self.fd)
  act(owner)
  owner:setfd(-1)
end

-- Closing writes close_notify, which would wait for a client that does not read: with our side of the TCP connection
-- ended before, it cannot.
local function close_without_notify(self)
  self.poll:close()
  self.ssl:close()
end

function Stream:close()
  borrow(self, self.tcp, function(tcp) tcp:shutdown("send") end)
  close_without_notify(self)
end

-- connect() to no address is how Linux resets at once; only LuaSocket's UDP objects have it.
local disconnector = socket.udp4()
disconnector:close()

function Stream:close_reset()
  borrow(self, disconnector, function(udp) udp:setpeername("*") end)
  close_without_notify(self)
end

local function handshake(self, done)
  local ok, why = self.ssl:dohandshake()
  if ok then
    self.on_event = function(_, events)
      if events:find("w", 1, true) then pump_writes(self) end
      pump_reads(self)
      if not self.poll:is_closing() and self.queue[1] then pump_writes(self) end
    end
    self.wants_read, self.wants_write = false, false
    watch(self)
    return done(nil)
  end
  if why ~= "wantread" and why ~= "wantwrite" then
    self.poll:stop()
    return done(why)
  end
  self.wants_read, self.wants_write = why == "wantread", why == "wantwrite"
  watch(self)
end

-- Listens on 127.0.0.1. For each TCP connection on_accept() runs at once and returns what to call when its handshake
-- is over: ready(stream, nil), or ready(stream, why) when it failed. Returns the port.
function tls.listen(files, on_accept)
  local context = assert(ssl.newcontext{
    mode = "server", protocol = "any", certificate = files.cert, key = files.key, options = { "all" },
  })
  local server = assert(socket.bind("127.0.0.1", 0, 1024))
  server:settimeout(0)
  local poll = uv.new_poll(server:getfd())
  poll:start("r", function()
    local tcp = server:accept()
    if not tcp then return end
    tcp:settimeout(0)
    tcp:setoption("tcp-nodelay", true)
    local ready = on_accept()
    local fd = tcp:getfd()
    local secured = assert(ssl.wrap(tcp, context))
    secured:settimeout(0)
    local self = setmetatable({ tcp = tcp, fd = fd, ssl = secured, poll = uv.new_poll(fd), queue = {} }, Stream)
    local function step() handshake(self, function(why) ready(self, why) end) end
    self.on_event = step
    step()
  end)
  local _, port = server:getsockname()
  return math.tointeger(tonumber(port))
end

return tls
