-- What can be done, each with the actor who does it: for the HTTP API, and for commands that work on the database.
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
local llms = require "central.llms"
local migrations = require "central.migrations"
local problem = require "central.problem"
local rbac = require "central.rbac"
local store = require "central.store"
local subjects = require "central.subjects"
local tokens = require "central.tokens"

local services = {}

services.MAX_LIMIT = 1000
services.DEFAULT_LIMIT = 100

local FLUSH_USES_S = 5
local CHECK_S = 5

local Service = {}
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

-- ---- who may -------------------------------------------------------------------------------------------------------

local AUTHENTICATION = {
  missing_token = "expected a token: Authorization: Bearer dpt_...",
  invalid_token = "the token is not known here",
  expired_token = "the token has expired: ask for a new one",
  revoked_token = "the token was revoked",
  disabled_user = "the token's user is disabled",
}

function services.unauthenticated(code)
  return problem(401, code, AUTHENTICATION[code])
end

-- Says nothing of the LLM: the same whether it exists or not.
function services.forbidden(role, on_llm)
  if on_llm then
    return problem(403, "permission_denied", 'you need the role "%s" on this LLM; without it nobody is told whether '
      .. "it exists", role)
  end
  return problem(403, "permission_denied", 'you need the role "%s" on all LLMs', role)
end

function services.no_llm(key)
  return problem(404, "llm_not_found", 'no LLM "%s"', key)
end

local function standing(self, actor, key)
  if actor.kind == "local" then
    return { rights = rbac.EVERYTHING, llm = key and llms.find(self.database, key) or nil }
  end
  local caller, code = self.auth:standing(actor.token_id, key)
  if not caller then return nil, services.unauthenticated(code) end
  return caller
end

-- The caller with his rights, when he has the role on all LLMs.
local function allow(self, actor, role)
  local caller, why = standing(self, actor)
  if not caller then return nil, why end
  if not rbac.allows(caller.rights, role) then return nil, services.forbidden(role, false) end
  return caller
end

local function admin(self, actor) return allow(self, actor, "admin") end

-- The same for one LLM, which is in caller.llm then.
local function allow_on(self, actor, role, key)
  local wrong = type(key) ~= "string" and "expected a name or an id" or fields.name_problem(key)
  if wrong then return nil, problem(400, "invalid_request", "the LLM's name or id: " .. wrong) end
  local caller, why = standing(self, actor, key)
  if not caller then return nil, why end
  if not rbac.allows(caller.rights, role) then return nil, services.forbidden(role, true) end
  if not caller.llm then return nil, services.no_llm(key) end
  return caller
end

-- Bindings on one LLM are also the business of its own admins. Those of all LLMs keep their hold on it, even when one
-- of its admins denies them.
local function allow_binding(self, actor, llm_key)
  local caller, why = admin(self, actor)
  if caller or not llm_key then return caller, why end
  return allow_on(self, actor, "admin", llm_key)
end

-- ---- operations ----------------------------------------------------------------------------------------------------

local function failed(self, name, failure)
  if not store.is_error(failure) then
    self.log("error", ("%s: %s"):format(name, tostring(failure)))
    return problem(500, "internal_error", "this is a mistake in the central itself: its log says more")
  end
  self.log("error", ("%s: %s"):format(name, failure.message))
  if failure.kind == "failed" then
    return problem(500, "database_error", "the database refused the statement: the log says more")
  end
  local why = problem(503, failure.kind == "busy" and "database_busy" or "database_unavailable",
    failure.kind == "busy" and "the database is busy: try again"
      or "the database does not answer: a change that was under way may or may not have been made")
  why.retry_after = 1
  return why
end
services.failed = failed

local function traced(failure)
  if store.is_error(failure) then return failure end
  return debug.traceback(tostring(failure), 2)
end
services.traced = traced

-- Names what was asked for as the actor said it: what it is, nobody has looked up.
local function note_refusal(self, actor, action, asked, why)
  if why.status ~= 401 and why.status ~= 403 then return end
  local nameable = type(asked) == "string" and not fields.name_problem(asked)
  self.audit:refused(actor, action, nameable and { name = asked } or nil, why.code)
end

-- What the audit log calls each operation.
services.ACTIONS = {}

