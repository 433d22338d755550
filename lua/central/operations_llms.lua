-- The operations on LLMs.
local fields = require "central.fields"
local llms = require "central.llms"
local operations = require "central.operations"
local permits = require "central.permits"
local problem = require "central.problem"
local rbac = require "central.rbac"

operations.define("list_llms", "llm.list", function(self, actor, options)
  local values, why = operations.list_options(options)
  if not values then return nil, why end
  local caller
  caller, why = permits.standing(self, actor)
  if not caller then return nil, why end
  local rows, onward = llms.list(self.database, values.after, values.limit + 1, actor.id,
    rbac.allows(caller.rights, "view"))
  local objects, rest = operations.page(rows, values.limit, function(row)
    return llms.view(row, rbac.allows(row[llms.RIGHTS] or rbac.EVERYTHING, "edit"))
  end, llms.AT.name)
  return objects, rest or onward
end)

operations.define("get_llm", "llm.view", function(self, actor, key)
  local caller, why = permits.allow_on(self, actor, "view", key)
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
  if permits.admin(self, actor) then return caller end
  return nil, problem(403, "permission_denied", 'you need the role "admin" on all LLMs to say where a key comes from, '
    .. "or to have one that is there sent to another URL")
end

operations.define("create_llm", "llm.create", function(self, actor, input)
  return operations.change(self, actor, function()
    local caller, why = permits.allow(self, actor, "create")
    if not caller then return nil, why end
    return may_place_key(self, actor, caller, input)
  end, function()
    local row, why = llms.create(self.database, input, self.clock.text())
    if not row then return nil, why end
    self.audit:done(actor, "llm.create", llms.target(row))
    return llms.view(row, true)
  end)
end)

operations.define("update_llm", "llm.edit", function(self, actor, key, input)
  return operations.change(self, actor, function()
    local caller, why = permits.allow_on(self, actor, "edit", key)
    if not caller then return nil, why end
    return may_place_key(self, actor, caller, input)
  end, function(caller)
    local row, changed = llms.update(self.database, caller.llm, input, self.clock.text())
    if not row then return nil, changed end
    self.audit:done(actor, "llm.edit", llms.target(caller.llm), changed)
    return llms.view(row, true)
  end)
end)

operations.define("delete_llm", "llm.delete", function(self, actor, key)
  return operations.change(self, actor, function()
    return permits.allow_on(self, actor, "delete", key)
  end, function(caller)
    llms.delete(self.database, caller.llm)
    self.audit:done(actor, "llm.delete", llms.target(caller.llm))
    return llms.view(caller.llm, rbac.allows(caller.rights, "edit"))
  end)
end)
