-- The peer kind "central": a small control plane that knows LLMs, tokens and who may view or run what.
local cjson = require "cjson"
local openai = require "peer.openai"

local central = {}

local function unescape(text)
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

local function find(state, name)
  if state.llms[name] then return name, state.llms[name] end
  for other, llm in pairs(state.llms) do
    if llm.id == name then return other, llm end
  end
end

local function may(user, role, name)
  for _, allowed in ipairs(user[role] or {}) do
    if allowed == name or allowed == "*" then return true end
  end
  return false
end

local function show(name, llm)
  return ('{"id":%s,"name":%s}'):format(cjson.encode(llm.id or name), cjson.encode(name))
end

local function infer(state, user, endpoint, name, body)
  local known, llm = find(state, name)
  if not known then return openai.error(404, "model_not_found", "no such LLM") end
  if not may(user, "run", known) then return openai.error(403, "forbidden", "you may not run this LLM") end
  return openai.answer(endpoint, body, known, llm.reply or state.reply, state.every_ms)
    or openai.error(404, "not_found", "no such endpoint")
end

local function visible(state, user)
  local names = {}
  for name in pairs(state.llms) do
    if may(user, "view", name) then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

local function list(state, user)
  local shown = {}
  for i, name in ipairs(visible(state, user)) do shown[i] = show(name, state.llms[name]) end
  return {
    status = 200, headers = { ["Content-Type"] = "application/json" }, body = "[" .. table.concat(shown, ",") .. "]",
  }
end

local function look(state, user, name)
  local known, llm = find(state, name)
  if not known then return openai.error(404, "not_found", "no such LLM") end
  if not may(user, "view", known) then return openai.error(403, "forbidden", "you may not view this LLM") end
  if state.probe_status == 204 then return { status = 204 } end
  return { status = 200, headers = { ["Content-Type"] = "application/json" }, body = show(known, llm) }
end

-- An override answers everybody: it stands for a central that is broken before it knows who asks.
local function override(state, what, name)
  local _, llm = find(state, name)
  local steps = llm and llm[what] or state[what]
  return steps ~= "ok" and steps or nil
end

local function read(request, state, user)
  local name = request.path:match("^/api/v1/llms/([^/]+)$")
  name = name and unescape(name)
  local instead = name and override(state, "probe", name)
  if instead then return instead end
  if not user then return openai.error(401, "unauthorized", "no such token") end
  if name then return look(state, user, name) end
  if request.path == "/api/v1/llms" then return list(state, user) end
  if request.path == "/v1/models" then return openai.models(visible(state, user)) end
end

local function post(request, state, user)
  local target = request.path:match("^/api/v1/llms/([^/]+)/infer$")
  local endpoint = target and "chat/completions" or request.path:match("^/v1/(.+)$")
  if not endpoint then return nil end
  local body = openai.decode(request.body)
  local name = target and unescape(target) or tostring(body and body.model)
  local instead = override(state, "inference", name)
  if instead then return instead end
  if not user then return openai.error(401, "unauthorized", "no such token") end
  if not body then return openai.error(400, "invalid_json", "the body is not a JSON object") end
  return infer(state, user, endpoint, name, body)
end

function central.handle(request, state)
  local token = (request.headers.authorization or ""):match("^Bearer (.+)$")
  local user = token and state.tokens[token]
  local answer
  if request.method == "POST" then
    answer = post(request, state, user)
  elseif request.method == "HEAD" or request.method == "GET" then
    answer = read(request, state, user)
  end
  return answer or openai.error(404, "not_found", "no such path")
end

return central