-- Defines service:NAME(actor, ...) with what is common to all of them.
local function operation(name, action, fn)
  services.ACTIONS[name] = action
  Service[name] = function(self, actor, ...)
    local results = table.pack(xpcall(fn, traced, self, actor, ...))
    if not results[1] then return nil, failed(self, action, results[2]) end
    if results[2] == nil and results[3] then
      note_refusal(self, actor, action, (...), results[3])
    end
    return table.unpack(results, 2, results.n)
  end
end

-- permit(): caller or nil and a problem; change(caller): the result or nil and a problem.
local function change(self, permit, act)
  local caller, why = permit()
  if not caller then return nil, why end
  return self.database:transaction(function()
    caller, why = permit()
    if not caller then return nil, why end
    return act(caller)
  end)
end

-- An act that may leave nobody who is admin of all LLMs: then it is undone, unless it is forced.
local function keep_an_admin(self, actor, act)
  return function(caller)
    local now = self.clock.text()
    local guarded = not actor.force and bindings.has_admin(self.database, now)
    local result, why = act(caller)
    if result == nil or not guarded or bindings.has_admin(self.database, now) then return result, why end
    return nil, problem(409, "last_admin", "after this nobody would be admin of all LLMs, enabled, with a good token: "
      .. "give that to somebody else first, or do it all the same with --force (over HTTP: ?force=true)")
  end
end

local LIST = { limit = { kind = "integer", min = 1, max = services.MAX_LIMIT }, after = { kind = "text", max = 128 } }

-- The options of a list: limit and after, and what more names.
local function list_options(options, more)
  local shape = {}
  for field, spec in pairs(LIST) do shape[field] = spec end
  for field, spec in pairs(more or {}) do shape[field] = spec end
  local values, why = fields.read(shape, options or {})
  if not values then return nil, why end
  for field, value in pairs(values) do
    if value == fields.NONE then values[field] = nil end
  end
  values.limit, values.after = values.limit or services.DEFAULT_LIMIT, values.after or ""
  return values
end

