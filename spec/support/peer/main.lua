-- One peer: a server process of its own, led by spec/support/peers.lua over stdin and stdout, one line each way.
-- It ends when its stdin does, so that none outlives a spec run that crashed.
package.path = arg[0]:gsub("peer/main.lua$", "?.lua") .. ";" .. package.path

local uv = require "luv"
local wire = require "wire"
local Connection = require "peer.connection"
local request = require "peer.request"
local steps = require "peer.steps"

local handlers = {
  central = function(...) return require("peer.central").handle(...) end,
  openai = function(...) return require("peer.openai").handle(...) end,
}

local function now() return math.tointeger(uv.hrtime() // 1000) end

local NOT_FOUND = { status = 404, headers = { ["Content-Type"] = "text/plain" }, body = "no route\n" }
local NO_REQUEST = { method = "GET", version = "1.1", headers = {} } -- what a reply is framed for when there is none
local MAX_LOG = 100000

local spec, state, script
local log = { requests = {}, connections = {} }
local failures = {}
local last_id = 0

local function choose(conn, head)
  local line = head.method .. " " .. head.target
  for _, route in ipairs(state.routes or {}) do
    if line:find("^" .. route[1] .. "$") then return route[2] end
  end
  return script and script(head, state, conn)
    or handlers[spec.kind] and handlers[spec.kind](head, state)
    or state.default or NOT_FOUND
end

local function record_request(conn, head)
  local record = conn.record
  record.requests = record.requests + 1
  head.conn, head.n, head.id = record.id, record.requests, #log.requests + 1
  if head.id > MAX_LOG then error("more requests than the log holds: clear it in between", 0) end
  log.requests[head.id] = head
  return function() -- once the body is there
    head.raw = table.concat(head.pieces)
    head.pieces = nil
    head.bytes_in = #head.raw
    head.done_us = now()
  end
end

local function serve_http(conn)
  while true do
    local head, why = request.head(conn)
    if not head then
      if why == "end of stream" then return conn:close() end
      conn.record.error = why
      steps.perform(conn, NO_REQUEST, { { status = 400, body = why .. "\n" }, { close = true } }, state)
    end
    head.t_us = now()
    local complete = record_request(conn, head)
    local early = state.early and request.has_body(head)
    if not early then
      if (head.headers.expect or ""):lower() == "100-continue" then conn:send("HTTP/1.1 100 Continue\r\n\r\n") end
      local ok, failed = request.body(conn, head)
      if not ok then conn.record.error = failed end
      head.unfinished = not ok or nil
      complete()
      if not ok then return conn:close() end
    else
      complete()
    end
    steps.perform(conn, head, choose(conn, head), state)
    if early then conn:close() end
  end
end

local function serve_raw(conn)
  conn:more()
  if not conn.eof then steps.perform(conn, NO_REQUEST, state.reply or {}, state) end
  while conn:more() do end
  conn:close()
end

local function new_record()
  last_id = last_id + 1
  local record = {
    id = last_id, opened_us = now(), bytes_in = 0, bytes_out = 0, requests = 0, received = {},
  }
  log.connections[#log.connections + 1] = record
  return record
end

local function serve(stream, record)
  local conn = Connection.new(stream, record, function(text) failures[#failures + 1] = text end)
  conn:run(function()
    if state.connect then steps.perform(conn, NO_REQUEST, state.connect, state) end
    conn:start_reading()
    return (spec.kind == "listener" and serve_raw or serve_http)(conn)
  end)
end

local function listen_plain()
  local server = uv.new_tcp()
  assert(server:bind("127.0.0.1", 0))
  assert(server:listen(1024, function(err)
    assert(not err, err)
    local client = uv.new_tcp()
    if not server:accept(client) then return client:close() end
    client:nodelay(true)
    serve(client, new_record())
  end))
  return server:getsockname().port
end

local function listen_tls()
  return require("peer.tls").listen(spec.tls, function()
    local record = new_record()
    return function(stream, why)
      record.tls = why or "ok"
      if not why then return serve(stream, record) end
      record.ended, record.ended_us = "tls", now()
      stream:close()
    end
  end)
end

local function copy(source, changes)
  local out = {}
  for name, value in pairs(source) do out[name] = value end
  for name, value in pairs(changes) do out[name] = value end
  return out
end

local function matches(head, want)
  return (not want.method or head.method == want.method) and (not want.pattern or head.target:find(want.pattern) ~= nil)
end

local function count(want)
  local found = 0
  for _, head in ipairs(log.requests) do
    if matches(head, want) then found = found + 1 end
  end
  return found
end

local function requests(want)
  local found = {}
  for _, head in ipairs(log.requests) do
    if matches(head, want) then
      if head.pieces then -- its body is still on the way
        local raw = table.concat(head.pieces)
        head = copy(head, { unfinished = true, raw = raw, bytes_in = #raw, pieces = false })
        head.pieces = nil
      end
      found[#found + 1] = head
    end
  end
  return found
end

local function received(record)
  local bytes = table.concat(record.received)
  record.received = { bytes }
  return bytes
end

local function connections()
  local found = {}
  for i, record in ipairs(log.connections) do found[i] = copy(record, { received = received(record) }) end
  return found
end

local function saw(text)
  for _, record in ipairs(log.connections) do
    if received(record):find(text, 1, true) then return true end
  end
  return false
end

-- Forgets what was; a connection that is still open stays in the log and starts again from zero.
local function clear()
  local open = {}
  for _, record in ipairs(log.connections) do
    record.bytes_in, record.bytes_out, record.requests, record.received = 0, 0, 0, {}
    if not record.ended then open[#open + 1] = record end
  end
  log = { requests = {}, connections = open }
end

local function totals()
  local bytes = 0
  for _, record in ipairs(log.connections) do bytes = bytes + record.bytes_in end
  return { bytes = bytes, connections = #log.connections }
end

local function set(changes)
  for name, value in pairs(changes) do
    state[name] = value
    if name == "script" then script = value and assert(load(value, "=script"))() or nil end
  end
end

local commands = {
  start = function(value)
    spec, state = value, {}
    set(value.state)
    return { port = spec.tls and listen_tls() or listen_plain() }
  end,
  set = set,
  state = function() return state end,
  requests = requests,
  count = count,
  connections = connections,
  saw = saw,
  totals = totals,
  clear = clear,
}

local function answer(line)
  local command = wire.decode(line)
  local ok, result = pcall(commands[command.op], command.value)
  local reply = { failure = failures[1] }
  if ok then reply.result = result else reply.failure = tostring(result) end
  io.stdout:write(wire.encode(reply), "\n")
  io.stdout:flush()
end

-- Writing to a client that has left is an error like others here, not the end of this process.
local broken_pipe = uv.new_signal()
broken_pipe:start("sigpipe", function() end)
broken_pipe:unref()

local input, pending = uv.new_pipe(), {}
input:open(0)
input:read_start(function(err, chunk)
  if err or not chunk then os.exit(0) end
  pending[#pending + 1] = chunk
  if not chunk:find("\n", 1, true) then return end
  local text = table.concat(pending)
  local used = 1
  for line, after in text:gmatch("([^\n]*)\n()") do
    answer(line)
    used = after
  end
  pending = { text:sub(used) }
end)
uv.run()
