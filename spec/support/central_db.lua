-- A central on a real database, for specs that hold for both kinds.
--
--   local databases = require "spec.support.central_db"
--   for _, kind in ipairs(databases.KINDS) do describe("on " .. kind, function() ... end) end
--   local url = databases.new("sqlite")             a fresh, empty database
--   databases.stop()                                in a teardown of the file: closes what is open, ends the server
--
--   local c = databases.central("sqlite")           an app on a fresh database, with an admin; or a URL to share one
--   c.clock.now                                     what it takes for the time: seconds; moves by hand
--   c:ask("GET", "/api/v1/llms", token, body, model)  a reply with json (its body decoded); body: a table or a text
--   c:service_as_admin("create_user", {...})        of the service, by the local actor; raises when refused
--   c:user("alice")                                 makes a user and a token; the token
--   c:llm("claude", {...})                          makes an LLM; the object
--   c:grant{ ... }, c:revoke{ ... }
--   c.admin                                         the first admin's token
--   c.logged                                        what it logged, as lines
local cjson = require "cjson"
local postgres = require "spec.support.postgres"
local tmp = require "spec.support.tmp"

local databases = {}
databases.KINDS = { "sqlite", "postgres" }

local open = {}

function databases.new(kind)
  if kind == "postgres" then return postgres.database() end
  return "sqlite:" .. tmp.dir() .. "/central.db"
end

local Central = {}
Central.__index = Central

function databases.central(kind, options)
  local url = kind:find(":", 1, true) and kind or databases.new(kind)
  local c = setmetatable({ url = url, clock = { now = os.time() }, logged = {} }, Central)
  local app, why = require("central.app").new{
    db = url, now = function() return c.clock.now end,
    log = function(level, text) c.logged[#c.logged + 1] = level .. ": " .. text end,
  }
  assert(app, why)
  c.app, c.service = app, app.service
  c.me = require("central.service").local_actor("spec")
  open[#open + 1] = c
  if not (options and options.shared) then
    c.admin = assert(c.service:init(c.me, { name = "root" })).token.token
  end
  return c
end

function Central:close()
  if self.app then self.app:close() end
  self.app = nil
end

function Central:ask(method, target, token, body, model)
  local reply = self.app:handle{
    method = method, target = target, authorization = token and "Bearer " .. token, body = type(body) == "table"
      and cjson.encode(body) or body, content_type = body and "application/json", model = model, peer = "192.0.2.1",
    id = "request-1",
  }
  if reply.forward then return reply end
  -- The app may use its tables again.
  local headers = {}
  for name, value in pairs(reply.headers) do headers[name] = value end
  return {
    status = reply.status, headers = headers, body = reply.body, user = reply.user, route = reply.route,
    json = reply.body and cjson.decode(reply.body), code = nil,
  }
end

function Central:code(...)
  local reply = self:ask(...)
  return reply.json and reply.json.error and reply.json.error.code
end

function Central:service_as_admin(name, ...)
  local result, why = self.service[name](self.service, self.me, ...)
  if result == nil then error(tostring(why), 2) end
  return result
end

function Central:user(name, more)
  self:service_as_admin("create_user", { name = name })
  return self:token(name, more)
end

function Central:token(name, more)
  local input = { user = name }
  for field, value in pairs(more or {}) do input[field] = value end
  return self:service_as_admin("create_token", input).token
end

function Central:llm(name, more)
  local input = { name = name, url = "http://127.0.0.1:9/v1" }
  for field, value in pairs(more or {}) do input[field] = value end
  return self:service_as_admin("create_llm", input)
end

function Central:grant(input) return self:service_as_admin("grant", input) end
function Central:revoke(input) return self:service_as_admin("revoke", input) end

function databases.close()
  for _, c in ipairs(open) do c:close() end
  open = {}
end

function databases.stop()
  databases.close()
  postgres.stop()
end

return databases