-- rows holds one more than asked for when there is more.
local function page(rows, limit, view, cursor)
  local objects = {}
  for i = 1, math.min(#rows, limit) do objects[i] = view(rows[i]) end
  return objects, #rows > limit and rows[limit][cursor] or nil
end

-- ---- LLMs ----------------------------------------------------------------------------------------------------------

operation("list_llms", "llm.list", function(self, actor, options)
  local values, why = list_options(options)
  if not values then return nil, why end
  local caller
  caller, why = standing(self, actor)
  if not caller then return nil, why end
  local rows, onward = llms.list(self.database, values.after, values.limit + 1, actor.id,
    rbac.allows(caller.rights, "view"))
  local objects, rest = page(rows, values.limit, function(row)
    return llms.view(row, rbac.allows(row[llms.RIGHTS] or rbac.EVERYTHING, "edit"))
  end, llms.AT.name)
  return objects, rest or onward
end)

operation("get_llm", "llm.view", function(self, actor, key)
  local caller, why = allow_on(self, actor, "view", key)
  if not caller then return nil, why end
  return llms.view(caller.llm, rbac.allows(caller.rights, "edit"))
end)

-- A key goes wherever the URL leads. Whoever creates and edits, and is no admin, could otherwise have any file that the
-- central reads, or another LLM's key, sent to a server of his own.
local function may_place_key(self, actor, caller, input)
  local row = caller.llm
  local function given(field) return type(input) == "table" and input[field] ~= nil and input[field] ~= fields.NONE end
  local has_key = row and (row[llms.AT.apiKeyEnv] or row[llms.AT.apiKeyFile])
  local redirects = has_key and given("url") and input.url ~= row[llms.AT.url]
  if not given("apiKeyEnv") and not given("apiKeyFile") and not redirects then return caller end
  if admin(self, actor) then return caller end
  return nil, problem(403, "permission_denied", 'you need the role "admin" on all LLMs to say where a key comes from, '
    .. "or to have one that is there sent to another URL")
end

operation("create_llm", "llm.create", function(self, actor, input)
  return change(self, function()
    local caller, why = allow(self, actor, "create")
    if not caller then return nil, why end
    return may_place_key(self, actor, caller, input)
  end, function()
    local row, why = llms.create(self.database, input, self.clock.text())
    if not row then return nil, why end
    self.audit:done(actor, "llm.create", llms.target(row))
    return llms.view(row, true)
  end)
end)

operation("update_llm", "llm.edit", function(self, actor, key, input)
  return change(self, function()
    local caller, why = allow_on(self, actor, "edit", key)
    if not caller then return nil, why end
    return may_place_key(self, actor, caller, input)
  end, function(caller)
    local row, changed = llms.update(self.database, caller.llm, input, self.clock.text())
    if not row then return nil, changed end
    self.audit:done(actor, "llm.edit", llms.target(caller.llm), changed)
    return llms.view(row, true)
  end)
end)

operation("delete_llm", "llm.delete", function(self, actor, key)
  return change(self, function() return allow_on(self, actor, "delete", key) end, function(caller)
    llms.delete(self.database, caller.llm)
    self.audit:done(actor, "llm.delete", llms.target(caller.llm))
    return llms.view(caller.llm, rbac.allows(caller.rights, "edit"))
  end)
end)

-- ---- users, service accounts, groups -------------------------------------------------------------------------------

local function key_problem(key)
  local wrong = type(key) ~= "string" and "expected a name or an id" or fields.name_problem(key)
  if wrong then return problem(400, "invalid_request", "the name or id: " .. wrong) end
end

local function find_subject(self, key, wanted)
  local wrong = problem.is(key) and key or key_problem(key)
  if wrong then return nil, wrong end
  return subjects.find(self.database, key, wanted)
end

-- An admin who takes away his own account would lock the door with the key inside.
local function is_own(actor, row, what)
  if actor.id == row[subjects.ID] then
    return problem(409, "own_account", "this is your own account: somebody else has to %s it", what)
  end
end

-- Their names, or nil when there are none: an empty table would be an empty object in JSON.
local function group_names(self, user_id)
  local names = {}
  for i, group in ipairs(subjects.groups(self.database, user_id)) do names[i] = group[subjects.NAME] end
  return names[1] and names or nil
end

local function define_subject(word, list_kind)
  operation("list_" .. word .. "s", word .. ".list", function(self, actor, options)
    local caller, why = admin(self, actor)
    if not caller then return nil, why end
    local values
    values, why = list_options(options, word == "user" and { kind = { kind = "word", of = { "user", "service" } } })
    if not values then return nil, why end
    local rows = subjects.list(self.database, values.kind or list_kind, values.after, values.limit + 1)
    return page(rows, values.limit, subjects.view, subjects.NAME)
  end)

  operation("get_" .. word, word .. ".view", function(self, actor, key)
    local caller, why = admin(self, actor)
    if not caller then return nil, why end
    local row
    row, why = find_subject(self, key, word)
    if not row then return nil, why end
    local object = subjects.view(row)
    if word == "user" then
      object.groups = group_names(self, row[subjects.ID])
    end
    return object
  end)

  operation("create_" .. word, word .. ".create", function(self, actor, input)
    return change(self, function() return admin(self, actor) end, function()
      local row, why = subjects.create(self.database, word, input, self.clock.text())
      if not row then return nil, why end
      self.audit:done(actor, word .. ".create", subjects.target(row))
      return subjects.view(row)
    end)
  end)

  operation("update_" .. word, word .. ".edit", function(self, actor, key, input)
    return change(self, function() return admin(self, actor) end, keep_an_admin(self, actor, function()
      local row, why = find_subject(self, key, word)
      if not row then return nil, why end
      local own = type(input) == "table" and input.disabled == true and is_own(actor, row, "disable")
      if own then return nil, own end
      local updated, changed = subjects.update(self.database, row, input, self.clock.text())
      if not updated then return nil, changed end
      self.audit:done(actor, word .. ".edit", subjects.target(row), changed)
      return subjects.view(updated)
    end))
  end)

  operation("delete_" .. word, word .. ".delete", function(self, actor, key)
    return change(self, function() return admin(self, actor) end, keep_an_admin(self, actor, function()
      local row, why = find_subject(self, key, word)
      if not row then return nil, why end
      local own = is_own(actor, row, "delete")
      if own then return nil, own end
      subjects.delete(self.database, row)
      self.audit:done(actor, word .. ".delete", subjects.target(row))
      return subjects.view(row)
    end))
  end)
end

define_subject("user", nil)
define_subject("group", "group")

operation("list_members", "member.list", function(self, actor, key, options)
  local caller, why = admin(self, actor)
  if not caller then return nil, why end
  local values, group
  values, why = list_options(options)
  if not values then return nil, why end
  group, why = find_subject(self, key, "group")
  if not group then return nil, why end
  local rows = subjects.members(self.database, group, values.after, values.limit + 1)
  return page(rows, values.limit, subjects.view, subjects.NAME)
end)

local function change_member(self, actor, group_key, user_key, action, act)
  return change(self, function() return admin(self, actor) end, keep_an_admin(self, actor, function()
    local group, user, why
    group, why = find_subject(self, group_key, "group")
    if not group then return nil, why end
    user, why = find_subject(self, user_key, "user")
    if not user then return nil, why end
    local changed
    changed, why = act(group, user)
    if changed == nil then return nil, why end
    if changed then
      self.audit:done(actor, action, subjects.target(user), { group = group[subjects.NAME], groupId = group[1] })
    end
    return { group = subjects.view(group), member = subjects.view(user), changed = changed }
  end))
end

operation("add_member", "member.add", function(self, actor, group_key, user_key)
  return change_member(self, actor, group_key, user_key, "member.add", function(group, user)
    return subjects.join(self.database, group, user, self.clock.text())
  end)
end)

operation("remove_member", "member.remove", function(self, actor, group_key, user_key)
  return change_member(self, actor, group_key, user_key, "member.remove", function(group, user)
    if subjects.leave(self.database, group, user) then return true end
    return nil, problem(404, "member_not_found", '"%s" is not in "%s"', user[subjects.NAME], group[subjects.NAME])
  end)
end)

-- ---- tokens --------------------------------------------------------------------------------------------------------

-- Everybody sees and revokes his own; an admin everybody's. Only admins make them: whoever has found a token could
-- otherwise give himself one that never expires.
operation("list_tokens", "token.list", function(self, actor, options)
  local values, why = list_options(options, { user = { kind = "key" } })
  if not values then return nil, why end
  local caller
  caller, why = standing(self, actor)
  if not caller then return nil, why end
  local is_admin = rbac.allows(caller.rights, "admin")
  local own = actor.id and (values.user == actor.id or values.user == actor.name)
  if not is_admin and values.user and not own then return nil, services.forbidden("admin", false) end
  local user
  if values.user and not own then
    user, why = subjects.find(self.database, values.user, "user")
    if not user then return nil, why end
  end
  local user_id = user and user[subjects.ID] or ((own or not is_admin) and actor.id) or nil
  local rows = tokens.list(self.database, user_id, values.after, values.limit + 1)
  return page(rows, values.limit, tokens.view, 1)
end)

operation("create_token", "token.create", function(self, actor, input)
  return change(self, function() return admin(self, actor) end, function()
    local values, why = tokens.read(input, self.clock.now())
    if not values then return nil, why end
    local user
    user, why = subjects.find(self.database, values.user, "user")
    if not user then return nil, why end
    local row, token = tokens.create(self.database, user, values, self.clock.now())
    if not row then return nil, token end
    self.audit:done(actor, "token.create", tokens.target(row), { user = user[subjects.NAME], expiresAt = row[6] })
    local object = tokens.view(row)
    object.token = token
    return object
  end)
end)

operation("revoke_token", "token.revoke", function(self, actor, id)
  local wrong = key_problem(id)
  if wrong then return nil, wrong end
  local row, missing
  return change(self, function()
    local caller, why = standing(self, actor)
    if not caller then return nil, why end
    row, missing = tokens.find(self.database, id)
    if rbac.allows(caller.rights, "admin") or (row and row[3] == actor.id) then return caller end
    return nil, services.forbidden("admin", false)
  end, keep_an_admin(self, actor, function()
    if not row then return nil, missing end
    if tokens.revoke(self.database, row, self.clock.text()) then
      self.audit:done(actor, "token.revoke", tokens.target(row), { user = row[4] })
    end
    return tokens.view((tokens.find(self.database, id)))
  end))
end)

-- ---- bindings ------------------------------------------------------------------------------------------------------

local function llm_key_of(input)
  local key = type(input) == "table" and input.llm
  if type(key) == "string" and not fields.name_problem(key) then return key end
end

operation("list_bindings", "binding.list", function(self, actor, options)
  local caller, why = allow_binding(self, actor, llm_key_of(options))
  if not caller then return nil, why end
  local values
  values, why = list_options(options, { user = { kind = "key" }, group = { kind = "key" }, llm = { kind = "key" } })
  if not values then return nil, why end
  local subject, llm
  if values.user or values.group then
    subject, why = subjects.find(self.database, values.user or values.group, values.user and "user" or "group")
    if not subject then return nil, why end
  end
  if values.llm then
    llm = llms.find(self.database, values.llm)
    if not llm then return nil, services.no_llm(values.llm) end
  end
  local rows = bindings.list(self.database, subject, llm, values.after, values.limit + 1)
  return page(rows, values.limit, bindings.view, 1)
end)

operation("grant", "binding.grant", function(self, actor, input)
  local function permit() return allow_binding(self, actor, llm_key_of(input)) end
  return change(self, permit, keep_an_admin(self, actor, function()
    local values, why = bindings.read(input)
    if not values then return nil, why end
    local subject, llm = bindings.resolve(self.database, values)
    if not subject then return nil, llm end
    local row, new = bindings.grant(self.database, values, subject, llm, actor.name, self.clock.text())
    if not row then return nil, new end
    if new then self.audit:done(actor, "binding.grant", bindings.target(row)) end
    local object = bindings.view(row)
    object.new = new
    return object
  end))
end)

operation("revoke", "binding.revoke", function(self, actor, input)
  local function permit() return allow_binding(self, actor, llm_key_of(input)) end
  return change(self, permit, keep_an_admin(self, actor, function()
    local values, why = bindings.read(input)
    if not values then return nil, why end
    local subject, llm = bindings.resolve(self.database, values)
    if not subject then return nil, llm end
    local row
    row, why = bindings.exact(self.database, values, subject, llm)
    if not row then return nil, why end
    bindings.delete(self.database, row)
    self.audit:done(actor, "binding.revoke", bindings.target(row))
    return bindings.view(row)
  end))
end)

operation("delete_binding", "binding.revoke", function(self, actor, id)
  local wrong = key_problem(id)
  if wrong then return nil, wrong end
  local row, missing
  return change(self, function()
    row, missing = bindings.find(self.database, id)
    local caller, why = allow_binding(self, actor, row and row[bindings.LLM_ID])
    -- In the words for one that does not exist.
    return caller, why and why.status == 403 and services.forbidden("admin", false) or why
  end, keep_an_admin(self, actor, function()
    if not row then return nil, missing end
    bindings.delete(self.database, row)
    self.audit:done(actor, "binding.revoke", bindings.target(row))
    return bindings.view(row)
  end))
end)

-- ---- the rest ------------------------------------------------------------------------------------------------------

operation("whoami", "whoami", function(self, actor)
  local caller, why = standing(self, actor)
  if not caller then return nil, why end
  local roles = {}
  for _, role in ipairs(rbac.ROLES) do roles[role] = rbac.allows(caller.rights, role) end
  return {
    id = actor.id, name = actor.name, kind = actor.kind, tokenId = actor.token_id,
    groups = actor.id and group_names(self, actor.id), onAllLlms = roles,
  }
end)

operation("list_audit", "audit.list", function(self, actor, options)
  local caller, why = admin(self, actor)
  if not caller then return nil, why end
  local values
  values, why = fields.read({
    limit = LIST.limit, before = { kind = "text", max = 18 },
  }, options or {})
  if not values then return nil, why end
  if values.before and not values.before:find("^%d+$") then
    return nil, problem(400, "invalid_request", "before: expected the seq of an entry")
  end
  self.audit:flush(true)
  return self.audit:list{ limit = values.limit or services.DEFAULT_LIMIT, before = values.before }
end)

operation("init", "init", function(self, actor, input)
  return change(self, function() return admin(self, actor) end, function()
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

operation("backup", "backup", function(self, actor, path)
  if actor.kind ~= "local" then return nil, services.forbidden("admin", false) end
  local done, why = self.database:backup(path)
  if done then return true end
  local failure = problem(409, "backup_failed", "")
  failure.message = why
  return nil, failure
end)

-- ---- time ----------------------------------------------------------------------------------------------------------

local function quietly(self, what, fn, ...)
  local ok, failure = xpcall(fn, traced, ...)
  if not ok then self.log("error", ("%s: %s"):format(what, tostring(failure))) end
end

-- Once a second; short.
function Service:tick()
  local now = self.clock.elapsed()
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
