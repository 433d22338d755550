-- What can be done, each with the actor who does it: for the HTTP API, and for commands that work on the database.
-- operations_*.lua have the operations on LLMs, people, tokens and bindings.
--
--   local service, why = services.open{ db = "sqlite:FILE" | "postgres://...", log = function(level, text), now = f,
--     hurry = true, watch = f (store.lua) }
--   local result, why = service:create_user(actor, { name = "alice" })
-- Each operation returns its result, or nil and a problem (problem.lua). Objects have the keys of the HTTP API.
--
-- actor: services.local_actor(name) for whoever holds the database itself and so may do everything; or a caller of
-- auth:check() by services.actor(caller, peer), whose rights are looked up again inside each operation. actor.force:
-- also to do what leaves nobody who is admin of all LLMs.
--
-- Changes: the rights are checked before, and again inside the transaction, where nobody else can commit; the audit log
-- gets its row in the same transaction. Refusals are noted (audit.lua).
--
-- Lists take { limit =, after = } and return an array and, when there is more, what to give as after for the rest.
--
--   init{ name, token }                                   the first admin: { user =, token = }; once
--   whoami()
--   list_llms, get_llm(key), create_llm(input), update_llm(key, input), delete_llm(key)
--   list_users{ kind }, get_user(key), create_user(input), update_user(key, input), delete_user(key)
--   list_groups, get_group(key), create_group(input), update_group(key, input), delete_group(key)
--   list_members(group), add_member(group, user), remove_member(group, user)
--   list_tokens{ user }, create_token(input), revoke_token(id)
--   list_bindings{ user | group, llm }, grant(input), revoke(input), delete_binding(id)
--   list_audit{ limit, before }
--   backup(path)                                          for the local actor
-- and service:tick() every second, service:close().
local audits = require "central.audit"
local auths = require "central.auth"
local bindings = require "central.bindings"
local clocks = require "central.clock"
local fields = require "central.fields"
local migrations = require "central.migrations"
local operations = require "central.operations"
local permits = require "central.permits"
local problem = require "central.problem"
local rbac = require "central.rbac"
local store = require "central.store"
local subjects = require "central.subjects"
local tokens = require "central.tokens"
require "central.operations_bindings"
require "central.operations_llms"
require "central.operations_people"
require "central.operations_tokens"

local services = {}

local FLUSH_USES_S = 5
local CHECK_S = 5

local Service = operations.methods
Service.__index = Service

function services.open(options)
  local clock = clocks.new(options.now)
  local log = options.log or function() end
  local database, why = store.open{ db = options.db, log = log, watch = options.watch }
  if not database then return nil, why end
  local version
  version, why = migrations.run(database)
  if not version then
    database:close()
    return nil, why
  end
  database.hurry = options.hurry
  return setmetatable({
    database = database, clock = clock, log = log, auth = auths.new(database, clock),
    audit = audits.new(database, clock), flushed_at = clock.elapsed(), checked_at = clock.elapsed(),
  }, Service)
end

function services.local_actor(name)
  return { kind = "local", name = name and "local:" .. name or "local" }
end

function services.actor(caller, peer)
  return {
    kind = caller.kind, id = caller.user_id, name = caller.user, token_id = caller.token_id, peer = peer,
  }
end

-- ---- operations on the whole ---------------------------------------------------------------------------------------

operations.define("whoami", "whoami", function(self, actor)
  local caller, why = permits.standing(self, actor)
  if not caller then return nil, why end
  local roles = {}
  for _, role in ipairs(rbac.ROLES) do roles[role] = rbac.allows(caller.rights, role) end
  return {
    id = actor.id, name = actor.name, kind = actor.kind, tokenId = actor.token_id,
    groups = actor.id and subjects.group_names(self.database, actor.id), onAllLlms = roles,
  }
end)

operations.define("list_audit", "audit.list", function(self, actor, options)
  local caller, why = permits.admin(self, actor)
  if not caller then return nil, why end
  local values
  values, why = fields.read({
    limit = operations.LIMIT, before = { kind = "text", max = 18 },
  }, options or {})
  if not values then return nil, why end
  if values.before and not values.before:find("^%d+$") then
    return nil, problem(400, "invalid_request", "before: expected the seq of an entry")
  end
  self.audit:flush(true)
  return self.audit:list{ limit = values.limit or operations.DEFAULT_LIMIT, before = values.before }
end)

operations.define("init", "init", function(self, actor, input)
  return operations.change(self, actor, permits.as_admin(self, actor), function()
    if bindings.any_admin(self.database) then
      return nil, problem(409, "already_done", "this database has an admin already; whoever holds the database itself "
        .. "can make another token: deputy central token create --user NAME")
    end
    local user, why = subjects.create(self.database, "user", { name = input.name }, self.clock.text())
    if not user then return nil, why end
    local values
    values, why = tokens.read({ user = input.name, name = input.token, expiresIn = input.expiresIn }, self.clock.now())
    if not values then return nil, why end
    local row, token = tokens.create(self.database, user, values, self.clock.now())
    if not row then return nil, token end
    bindings.grant(self.database, { role = "admin", effect = "allow" }, user, nil, actor.name, self.clock.text())
    self.audit:done(actor, "init", subjects.target(user))
    local object = tokens.view(row)
    object.token = token
    return { user = subjects.view(user), token = object }
  end)
end)

operations.define("backup", "backup", function(self, actor, path)
  if actor.kind ~= "local" then return nil, permits.forbidden("admin", false) end
  local done, why = self.database:backup(path)
  if done then return true end
  local failure = problem(409, "backup_failed", "")
  failure.message = why
  return nil, failure
end)

-- ---- time ----------------------------------------------------------------------------------------------------------

local function quietly(self, what, fn, ...)
  local ok, failure = xpcall(fn, operations.traced, ...)
  if not ok then self.log("error", ("%s: %s"):format(what, tostring(failure))) end
end

-- Once a second; short.
function Service:tick()
  local now = self.clock.elapsed()
  self.database:check_place()
  quietly(self, "audit", self.audit.flush, self.audit)
  if now - self.flushed_at >= FLUSH_USES_S then
    self.flushed_at = now
    quietly(self, "last use of tokens", self.auth.flush, self.auth)
  end
  if now - self.checked_at >= CHECK_S then
    self.checked_at = now
    self.database:check()
  end
end

-- Whether it can decide now: true, or nil and why.
function Service:ready()
  local ok, failure = pcall(self.database.one, self.database, self.database.dialect.PING)
  if ok then return true end
  return nil, tostring(failure)
end

function Service:close()
  quietly(self, "audit", self.audit.flush, self.audit, true)
  quietly(self, "last use of tokens", self.auth.flush, self.auth)
  self.database:close()
end

return services
