-- Performs a reply, that is a list of steps, on a connection. The steps are described in spec/support/peers.lua.
local cjson = require "cjson"

local steps = {}

local reasons = {
  [100] = "Continue", [103] = "Early Hints", [200] = "OK", [204] = "No Content", [301] = "Moved Permanently",
  [302] = "Found", [307] = "Temporary Redirect", [308] = "Permanent Redirect", [400] = "Bad Request",
  [401] = "Unauthorized", [402] = "Payment Required", [403] = "Forbidden", [404] = "Not Found",
  [405] = "Method Not Allowed", [408] = "Request Timeout", [413] = "Content Too Large",
  [422] = "Unprocessable Content", [425] = "Too Early", [429] = "Too Many Requests",
  [500] = "Internal Server Error", [502] = "Bad Gateway", [503] = "Service Unavailable", [504] = "Gateway Timeout",
  [529] = "Overloaded",
}

local function header_list(headers)
  local list, has = {}, {}
  for name, value in pairs(headers or {}) do
    if type(name) == "number" then name, value = value[1], value[2] end
    has[name:lower()] = value or "left out"
    if value then list[#list + 1] = { name, tostring(value) } end
  end
  table.sort(list, function(a, b) return a[1] < b[1] end)
  if headers and headers[1] then -- given as a list: the order is the caller's
    list = {}
    for i, pair in ipairs(headers) do list[i] = { pair[1], tostring(pair[2]) } end
  end
  return list, has
end

local function event_text(event)
  if type(event) == "table" then event = cjson.encode(event) end
  if not event:find("^%a*:") then event = "data: " .. event end
  return event:find("\n\n$") and event or event .. "\n\n"
end

local function pieces_of(step)
  if not step.sse then return step.chunked end
  local pieces = {}
  for i, event in ipairs(step.sse) do pieces[i] = event_text(event) end
  if step.done then pieces[#pieces + 1] = event_text("[DONE]") end
  return pieces
end

-- One correctly framed HTTP/1.1 reply.
local function reply(conn, request, step)
  local status = step.status or 200
  local body = step.json and cjson.encode(step.json) or step.body or ""
  local pieces = pieces_of(step)
  local bodyless = status < 200 or status == 204 or status == 304
  local list, has = header_list(step.headers)
  local function add(name, value)
    if not has[name:lower()] then list[#list + 1] = { name, value } end
  end
  if step.json then add("Content-Type", "application/json") end
  if step.sse then
    add("Content-Type", "text/event-stream")
    add("Cache-Control", "no-cache")
  end
  local framing = step.framing or (pieces and (request.version == "1.0" and "close" or "chunked")) or "length"
  if bodyless then framing = "none" end
  if framing == "chunked" then
    add("Transfer-Encoding", "chunked")
  elseif framing == "length" then
    add("Content-Length", tostring(pieces and #table.concat(pieces) or #body))
  end
  local close = status >= 200 and (framing == "close" or request.version == "1.0"
    or (has.connection or request.headers.connection or ""):lower():find("close", 1, true) ~= nil)
  if close then add("Connection", "close") end

  local head = { ("HTTP/1.1 %d %s\r\n"):format(status, step.reason or reasons[status] or "Status") }
  for _, pair in ipairs(list) do head[#head + 1] = pair[1] .. ": " .. pair[2] .. "\r\n" end
  head = table.concat(head) .. "\r\n"

  if bodyless or request.method == "HEAD" then
    conn:send(head)
  elseif not pieces and framing ~= "chunked" then
    conn:send(head .. body)
  else
    conn:send(head)
    for i, piece in ipairs(pieces or { body }) do
      if step.every_ms and i > 1 then conn:wait(step.every_ms) end
      conn:send(framing == "chunked" and ("%x\r\n%s\r\n"):format(#piece, piece) or piece)
    end
    if framing == "chunked" and not step.unfinished then conn:send("0\r\n\r\n") end
  end
  if close then conn:close() end
end

local function drip(conn, step)
  local size = step.size or 1
  for i = 1, #step.drip, size do
    if i > 1 then conn:wait(step.every_ms or 10) end
    conn:send(step.drip:sub(i, i + size - 1))
  end
end

local function repeat_send(conn, step)
  local unit, left = step.repeat_send, step.times or math.huge
  local batch = step.every_ms and 1 or math.max(1, 65536 // #unit)
  while left > 0 do
    local count = math.tointeger(math.min(batch, left))
    conn:send(unit:rep(count))
    left = left - count
    if step.every_ms then conn:wait(step.every_ms) end
  end
end

local turns = setmetatable({}, { __mode = "k" })

-- `request` is what the reply is framed for (method, version, headers); `state` is what {set = ...} changes.
function steps.perform(conn, request, step, state)
  if type(step) == "string" then return conn:send(step) end
  if step.each then
    turns[step.each] = math.min((turns[step.each] or 0) + 1, #step.each)
    return steps.perform(conn, request, step.each[turns[step.each]], state)
  end
  if step[1] ~= nil then
    for _, one in ipairs(step) do steps.perform(conn, request, one, state) end
  elseif step.send then
    conn:send(step.send)
  elseif step.wait_ms then
    conn:wait(step.wait_ms)
  elseif step.close then
    conn:close()
  elseif step.reset then
    conn:reset()
    conn:await("never")
  elseif step.stall then
    conn:stall()
  elseif step.half_close then
    conn:half_close()
  elseif step.drip then
    drip(conn, step)
  elseif step.repeat_send then
    repeat_send(conn, step)
  elseif step.cut then
    conn:cut_after(step.cut, step.how or "reset")
  elseif step.set then
    for name, value in pairs(step.set) do state[name] = value end
  elseif step.status or step.body or step.json or step.chunked or step.sse then
    reply(conn, request, step)
  elseif next(step) ~= nil then
    error("unknown step with key '" .. tostring(next(step)) .. "'", 0)
  end
end

return steps
