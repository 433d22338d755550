-- Answers in OpenAI's shapes, and the peer kind "local": a small OpenAI-compatible server.
local cjson = require "cjson"

local openai = {}

local quote = cjson.encode

function openai.error(status, code, message)
  local kind = status >= 500 and "server_error" or "invalid_request_error"
  return {
    status = status, headers = { ["Content-Type"] = "application/json" },
    body = ('{"error":{"message":%s,"type":"%s","code":%s}}'):format(quote(message), kind, quote(code)),
  }
end

local function json(body)
  return { status = 200, headers = { ["Content-Type"] = "application/json" }, body = body }
end

local USAGE = '{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}'

local function chat(model, text)
  return json(('{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":%s,"choices":[{"index":0,'
    .. '"message":{"role":"assistant","content":%s},"finish_reason":"stop"}],"usage":%s}')
    :format(quote(model), quote(text), USAGE))
end

local function chat_stream(model, text, every_ms)
  local events = {}
  local function add(delta, finish)
    events[#events + 1] = ('{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":%s,'
      .. '"choices":[{"index":0,"delta":%s,"finish_reason":%s}]}'):format(quote(model), delta, finish)
  end
  add('{"role":"assistant","content":""}', "null")
  for word in text:gmatch("%s*%S+") do add('{"content":' .. quote(word) .. "}", "null") end
  add("{}", '"stop"')
  return { status = 200, sse = events, done = true, every_ms = every_ms }
end

local function completion(model, text)
  return json(('{"id":"cmpl-1","object":"text_completion","created":1700000000,"model":%s,"choices":[{"index":0,'
    .. '"text":%s,"logprobs":null,"finish_reason":"stop"}],"usage":%s}'):format(quote(model), quote(text), USAGE))
end

local function completion_stream(model, text, every_ms)
  local events = {}
  for word in text:gmatch("%s*%S+") do
    events[#events + 1] = ('{"id":"cmpl-1","object":"text_completion","created":1700000000,"model":%s,"choices":'
      .. '[{"index":0,"text":%s,"logprobs":null,"finish_reason":null}]}'):format(quote(model), quote(word))
  end
  return { status = 200, sse = events, done = true, every_ms = every_ms }
end

local function embeddings(model)
  return json(('{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5,-0.25]}],"model":%s,'
    .. '"usage":{"prompt_tokens":3,"total_tokens":3}}'):format(quote(model)))
end

function openai.models(names)
  local list = {}
  for i, name in ipairs(names) do
    list[i] = ('{"id":%s,"object":"model","created":1700000000,"owned_by":"peer"}'):format(quote(name))
  end
  return json('{"object":"list","data":[' .. table.concat(list, ",") .. "]}")
end

-- The request's JSON object, or nil when it is none.
function openai.decode(body)
  local ok, value = pcall(cjson.decode, body)
  return ok and type(value) == "table" and value or nil
end

-- The good answer to POST /v1/<endpoint>; nil when there is no such endpoint.
function openai.answer(endpoint, body, model, text, every_ms)
  if endpoint == "chat/completions" then
    return body.stream == true and chat_stream(model, text, every_ms) or chat(model, text)
  elseif endpoint == "completions" then
    return body.stream == true and completion_stream(model, text, every_ms) or completion(model, text)
  elseif endpoint == "embeddings" then
    return embeddings(model)
  end
end

local function knows(state, model)
  for _, name in ipairs(state.models) do
    if name == model then return true end
  end
  return false
end

function openai.handle(request, state)
  if state.api_key and request.headers.authorization ~= "Bearer " .. state.api_key then
    return openai.error(401, "invalid_api_key", "Incorrect API key provided")
  end
  if request.path == "/health" then return { status = 200 } end
  if request.path == "/v1/models" then return state.models_steps or openai.models(state.models) end
  local endpoint = request.method == "POST" and request.path:match("^/v1/(.+)$")
  if not endpoint then return openai.error(404, "not_found", "no such path") end
  if state.steps then return state.steps end
  local body = openai.decode(request.body)
  if not body then return openai.error(400, "invalid_json", "the body is not a JSON object") end
  if not knows(state, body.model) then
    return openai.error(404, "model_not_found", "The model " .. tostring(body.model) .. " does not exist")
  end
  return openai.answer(endpoint, body, body.model, state.reply, state.every_ms)
    or openai.error(404, "not_found", "no such endpoint")
end

return openai
