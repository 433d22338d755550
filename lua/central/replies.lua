-- Replies: JSON and headers. Errors have OpenAI's shape, or Anthropic's for its endpoint.
--
--   replies.json(status, object), replies.list(objects, rest), replies.models(objects, rest)
--   replies.problem(why, anthropic)
--   replies.head(reply)    the same reply to HEAD: its status, its headers, its length, no body
-- A reply may be given again to somebody else, with user and route set anew (llms.lua, reply). user, route, llm and
-- code are for the log.
local cjson = require "cjson"

local encoder = cjson.new()
encoder.encode_max_depth(16)
encoder.encode_invalid_numbers(false)

local replies = {}

-- Nobody may keep an answer: the next one may be another.
local JSON = { ["content-type"] = "application/json", ["cache-control"] = "no-store" }

local function with(more)
  local headers = {}
  for name, value in pairs(JSON) do headers[name] = value end
  for name, value in pairs(more) do headers[name] = value end
  return headers
end

local UNAUTHENTICATED = with{ ["www-authenticate"] = 'Bearer realm="deputy"' }

function replies.json(status, object)
  return { status = status, headers = JSON, body = encoder.encode(object) }
end

local function encode_all(objects)
  local texts = {}
  for i, object in ipairs(objects) do texts[i] = encoder.encode(object) end
  return table.concat(texts, ",")
end

local function list_of(objects, tail)
  local body = table.concat{ '{"object":"list","data":[', encode_all(objects), "]", tail, "}" }
  return { status = 200, headers = JSON, body = body }
end

-- rest: what to give as after (or before) for the rest; nil when this is all.
function replies.list(objects, rest)
  return list_of(objects, rest and ',"next":' .. encoder.encode(rest) or "")
end

-- As OpenAI's API lists models.
function replies.models(objects, rest)
  return list_of(objects, rest and ',"has_more":true,"last_id":' .. encoder.encode(rest) or ',"has_more":false')
end

local TYPES = {
  [400] = "invalid_request_error", [401] = "authentication_error", [403] = "permission_error",
  [404] = "invalid_request_error", [503] = "service_unavailable_error",
}
local ANTHROPIC_TYPES = {
  [401] = "authentication_error", [403] = "permission_error", [404] = "not_found_error", [413] = "request_too_large",
  [503] = "overloaded_error",
}

local function type_of(status, anthropic)
  if anthropic then return ANTHROPIC_TYPES[status] or (status < 500 and "invalid_request_error" or "api_error") end
  return TYPES[status] or (status < 500 and "invalid_request_error" or "server_error")
end

local function headers_of(why)
  if why.status == 401 then return UNAUTHENTICATED end
  if why.retry_after then return with{ ["retry-after"] = tostring(why.retry_after) } end
  if why.allow then return with{ allow = why.allow } end
  return JSON
end

function replies.problem(why, anthropic)
  local said = { message = why.message, type = type_of(why.status, anthropic) }
  if not anthropic then said.code, said.param = why.code, why.field end
  local body = encoder.encode{ type = anthropic and "error" or nil, error = said }
  return { status = why.status, headers = headers_of(why), body = body, code = why.code }
end

function replies.head(reply)
  local head = reply.head
  if not head then
    head = { status = reply.status, headers = with(reply.headers) }
    head.headers["content-length"] = tostring(#reply.body)
    reply.head = head
  end
  head.user, head.route, head.llm, head.code = reply.user, reply.route, reply.llm, reply.code
  return head
end

return replies
