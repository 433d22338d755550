-- A plain HTTP/1.1 client that shows what really came: how a reply ended, chunk by chunk, byte by byte.
--   local client = require "spec.support.client"
--   local c = client.open("127.0.0.1:4141")            or client.open("unix:/path"); timeout_ms 5000 unless given
--   c:send(client.request{ method =, path =, headers = { ... }, body = "..." or json = {...} })
--   local r = c:read_reply()    { status, reason, headers = { lower_name = value }, header_list, body, complete }
--                               complete is false when the connection ended before the reply did; then r.ended says how
--   c:read_head()  c:read_some()   the head alone; then the next bytes of the body as they come, nil at its end
--                               (c.complete says whether that was a good one)
--   c:close()   c:half_close()   c:reset()   c.sock is luasocket's
--   client.ask(address, { ... })   all in one, on a connection of its own; also head = true for HEAD
-- headers: { Name = value }, or { { name, value }, ... }; Host and Content-Length are added; false leaves out.
local socket = require "socket"
local unix = require "socket.unix"
local cjson = require "cjson"

local client = {}
local Connection = {}
Connection.__index = Connection

function client.open(address, timeout_ms)
  local path = address:match("^unix:(.*)$")
  local sock
  if path then
    sock = assert(unix.stream())
    assert(sock:connect(path))
  else
    local host, port = address:match("^(.*):(%d+)$")
    sock = assert(socket.connect(host, tonumber(port)))
    sock:setoption("tcp-nodelay", true)
  end
  sock:settimeout((timeout_ms or 5000) / 1000)
  return setmetatable({ sock = sock, buffer = "" }, Connection)
end

local function pairs_of(headers)
  if headers[1] then return headers end
  local list = {}
  for name, value in pairs(headers) do list[#list + 1] = { name, value } end
  table.sort(list, function(a, b) return a[1] < b[1] end)
  return list
end

function client.request(spec)
  local body = spec.json and cjson.encode(spec.json) or spec.body
  local lines, given = {}, {}
  for _, each in ipairs(pairs_of(spec.headers or {})) do
    given[each[1]:lower()] = true
    if each[2] then lines[#lines + 1] = each[1] .. ": " .. each[2] end
  end
  if not given.host then lines[#lines + 1] = "Host: localhost" end
  if spec.json and not given["content-type"] then lines[#lines + 1] = "Content-Type: application/json" end
  if body and not given["content-length"] and not given["transfer-encoding"] then
    lines[#lines + 1] = "Content-Length: " .. #body
  end
  local method = spec.method or (body and "POST" or "GET")
  return ("%s %s HTTP/1.1\r\n%s\r\n\r\n%s"):format(method, spec.path or "/", table.concat(lines, "\r\n"), body or "")
end

function Connection:send(bytes)
  local from = 1
  while from <= #bytes do
    local sent, err, part = self.sock:send(bytes, from)
    if not sent and not part then return nil, err end
    if not sent then return nil, err, part end
    from = sent + 1
  end
  return true
end

-- More bytes into the buffer; false and why when there are none.
function Connection:fill()
  local data, err, part = self.sock:receive(1)
  if not data then
    self.ended = err
    return false
  end
  self.sock:settimeout(0)
  local rest, _, more = self.sock:receive(65536)
  self.sock:settimeout(5)
  self.buffer = self.buffer .. data .. (rest or more or part or "")
  return true
end

function Connection:take_until(pattern)
  while true do
    local first, last = self.buffer:find(pattern)
    if first then
      local text = self.buffer:sub(1, first - 1)
      self.buffer = self.buffer:sub(last + 1)
      return text
    end
    if not self:fill() then return nil end
  end
end

function Connection:read_head()
  local text = self:take_until("\r\n\r\n")
  if not text then return nil, self.ended end
  local head = { headers = {}, header_list = {} }
  local status, reason = text:match("^HTTP/1%.1 (%d%d%d) ([^\r]*)")
  head.status, head.reason = tonumber(status), reason
  for name, value in text:gmatch("\r\n([^:\r]+): ([^\r]*)") do
    head.headers[name:lower()] = value
    head.header_list[#head.header_list + 1] = { name, value }
  end
  if head.status == 100 then return self:read_head() end
  self.left = tonumber(head.headers["content-length"])
  self.chunked = head.headers["transfer-encoding"] == "chunked"
  if head.status == 204 or head.status == 304 then self.left, self.chunked = 0, false end
  self.complete = false
  return head
end

function Connection:read_chunk()
  local size = self:take_until("\r\n")
  if not size then return nil end
  size = tonumber(size, 16)
  while #self.buffer < size + 2 do
    if not self:fill() then
      local part = self.buffer
      self.buffer = ""
      return part ~= "" and part or nil
    end
  end
  local chunk = self.buffer:sub(1, size)
  self.buffer = self.buffer:sub(size + 3)
  if size == 0 then
    self.complete = true
    return nil
  end
  return chunk
end

function Connection:read_some()
  if self.complete then return nil end
  if self.chunked then return self:read_chunk() end
  if self.left == 0 then
    self.complete = true
    return nil
  end
  if #self.buffer == 0 and not self:fill() then
    self.complete = self.left == nil and self.ended == "closed"
    return nil
  end
  local some = self.left and self.buffer:sub(1, self.left) or self.buffer
  self.buffer = self.buffer:sub(#some + 1)
  if self.left then self.left = self.left - #some end
  return some
end

function Connection:read_reply(is_head)
  local reply, err = self:read_head()
  if not reply then return nil, err end
  if is_head then self.left, self.chunked = 0, false end
  local parts = {}
  for some in function() return self:read_some() end do parts[#parts + 1] = some end
  reply.body, reply.complete, reply.ended = table.concat(parts), self.complete, self.ended
  return reply
end

function Connection:close() self.sock:close() end
function Connection:half_close() self.sock:shutdown("send") end

function Connection:reset()
  self.sock:setoption("linger", { on = true, timeout = 0 })
  self.sock:close()
end

function client.ask(address, spec)
  local c = client.open(address, spec.timeout_ms)
  assert(c:send(client.request(spec)))
  local reply, err = c:read_reply(spec.method == "HEAD")
  c:close()
  if reply and (reply.headers["content-type"] or ""):find("^application/json") and #reply.body > 0 then
    local ok, json = pcall(cjson.decode, reply.body)
    reply.json = ok and json or nil
  end
  return reply or error("no reply: " .. tostring(err), 2)
end

return client
