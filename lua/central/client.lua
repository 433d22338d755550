-- An HTTP/1.1 client that blocks, and that shows exactly what came: for the commands of deputy, not for a server.
--
--   local client = require "central.client"
--   local base = client.parse "https://central.example/prefix"     or nil and what is wrong with it
--   local reply, failure = client.ask(base, { method = "HEAD", target = "/api/v1/llms/x", token = t })
-- A connection that is kept:
--   local c, failure = client.open(base, options)
--   reply, failure = c:ask{ ... }     one after the other;  c.closing: the server has announced its end
--   c:extra(seconds)                  bytes that come after a reply, "" when none do; c.ended: it was closed
--   c:close()
--
-- A request: method ("GET"), target (appended to the base's path), token, headers = { { name, value }, ... }, body.
-- Options, also in ask's request: timeout (seconds for all of one exchange, 10), ca_file (the system's), max_body.
-- A reply: status, reason, list = { { name, value }, ... }, headers (lower-case names; doubles joined by ", "), body,
-- raw_head, us (from the first byte sent until the head was there).
-- A failure: kind = "connect" | "tls" | "timeout" | "cut" | "protocol" | "limit", message. Neither holds a token.
--
-- No redirects, no cookies, no proxy from the environment. Certificates are verified, the host's name too.
local socket = require "socket"

local client = {}

local MAX_HEAD = 65536
local MAX_BODY = 16 * 1024 * 1024
local PATHS = { "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem" }

local function fail(kind, format, ...)
  return nil, { kind = kind, message = format:format(...) }
end

-- ---- where ----------------------------------------------------------------------------------------------------------

function client.parse(url)
  local scheme, authority, path = url:match("^(https?)://([^/?#]+)([^?#]*)$")
  if not scheme then return nil, "expected http://HOST[:PORT] or https://HOST[:PORT], without a query" end
  if authority:find("@", 1, true) then return nil, "user and password do not belong into the URL" end
  local host, port = authority:match("^%[([%x:.]+)%]:?(%d*)$")
  if not host then host, port = authority:match("^([^:]+):?(%d*)$") end
  port = port ~= "" and math.tointeger(tonumber(port)) or port == "" and (scheme == "https" and 443 or 80) or nil
  if not host or not port or port < 1 or port > 65535 or url:find("[%c ]") then
    return nil, "expected http://HOST[:PORT] or https://HOST[:PORT]"
  end
  return { scheme = scheme, host = host, port = port, authority = authority, path = (path:gsub("/+$", "")), url = url }
end

-- A name as one segment of a path (RFC 3986).
function client.escape(name)
  return (name:gsub("[^%w%-._~]", function(c) return ("%%%02X"):format(c:byte()) end))
end

-- ---- TLS ------------------------------------------------------------------------------------------------------------

-- RFC 6125: a star stands for the whole of the first label, and for nothing else.
local function names_host(pattern, host)
  pattern, host = pattern:lower(), host:lower():gsub("%.$", "")
  if pattern == host then return true end
  local rest = pattern:match("^%*(%..+%..+)$")
  return rest ~= nil and host:match("^[^.]+(%..+)$") == rest
end

local function is_for(certificate, host)
  local address = host:find("^[%d.]+$") or host:find(":", 1, true)
  for _, extension in pairs(certificate:extensions()) do
    for _, name in ipairs(extension[address and "iPAddress" or "dNSName"] or {}) do
      if address and name == host or not address and names_host(name, host) then return true end
    end
  end
  return false
end

local function readable(path)
  local file = io.open(path)
  return file and file:close() and path
end

