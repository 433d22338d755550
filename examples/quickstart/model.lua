-- A model server to try deputy with: it speaks enough of OpenAI's API, and always says the same.
--
--   lua5.4 model.lua ADDRESS WORDS        lua5.4 model.lua 127.0.0.1:8000 "Hello from your own machine."
--
-- Port 0 picks one. Each line on stdout is something that happened: where it listens, bytes that came, requests. It
-- ends at SIGTERM, SIGINT or SIGHUP.
local uv = require "luv"
local cjson = require "cjson"

local MAX_REQUEST = 8 * 1024 * 1024

local host, port = (arg[1] or ""):match("^([%d.]+):(%d+)$")
local words = arg[2]
if not host or not words then
  io.stderr:write("usage: lua5.4 model.lua HOST:PORT WORDS\n")
  os.exit(2)
end

local function say(...)
  print(string.format(...))
  io.stdout:flush()
end

local function reply(status, kind, body, more)
  return ("HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n%s"):format(status, kind, #body, more or "",
    body)
end

local function json(status, value) return reply(status, "application/json", cjson.encode(value)) end

local function refuse(status, message)
  return json(status, { error = { message = message, type = "invalid_request_error", code = "not_here" } })
end

local function completion(model)
  return json("200 OK", {
    id = "chatcmpl-quickstart", object = "chat.completion", created = os.time(), model = model,
    choices = { { index = 0, finish_reason = "stop", message = { role = "assistant", content = words } } },
    usage = { prompt_tokens = 1, completion_tokens = 1, total_tokens = 2 },
  })
end

local function event(model, delta, finish)
  return "data: " .. cjson.encode{
    id = "chatcmpl-quickstart", object = "chat.completion.chunk", created = os.time(), model = model,
    choices = { { index = 0, delta = delta, finish_reason = finish or cjson.null } },
  } .. "\n\n"
end

local function stream(model)
  local events = { event(model, { role = "assistant" }) }
  for word in words:gmatch("%s*%S+") do events[#events + 1] = event(model, { content = word }) end
  events[#events + 1] = event(model, { content = "" }, "stop")
  events[#events + 1] = "data: [DONE]\n\n"
  return reply("200 OK", "text/event-stream", table.concat(events))
end

local function answer(method, path, body)
  if method == "GET" and path == "/health" then return reply("200 OK", "text/plain", "ok\n") end
  if method == "GET" and path == "/v1/models" then
    local models = { { id = "any", object = "model", created = 0, owned_by = "me" } }
    return json("200 OK", { object = "list", data = models })
  end
  if method ~= "POST" or path ~= "/v1/chat/completions" then return refuse("404 Not Found", "only chat completions") end
  local ok, request = pcall(cjson.decode, body)
  if not ok or type(request) ~= "table" then return refuse("400 Bad Request", "the body is no JSON object") end
  return (request.stream == true and stream or completion)(tostring(request.model))
end

-- The first whole request in the bytes so far: its length and what to answer; nil while it is not whole.
local function take(bytes)
  local head, after = bytes:match("^(.-\r\n)\r\n()")
  if not head then return nil end
  local method, path = head:match("^(%u+) (%S+) HTTP/1%.1\r\n")
  local length = tonumber(head:lower():match("\r\ncontent%-length: *(%d+)\r\n")) or 0
  if not method or head:lower():find("\r\ntransfer-encoding:", 1, true) then
    return #bytes, refuse("400 Bad Request", "expected an HTTP/1.1 request with a Content-Length")
  end
  if #bytes < after - 1 + length then return nil end
  say("%s %s", method, path)
  return after - 1 + length, answer(method, path, bytes:sub(after, after - 1 + length))
end

local function serve(client)
  local bytes = ""
  client:read_start(function(err, more)
    if more then say("%d bytes", #more) end
    bytes = bytes .. (more or "")
    if err or not more or #bytes > MAX_REQUEST then
      if not client:is_closing() then client:close() end
      return
    end
    local used, text = take(bytes)
    while used do
      bytes = bytes:sub(used + 1)
      client:write(text)
      used, text = take(bytes)
    end
  end)
end

local server = uv.new_tcp()
assert(server:bind(host, tonumber(port)))
assert(server:listen(128, function(err)
  local client = uv.new_tcp()
  if not err and server:accept(client) then serve(client) end
end))
for _, name in ipairs{ "sigterm", "sigint", "sighup" } do
  uv.new_signal():start(name, function() os.exit(0) end)
end
say("listening on %s:%d", host, server:getsockname().port)
uv.run()
