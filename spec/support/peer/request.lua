-- Reads HTTP/1.x requests from a connection, exactly as sent: keep-alive, pipelining, Content-Length and chunked.
local request = {}

local MAX_HEAD = 4 * 1024 * 1024
local MAX_BODY = 256 * 1024 * 1024

-- conn.buffer from conn.at on is what has come and was not used yet.
local function fill(conn)
  local more = conn:more()
  if not more then return false end
  conn.buffer = conn.buffer:sub(conn.at) .. more
  conn.at = 1
  return true
end

local function take(conn, count, raw)
  local bytes = conn.buffer:sub(conn.at, conn.at + count - 1)
  conn.at = conn.at + count
  raw[#raw + 1] = bytes
  return bytes
end

local function read_until(conn, mark, raw)
  while true do
    local _, last = conn.buffer:find(mark, conn.at, true)
    if last then return take(conn, last - conn.at + 1, raw) end
    if #conn.buffer - conn.at > MAX_HEAD then return nil, "head too long" end
    if not fill(conn) then return nil, "end of stream" end
  end
end

local function read_exactly(conn, count, raw, into)
  if count > MAX_BODY then return nil, "body too long" end
  while count > 0 do
    if conn.at > #conn.buffer and not fill(conn) then return nil, "end of stream" end
    local bytes = take(conn, math.min(count, #conn.buffer - conn.at + 1), raw)
    if into then into[#into + 1] = bytes end
    count = count - #bytes
  end
  return true
end

local function read_chunked(conn, raw, into)
  while true do
    local line, why = read_until(conn, "\r\n", raw)
    if not line then return nil, why end
    local size = tonumber(line:match("^(%x+)"), 16)
    if not size then return nil, "bad chunk size" end
    if size == 0 then break end
    local ok, failed = read_exactly(conn, size, raw, into)
    if not ok then return nil, failed end
    if read_until(conn, "\r\n", raw) ~= "\r\n" then return nil, "bad chunk end" end
  end
  repeat -- trailers
    local line, why = read_until(conn, "\r\n", raw)
    if not line then return nil, why end
  until line == "\r\n"
  return true
end

-- The next request's head, as the table that `log` shows, without its body. nil and why at the end or when malformed.
function request.head(conn)
  local raw = {}
  local head, why = read_until(conn, "\r\n\r\n", raw)
  if not head then return nil, why end
  local method, target, version, rest = head:match("^(%S+) (%S+) HTTP/(1%.[01])\r\n(.*)\r\n$")
  if not method then return nil, "not an HTTP/1 request" end
  local list, headers = {}, {}
  for line in rest:gmatch("([^\r\n]*)\r\n") do
    local name, value = line:match("^([^:%s]+):%s*(.-)%s*$")
    if not name then return nil, "bad header line" end
    list[#list + 1] = { name, value }
    local key = name:lower()
    headers[key] = headers[key] and headers[key] .. ", " .. value or value
  end
  local path, query = target:match("^([^?]*)%??(.*)$")
  return {
    method = method, target = target, path = path, query = query, version = version,
    headers = headers, header_list = list, body = "", pieces = raw,
  }
end

-- Whether a body follows that head.
function request.has_body(head)
  return head.headers["transfer-encoding"] ~= nil or (tonumber(head.headers["content-length"]) or 0) > 0
end

-- Reads the body into head.body. true, or nil and why.
function request.body(conn, head)
  local body, ok, why = {}, true, nil
  if head.headers["transfer-encoding"] then
    ok, why = read_chunked(conn, head.pieces, body)
  elseif head.headers["content-length"] then
    local length = math.tointeger(tonumber(head.headers["content-length"]))
    if not length or length < 0 then return nil, "bad Content-Length" end
    ok, why = read_exactly(conn, length, head.pieces, body)
  end
  head.body = table.concat(body)
  return ok, why
end

return request
