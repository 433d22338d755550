-- What the operations of service.lua have in common; the files operations_*.lua are they, by subject.
--
--   operations.define(name, action, function(self, actor, ...) end)     becomes operations.methods[name]
--   operations.change(self, actor, permit, act), operations.change_rights(self, actor, permit, act)
--   operations.list_options(options, more), operations.page(rows, limit, view, cursor)     lists
--   operations.key_problem(key)                                         for a name or an id that is none
--   operations.failed(self, name, failure)                              the problem for an error, which the log gets
--   operations.traced(failure)                                          for xpcall
local bindings = require "central.bindings"
local fields = require "central.fields"
local problem = require "central.problem"
local store = require "central.store"

local operations = { methods = {} }

operations.MAX_LIMIT = 1000
operations.DEFAULT_LIMIT = 100
operations.LIMIT = { kind = "integer", min = 1, max = operations.MAX_LIMIT } -- as a field (fields.lua)

function operations.failed(self, name, failure)
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

function operations.traced(failure)
  if store.is_error(failure) then return failure end
  return debug.traceback(tostring(failure), 2)
end

-- Names what was asked for as the actor said it: what it is, nobody has looked up.
local function note_refusal(self, actor, action, asked, why)
  if why.status ~= 401 and why.status ~= 403 then return end
  local nameable = type(asked) == "string" and not fields.name_problem(asked)
  self.audit:refused(actor, action, nameable and { name = asked } or nil, why.code)
end

-- What the audit log calls each operation.
operations.ACTIONS = {}

-- Defines service:NAME(actor, ...) with what is common to all of them.
function operations.define(name, action, fn)
  operations.ACTIONS[name] = action
  operations.methods[name] = function(self, actor, ...)
    local results = table.pack(xpcall(fn, operations.traced, self, actor, ...))
    if not results[1] then return nil, operations.failed(self, action, results[2]) end
    if results[2] == nil and results[3] then
      note_refusal(self, actor, action, (...), results[3])
    end
    return table.unpack(results, 2, results.n)
  end
end

-- permit(): caller or nil and a problem; act(caller): the result or nil and a problem. actor.wrong: a problem with how
-- he asked, told after he turned out to be somebody who may.
function operations.change(self, actor, permit, act)
  local caller, why = permit()
  if not caller then return nil, why end
  if actor.wrong then return nil, actor.wrong end
  return self.database:transaction(function()
    caller, why = permit()
    if not caller then return nil, why end
    return act(caller)
  end)
end

-- A change that may leave nobody who is admin of all LLMs: then it is undone, unless it is forced.
function operations.change_rights(self, actor, permit, act)
  return operations.change(self, actor, permit, function(caller)
    local now = self.clock.text()
    local guarded = not actor.force and bindings.has_admin(self.database, now)
    local result, why = act(caller)
    if result == nil or not guarded or bindings.has_admin(self.database, now) then return result, why end
    return nil, problem(409, "last_admin", "after this nobody would be admin of all LLMs, enabled, with a good token: "
      .. "give that to somebody else first, or do it all the same with --force (over HTTP: ?force=true)")
  end)
end

local LIST = { limit = operations.LIMIT, after = { kind = "text", max = 128 } }

-- The options of a list: limit and after, and what more names.
function operations.list_options(options, more)
  local shape = {}
  for field, spec in pairs(LIST) do shape[field] = spec end
  for field, spec in pairs(more or {}) do shape[field] = spec end
  local values, why = fields.read(shape, options or {})
  if not values then return nil, why end
  for field, value in pairs(values) do
    if value == fields.NONE then values[field] = nil end
  end
  values.limit, values.after = values.limit or operations.DEFAULT_LIMIT, values.after or ""
  return values
end

-- rows holds one more than asked for when there is more.
function operations.page(rows, limit, view, cursor)
  local objects = {}
  for i = 1, math.min(#rows, limit) do objects[i] = view(rows[i]) end
  return objects, #rows > limit and rows[limit][cursor] or nil
end

function operations.key_problem(key)
  local wrong = type(key) ~= "string" and "expected a name or an id" or fields.name_problem(key)
  if wrong then return problem(400, "invalid_request", "the name or id: " .. wrong) end
end

return operations