local function wrap(sock, base, options)
  local found, ssl = pcall(require, "ssl")
  if not found then return fail("tls", "https needs LuaSec (the Debian package lua-sec)") end
  local ca = options.ca_file
  for i = 1, ca and 0 or #PATHS do ca = ca or readable(PATHS[i]) end
  local secure, why = ssl.wrap(sock, {
    mode = "client", protocol = "any", verify = { "peer" }, cafile = ca,
    options = { "all", "no_sslv2", "no_sslv3", "no_tlsv1", "no_tlsv1_1", "no_compression" },
  })
  if not secure then return fail("tls", "%s", why) end
  if not base.host:find("^[%d.]+$") and not base.host:find(":", 1, true) then secure:sni(base.host) end
  secure:settimeout(options.timeout)
  local done
  done, why = secure:dohandshake()
  if not done then return fail(why == "timeout" and "timeout" or "tls", "the TLS handshake failed: %s", why) end
  if not is_for(secure:getpeercertificate(), base.host) then
    secure:close()
    return fail("tls", "the certificate is not for %s", base.host)
  end
  return secure
end

-- ---- a connection ---------------------------------------------------------------------------------------------------

local Connection = {}
Connection.__index = Connection

function client.open(base, options)
  options = options or {}
  local self = setmetatable({ base = base, timeout = options.timeout or 10, buffer = "" }, Connection)
  self.max_body = options.max_body or MAX_BODY
  local sock = socket.tcp()
  sock:settimeout(self.timeout)
  local done, why = sock:connect(base.host, base.port)
  if not done then
    sock:close()
    return fail(why == "timeout" and "timeout" or "connect", "cannot connect to %s: %s", base.authority, why)
  end
  sock:setoption("tcp-nodelay", true)
  if base.scheme == "https" then
    local secure, failure = wrap(sock, base, { ca_file = options.ca_file, timeout = self.timeout })
    if not secure then
      sock:close()
      return nil, failure
    end
    sock = secure
  end
  self.sock = sock
  return self
end

function Connection:close()
  self.sock:close()
  self.closing = true
end

-- More bytes into the buffer, by then. nil and a failure when none come.
function Connection:fill(deadline)
  self.sock:settimeout(math.max(deadline - socket.gettime(), 0.001))
  local first, why = self.sock:receive(1)
  if not first then
    self.ended = why ~= "timeout" and why ~= "wantread"
    if self.ended then return fail("cut", "the connection ended: %s", why) end
    return fail("timeout", "no answer in time")
  end
  self.sock:settimeout(0)
  local more, _, part = self.sock:receive(65536)
  self.buffer = self.buffer .. first .. (more or part or "")
  return true
end

function Connection:take(n)
  local bytes = self.buffer:sub(1, n)
  self.buffer = self.buffer:sub(n + 1)
  return bytes
end

function Connection:line(deadline, mark, max)
  while true do
    local _, last = self.buffer:find(mark, 1, true)
    if last then return self:take(last) end
    if #self.buffer > max then return fail("limit", "over %d bytes of head", max) end
    local ok, failure = self:fill(deadline)
    if not ok then return nil, failure end
  end
end

function Connection:exactly(n, deadline)
  if n > self.max_body then return fail("limit", "a body of over %d bytes", self.max_body) end
  while #self.buffer < n do
    local ok, failure = self:fill(deadline)
    if not ok then return nil, failure end
  end
  return self:take(n)
end

