-- The deciding half of the control plane over HTTP: takes a request, gives a reply or where to forward it.
--
--   local app, why = require("central.app").new{ db =, log = function(level, text), now = clock (optional),
--                                                watch = function(fd) (optional; store.lua) }
--   app:handle(request)      { status =, headers =, body =, user =, route = }, or for inference { forward = { key =,
--                            name =, llm =, url =, model =, api_key_env =, api_key_file =, type = }, endpoint =,
--                            dialect =, user =, route = }. Tables may be shared by replies: read only
--   app:authorize(request)   for inference, from the head alone: a refusal, or nil: go on with the body
--   app:tick()               once a second        app:ready()   true, or nil and why        app:close()
-- request: method, target (path?query as it came), authorization, content_type, body, model, peer, id.
--
-- The order of checks, everywhere: the path and method (which say nothing of anybody's data); the token (401); the
-- permission (403, the same for what exists and what does not); then what was sent (400, 409, 413, 415) and whether it
-- exists (404), which only those hear who might have seen it.
local fields = require "central.fields"
local llms = require "central.llms"
local operations = require "central.operations"
local permits = require "central.permits"
local problem = require "central.problem"
local rbac = require "central.rbac"
local replies = require "central.replies"
local requests = require "central.requests"
local routes = require "central.routes"
local services = require "central.service"

local apps = {}

local App = {}
App.__index = App

function apps.new(options)
  local service, why = services.open{ db = options.db, log = options.log, now = options.now, hurry = true,
    watch = options.watch }
  if not service then return nil, why end
  return setmetatable({ service = service, auth = service.auth, audit = service.audit }, App)
end

-- ---- who asks ------------------------------------------------------------------------------------------------------

local function peer_actor(request, actor)
  actor = actor or { name = "-" }
  actor.peer = request.peer
  return actor
end

-- Notes the refusal, and makes the reply of it.
local function refuse(self, request, why, action, actor, target)
  if why.status == 401 or why.status == 403 then self.audit:refused(actor, action, target, why.code) end
  local reply = replies.problem(why, request.target:find("^/v1/messages%f[?%z]") ~= nil)
  reply.user = actor and actor.id and actor.name or nil
  return reply
end

-- The caller for this key (nil: none), or nil and the reply.
local function check(self, request, key, action)
  local caller, code, whose = self.auth:check(request.authorization, key)
  if caller then return caller end
  return nil, refuse(self, request, permits.unauthenticated(code), action, peer_actor(request, whose))
end

-- The actor for an operation of the service, or nil and the reply.
function App:actor(request, action)
  local caller, refusal = check(self, request, nil, action)
  if not caller then return nil, refusal end
  return services.actor(caller, request.peer)
end

-- ---- one LLM: the way of every probe -------------------------------------------------------------------------------

local function asked_for(key)
  return { kind = "llm", name = key }
end

-- The caller, who has the role on the LLM that the key names and that exists; nil and the reply otherwise. key is false
-- when it could not be decoded.
local function admit(self, request, role, key)
  local wrong = not key and "holds an escape that is none" or fields.name_problem(key)
  local caller, refusal = check(self, request, not wrong and key or nil, "llm." .. role)
  if not caller then return nil, refusal end
  if wrong then
    return nil, refuse(self, request, problem(400, "invalid_request", "the LLM's name or id: " .. wrong))
  end
  local why
  if not rbac.allows(caller.rights, role) then
    why = permits.forbidden(role, true)
  elseif not caller.llm then
    why = permits.no_llm(key)
  end
  if not why then return caller end
  return nil, refuse(self, request, why, "llm." .. role, services.actor(caller, request.peer), asked_for(key))
end

local function disabled(self, request, caller, role)
  local why = problem(403, "llm_disabled", role == "view" and "this LLM is disabled; who may edit it sees it with "
    .. "?disabled=show" or "this LLM is disabled")
  return refuse(self, request, why, "llm." .. role, services.actor(caller, request.peer), llms.target(caller.llm))
end

local NO_QUERY = {}
local SHOW = { disabled = { kind = "word", of = { "show" } } }

-- Disabled is off for everybody, so that no client takes its own stand-in for it. Those who may edit it can say that
-- they want to see it all the same.
function App:show_llm(request, query, key)
  local caller, refusal = admit(self, request, "view", key)
  if not caller then return refusal end
  local may_edit = rbac.allows(caller.rights, "edit")
  local values, why = NO_QUERY, nil
  if query then values, why = fields.read(SHOW, requests.query(query)) end
  if not values then return refuse(self, request, why) end
  if caller.llm[llms.AT.enabled] ~= 1 and not (may_edit and values.disabled) then
    return disabled(self, request, caller, "view")
  end
  local reply = llms.reply(caller.llm, may_edit)
  reply.user = caller.user
  return reply
end

function App:show_model(request, _, key)
  local caller, refusal = admit(self, request, "view", key)
  if not caller then return refusal end
  if caller.llm[llms.AT.enabled] ~= 1 then return disabled(self, request, caller, "view") end
  local reply = replies.json(200, llms.model(caller.llm))
  reply.user = caller.user
  return reply
end

-- ---- inference -----------------------------------------------------------------------------------------------------

local function paused(self, request, caller)
  local why = problem(503, "llm_paused", "this LLM is paused")
  local reply = refuse(self, request, why)
  reply.user, reply.llm = caller.user, caller.llm[llms.AT.name]
  return reply
end

-- The caller, who may run this LLM now; nil and the reply otherwise.
local function admit_run(self, request, key)
  local caller, refusal = admit(self, request, "run", key)
  if not caller then return nil, refusal end
  if caller.llm[llms.AT.enabled] ~= 1 then return nil, disabled(self, request, caller, "run") end
  if caller.llm[llms.AT.paused] == 1 then return nil, paused(self, request, caller) end
  return caller
end

-- endpoint: what follows /v1/. key: of the path; nil: the body's model.
function App:infer(request, endpoint, key)
  local name = key
  if key == nil then
    name = request.model
    if not name then
      local caller, refusal = check(self, request, nil, "llm.run")
      return caller and refuse(self, request, problem(400, "invalid_request", "model: missing")) or refusal
    end
  end
  local caller, refusal = admit_run(self, request, name)
  if not caller then return refusal end
  return {
    forward = llms.upstream(caller.llm), endpoint = endpoint, user = caller.user,
    dialect = endpoint == "responses" and "responses" or endpoint == "messages" and "messages" or "openai",
  }
end

function App:authorize(request)
  local ok, reply = xpcall(self.authorize_now, operations.traced, self, request)
  if ok then return reply end
  return replies.problem(operations.failed(self.service, "authorize", reply))
end

-- Only what a caller may not do at all is refused here; the rest is for handle, which sees the body.
function App:authorize_now(request)
  local route, handlers, key = routes.find((requests.split(request.target)))
  -- No body makes that right: nobody has to be let in with one.
  if not route or not handlers.POST then return self:handle(request) end
  local refusal, caller
  if handlers.infers and key ~= nil then
    caller, refusal = admit_run(self, request, key)
  else
    caller, refusal = check(self, request, nil, "llm.run")
  end
  if not caller then
    refusal.route = route
    return refusal
  end
end

-- ---- all requests --------------------------------------------------------------------------------------------------

local function dispatch(self, request, method)
  local path, query = requests.split(request.target)
  local route, handlers, a, b = routes.find(path)
  if not route then
    return refuse(self, request, problem(404, "not_found", "nothing is served at this path"))
  end
  local handler = handlers[method]
  local reply
  if handler then
    reply = handler(self, request, query, a, b)
  else
    local why = problem(405, "method_not_allowed", "this path is for %s", handlers.allow)
    why.allow = handlers.allow
    reply = refuse(self, request, why)
  end
  reply.route = route
  return reply
end

-- HEAD is GET without its body: made here, for every path.
function App:handle(request)
  local method = request.method
  local ok, reply = xpcall(dispatch, operations.traced, self, request, method == "HEAD" and "GET" or method)
  if not ok then reply = replies.problem(operations.failed(self.service, method, reply)) end
  if method == "HEAD" then return replies.head(reply) end
  return reply
end

function App:tick()
  self.service:tick()
end

function App:ready()
  return self.service:ready()
end

function App:close()
  self.service:close()
end

return apps
