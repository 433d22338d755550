-- The paths and what answers them. A handler is called with (app, request, query, a, b): query as it came, a and b the
-- decoded segments that the path's colons stand for, false when they could not be decoded.
--
--   routes.find(path)    the route's name, its handlers by method (allow: for the header; infers: whether it forwards),
--                        a, b; nil when there is none
local fields = require "central.fields"
local llms = require "central.llms"
local operations = require "central.operations"
local replies = require "central.replies"
local requests = require "central.requests"

local routes = {}

-- ---- handlers ------------------------------------------------------------------------------------------------------

local FORCE = { force = { kind = "text", max = 8 } }

-- A handler that calls service:NAME(actor, ...) with what arguments() makes of the request. is_asked: they are what the
-- query says.
local function operation(name, status, arguments, is_asked)
  return function(app, request, query, a, b)
    local actor, refusal = app:actor(request, operations.ACTIONS[name])
    if not actor then return refusal end
    local asked = requests.query(query)
    actor.force = asked.force == "true"
    if not is_asked then actor.wrong = select(2, fields.read(FORCE, asked)) end
    local service = app.service
    local result, why = service[name](service, actor, arguments(request, query, a, b))
    if result ~= nil and actor.wrong then result, why = nil, actor.wrong end
    local reply
    if result == nil then
      reply = replies.problem(why)
    else
      reply = replies.json(result.new == false and 200 or status, result)
    end
    reply.user = actor.name
    return reply
  end
end

local function list(name, arguments)
  return function(app, request, query, a)
    local actor, refusal = app:actor(request, operations.ACTIONS[name])
    if not actor then return refusal end
    local service = app.service
    local objects, rest = service[name](service, actor, arguments(request, query, a))
    local reply = objects and replies.list(objects, rest) or replies.problem(rest)
    reply.user = actor.name
    return reply
  end
end

local function no_arguments() end
local function from_query(_, query) return requests.query(query) end
local function binding_of_query(_, query)
  local values = requests.query(query)
  values.force = nil
  return values
end
local function from_body(request) return requests.body(request) end
local function by_key(_, _, key) return key end
local function key_and_query(_, query, key) return key, requests.query(query) end
local function key_and_body(request, _, key) return key, requests.body(request) end
local function two_keys(_, _, a, b) return a, b end

local function key_and_member(request, _, key)
  local values, why = fields.read({ user = { kind = "key", required = true } }, requests.body(request))
  return key, values and values.user or why
end

local function pausing(flag)
  return function(_, _, key) return key, { paused = flag } end
end

local function infer(endpoint)
  return function(app, request, _, key) return app:infer(request, endpoint, key) end
end

-- All that the caller may use, in the shape of OpenAI's API.
local function list_models(app, request, query)
  local actor, refusal = app:actor(request, operations.ACTIONS.list_llms)
  if not actor then return refusal end
  local options = requests.query(query)
  options.limit = options.limit or operations.MAX_LIMIT
  local objects, rest = app.service:list_llms(actor, options)
  if not objects then return replies.problem(rest) end
  local models = {}
  for _, object in ipairs(objects) do
    if object.enabled then models[#models + 1] = llms.model_of(object) end
  end
  local reply = replies.models(models, rest)
  reply.user = actor.name
  return reply
end

local function show_llm(app, request, query, key) return app:show_llm(request, query, key) end
local function show_model(app, request, query, key) return app:show_model(request, query, key) end

-- ---- paths ---------------------------------------------------------------------------------------------------------

local PATHS = {
  ["/api/v1/llms"] = { GET = list("list_llms", from_query), POST = operation("create_llm", 201, from_body) },
  ["/api/v1/llms/:"] = {
    GET = show_llm, PUT = operation("update_llm", 200, key_and_body), DELETE = operation("delete_llm", 200, by_key),
  },
  ["/api/v1/llms/:/infer"] = { POST = infer("chat/completions"), infers = true },
  ["/api/v1/llms/:/pause"] = { POST = operation("update_llm", 200, pausing(true)) },
  ["/api/v1/llms/:/resume"] = { POST = operation("update_llm", 200, pausing(false)) },
  ["/v1/models"] = { GET = list_models },
  ["/v1/models/:"] = { GET = show_model },
  ["/v1/chat/completions"] = { POST = infer("chat/completions"), infers = true },
  ["/v1/completions"] = { POST = infer("completions"), infers = true },
  ["/v1/embeddings"] = { POST = infer("embeddings"), infers = true },
  ["/v1/responses"] = { POST = infer("responses"), infers = true },
  ["/v1/messages"] = { POST = infer("messages"), infers = true },
  ["/api/v1/whoami"] = { GET = operation("whoami", 200, no_arguments) },
  ["/api/v1/users"] = { GET = list("list_users", from_query), POST = operation("create_user", 201, from_body) },
  ["/api/v1/users/:"] = {
    GET = operation("get_user", 200, by_key), PUT = operation("update_user", 200, key_and_body),
    DELETE = operation("delete_user", 200, by_key),
  },
  ["/api/v1/groups"] = { GET = list("list_groups", from_query), POST = operation("create_group", 201, from_body) },
  ["/api/v1/groups/:"] = {
    GET = operation("get_group", 200, by_key), PUT = operation("update_group", 200, key_and_body),
    DELETE = operation("delete_group", 200, by_key),
  },
  ["/api/v1/groups/:/members"] = {
    GET = list("list_members", key_and_query), POST = operation("add_member", 200, key_and_member),
  },
  ["/api/v1/groups/:/members/:"] = { DELETE = operation("remove_member", 200, two_keys) },
  ["/api/v1/tokens"] = { GET = list("list_tokens", from_query), POST = operation("create_token", 201, from_body) },
  ["/api/v1/tokens/:"] = { DELETE = operation("revoke_token", 200, by_key) },
  ["/api/v1/bindings"] = {
    GET = list("list_bindings", from_query), POST = operation("grant", 201, from_body),
    DELETE = operation("revoke", 200, binding_of_query, true),
  },
  ["/api/v1/bindings/:"] = { DELETE = operation("delete_binding", 200, by_key) },
  ["/api/v1/audit"] = { GET = list("list_audit", from_query) },
}

local function allow_of(handlers)
  local methods = {}
  for method in pairs(handlers) do
    if method:find("^%u+$") then methods[#methods + 1] = method end
  end
  if handlers.GET then methods[#methods + 1] = "HEAD" end
  table.sort(methods)
  return table.concat(methods, ", ")
end

-- One node a segment: words, the node of each; any, the node of whatever else stands there.
local tree = { words = {} }
for path, handlers in pairs(PATHS) do
  handlers.allow = allow_of(handlers)
  local node = tree
  for segment in path:gmatch("/([^/]*)") do
    local below = segment == ":" and node.any or node.words[segment] or { words = {} }
    if segment == ":" then node.any = below else node.words[segment] = below end
    node = below
  end
  node.route, node.handlers = path, handlers
end

function routes.find(path)
  if path:byte() ~= 47 then return nil end
  local node, a, b = tree, nil, nil
  for segment in path:gmatch("/([^/]*)") do
    local below = node.words[segment]
    if not below then
      below = node.any
      if not below or segment == "" then return nil end
      local value = requests.decode(segment) or false
      if a == nil then a = value else b = value end
    end
    node = below
  end
  if not node.route then return nil end
  return node.route, node.handlers, a, b
end

return routes