local function read_fields(text, reply)
  for line in text:gmatch("([^\r\n]*)\r\n") do
    local name, value = line:match("^([%w!#$%%&'*+%-.^_`|~]+):[ \t]*(.-)[ \t]*$")
    if not name then return fail("protocol", "a header line that is none") end
    reply.list[#reply.list + 1] = { name, value }
    local key = name:lower()
    reply.headers[key] = reply.headers[key] and reply.headers[key] .. ", " .. value or value
  end
  return true
end

function Connection:head(deadline)
  local text, failure = self:line(deadline, "\r\n\r\n", MAX_HEAD)
  if not text then return nil, failure end
  local version, status, reason, rest = text:match("^HTTP/(1%.[01]) (%d%d%d) ?([^\r\n]*)\r\n(.*)\r\n$")
  if not version then return fail("protocol", "what came is not an HTTP/1 reply") end
  local reply = { status = tonumber(status), reason = reason, raw_head = text, list = {}, headers = {} }
  local ok
  ok, failure = read_fields(rest, reply)
  if not ok then return nil, failure end
  if reply.status < 200 then return self:head(deadline) end
  local connection = (reply.headers.connection or ""):lower()
  self.closing = connection:find("close", 1, true) ~= nil
    or version == "1.0" and not connection:find("keep-alive", 1, true)
  return reply
end

function Connection:chunks(deadline)
  local parts, size = {}, 0
  while true do
    local line, failure = self:line(deadline, "\r\n", MAX_HEAD)
    if not line then return nil, failure end
    local n = tonumber(line:match("^(%x+)[;\r \t]") or "", 16)
    if not n then return fail("protocol", "a chunk without a size") end
    if n == 0 then break end
    size = size + n
    if size > self.max_body then return fail("limit", "a body of over %d bytes", self.max_body) end
    parts[#parts + 1], failure = self:exactly(n, deadline)
    if failure then return nil, failure end
    line = self:exactly(2, deadline)
    if line ~= "\r\n" then return fail("protocol", "a chunk that does not end where it should") end
  end
  repeat
    local line, failure = self:line(deadline, "\r\n", MAX_HEAD)
    if not line then return nil, failure end
  until line == "\r\n"
  return table.concat(parts)
end

function Connection:to_the_end(deadline)
  while true do
    local ok, failure = self:fill(deadline)
    if not ok then
      if failure.kind == "cut" and self.ended == true then return self:take(#self.buffer) end
      return nil, failure
    end
    if #self.buffer > self.max_body then return fail("limit", "a body of over %d bytes", self.max_body) end
  end
end

function Connection:body(reply, method, deadline)
  if method == "HEAD" or reply.status == 204 or reply.status == 304 then return "" end
  local length, coding = reply.headers["content-length"], reply.headers["transfer-encoding"]
  if length and coding then return fail("protocol", "both a Content-Length and a Transfer-Encoding") end
  if coding then
    if coding:lower() ~= "chunked" then return fail("protocol", "a Transfer-Encoding that is not chunked") end
    return self:chunks(deadline)
  end
  if not length then
    self.closing = true
    return self:to_the_end(deadline)
  end
  if not length:find("^%d+$") or #length > 15 then return fail("protocol", "a Content-Length that is no number") end
  return self:exactly(math.tointeger(tonumber(length)), deadline)
end

local function write(self, request)
  local lines = {
    ("%s %s%s HTTP/1.1"):format(request.method or "GET", self.base.path, request.target or "/"),
    "Host: " .. self.base.authority,
    "User-Agent: deputy",
  }
  if request.token then lines[#lines + 1] = "Authorization: Bearer " .. request.token end
  for _, each in ipairs(request.headers or {}) do lines[#lines + 1] = each[1] .. ": " .. each[2] end
  if request.body then lines[#lines + 1] = "Content-Length: " .. #request.body end
  if request.last then lines[#lines + 1] = "Connection: close" end
  return table.concat(lines, "\r\n") .. "\r\n\r\n" .. (request.body or "")
end

function Connection:ask(request)
  local began = socket.gettime()
  local deadline = began + (request.timeout or self.timeout)
  self.sock:settimeout(deadline - began)
  local text, at = write(self, request), 1
  while at <= #text do
    local sent, why, part = self.sock:send(text, at)
    if not sent and why == "timeout" then return fail("timeout", "the request could not be sent in time") end
    -- Who answers before all was sent, and closes, has answered all the same.
    if not sent then break end
    at = (sent or part) + 1
  end
  local reply, failure = self:head(deadline)
  if not reply then return nil, failure end
  reply.us = math.floor((socket.gettime() - began) * 1000000)
  reply.body, failure = self:body(reply, request.method, deadline)
  if not reply.body then return nil, failure end
  return reply
end

function Connection:extra(seconds)
  local deadline = socket.gettime() + seconds
  while #self.buffer < MAX_HEAD and self:fill(deadline) do end
  return self:take(#self.buffer)
end

function client.ask(base, request)
  local c, failure = client.open(base, request)
  if not c then return nil, failure end
  request.last = true
  local reply
  reply, failure = c:ask(request)
  c:close()
  return reply, failure
end

return client
