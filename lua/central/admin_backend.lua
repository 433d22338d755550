-- Where a command of `deputy central` works: on the database itself, or on a running central over HTTP. Both have the
-- operations of service.lua, by the same names: backend:create_user(input) gives an object, or nil and a problem.
--
--   local backend, why = admin_backend.open{ db =, url =, token =, ca_file =, timeout =, force = }   db, or url, token
--   backend:NAME(...)          as in service.lua, without the actor; lists are fetched whole, up to options.limit, and
--                              the second value says that there is more
--   backend.is_local           init and backup work there alone
--   backend:close()
local client = require "central.client"
local cjson = require "cjson"
local problem = require "central.problem"

local admin_backend = {}

local PAGE = 500

-- ---- a database ----------------------------------------------------------------------------------------------------

local Local = { is_local = true }

local function file_of(db) return db:match("^sqlite:(.+)$") end

local function is_there(file)
  local handle = io.open(file, "rb")
  return handle ~= nil and handle:close()
end

local function open_local(options)
  local file = file_of(options.db)
  if file and not options.create and not is_there(file) then
    return nil, ("there is no database %s: deputy central init makes one"):format(file)
  end
  local services = require "central.service"
  local service, why = services.open{ db = options.db, log = options.log }
  if not service then return nil, why end
  local actor = services.local_actor(os.getenv("USER"))
  actor.force = options.force
  return setmetatable({ service = service, actor = actor }, Local)
end

function Local:close() self.service:close() end

Local.__index = function(_, name)
  if Local[name] ~= nil then return Local[name] end
  return function(self, ...) return self.service[name](self.service, self.actor, ...) end
end

-- ---- over HTTP -----------------------------------------------------------------------------------------------------

local Remote = {}

local function query_of(fields)
  local parts = {}
  for name, value in pairs(fields or {}) do
    parts[#parts + 1] = name .. "=" .. client.escape(tostring(value))
  end
  table.sort(parts)
  return #parts > 0 and "?" .. table.concat(parts, "&") or ""
end

-- The path below /api/v1/ and, where there is one, the body; each colon of a path is an argument.
local OPERATIONS = {
  whoami = { "GET", "whoami" },
  list_llms = { "GET", "llms", list = true }, get_llm = { "GET", "llms/:", query = { disabled = "show" } },
  create_llm = { "POST", "llms", body = true }, update_llm = { "PUT", "llms/:", body = true },
  delete_llm = { "DELETE", "llms/:" },
  list_users = { "GET", "users", list = true }, get_user = { "GET", "users/:" },
  create_user = { "POST", "users", body = true }, update_user = { "PUT", "users/:", body = true },
  delete_user = { "DELETE", "users/:" },
  list_groups = { "GET", "groups", list = true }, get_group = { "GET", "groups/:" },
  create_group = { "POST", "groups", body = true }, update_group = { "PUT", "groups/:", body = true },
  delete_group = { "DELETE", "groups/:" },
  list_members = { "GET", "groups/:/members", list = true },
  remove_member = { "DELETE", "groups/:/members/:" },
  list_tokens = { "GET", "tokens", list = true }, create_token = { "POST", "tokens", body = true },
  revoke_token = { "DELETE", "tokens/:" },
  list_bindings = { "GET", "bindings", list = true }, grant = { "POST", "bindings", body = true },
  revoke = { "DELETE", "bindings", asks = true }, delete_binding = { "DELETE", "bindings/:" },
  list_audit = { "GET", "audit", list = true },
}

local function explain(reply)
  local ok, json = pcall(cjson.decode, reply.body)
  local said = ok and type(json) == "table" and json.error
  local names_something = type(said) == "table" and tostring(said.code):find("not_found$")
  if type(said) ~= "table" or type(said.message) ~= "string" or reply.status == 404 and not names_something then
    return problem(reply.status, "no_central", "%d came back, but not as a central says it: is this the right URL?",
      reply.status)
  end
  local why = problem(reply.status, tostring(said.code), "%s", "")
  why.message = said.message
  return why
end

function Remote:exchange(method, target, body)
  if self.force and method ~= "GET" then
    target = target .. (target:find("?", 1, true) and "&" or "?") .. "force=true"
  end
  local headers = { { "Accept", "application/json" } }
  if body then headers[2] = { "Content-Type", "application/json" } end
  local reply, failure = client.ask(self.base, {
    method = method, target = "/api/v1/" .. target, token = self.token, body = body and cjson.encode(body),
    headers = headers, timeout = self.timeout, ca_file = self.ca_file,
  })
  if not reply then return nil, problem(0, failure.kind, "%s", failure.message) end
  if reply.status < 200 or reply.status > 299 then return nil, explain(reply) end
  local ok, json = pcall(cjson.decode, reply.body)
  if not ok or type(json) ~= "table" then return nil, problem(502, "no_central", "what came back is not JSON") end
  return json
end

-- No path can hold an empty one, so the central could not say what is wrong.
local function empty_key()
  return nil, problem(400, "invalid_request", "the name or id: must not be empty")
end

function Remote:call(spec, ...)
  local arguments, used, empty = { ... }, 0, false
  local path = spec[2]:gsub(":", function()
    used = used + 1
    empty = empty or arguments[used] == ""
    return client.escape(tostring(arguments[used]))
  end)
  if empty then return empty_key() end
  local given = arguments[used + 1]
  path = path .. query_of((spec.list or spec.asks) and given or spec.query)
  local json, why = self:exchange(spec[1], path, spec.body and (given or {}) or nil)
  if not json then return nil, why end
  if spec.list then return json.data or {}, json.next end
  return json
end

function Remote:add_member(group, user)
  if group == "" then return empty_key() end
  return self:exchange("POST", "groups/" .. client.escape(group) .. "/members", { user = user })
end

function Remote.close() end

Remote.__index = function(_, name)
  if Remote[name] ~= nil then return Remote[name] end
  local spec = OPERATIONS[name]
  return spec and function(self, ...) return self:call(spec, ...) end or nil
end

-- ---- both ----------------------------------------------------------------------------------------------------------

-- One page after another: rows, and whether there are more than limit.
function admin_backend.all(backend, name, limit, ...)
  local arguments = table.pack(...)
  local options = {}
  for field, value in pairs(arguments[arguments.n] or {}) do options[field] = value end
  local next_field = name == "list_audit" and "before" or "after"
  local rows, rest = {}, nil
  repeat
    options.limit, options[next_field] = math.min(PAGE, limit - #rows), rest
    arguments[math.max(arguments.n, 1)] = options
    local page, more = backend[name](backend, table.unpack(arguments, 1, math.max(arguments.n, 1)))
    if not page then return nil, more end
    table.move(page, 1, #page, #rows + 1, rows)
    rest = more
  until not rest or #rows >= limit
  return rows, rest ~= nil
end

function admin_backend.open(options)
  if options.db then return open_local(options) end
  local base, why = client.parse(options.url)
  if not base then return nil, "--url: " .. why end
  return setmetatable({
    base = base, token = options.token, ca_file = options.ca_file, timeout = options.timeout, force = options.force,
  }, Remote)
end

return admin_backend
