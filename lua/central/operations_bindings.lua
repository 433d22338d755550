-- The operations on bindings.
local bindings = require "central.bindings"
local fields = require "central.fields"
local llms = require "central.llms"
local operations = require "central.operations"
local permits = require "central.permits"
local subjects = require "central.subjects"

local function llm_key_of(input)
  local key = type(input) == "table" and input.llm
  if type(key) == "string" and not fields.name_problem(key) then return key end
end

operations.define("list_bindings", "binding.list", function(self, actor, options)
  local caller, why = permits.allow_binding(self, actor, llm_key_of(options))
  if not caller then return nil, why end
  local values
  local key = { kind = "key" }
  values, why = operations.list_options(options, { user = key, group = key, llm = key })
  if not values then return nil, why end
  local subject, llm
  if values.user or values.group then
    subject, why = subjects.find(self.database, values.user or values.group, values.user and "user" or "group")
    if not subject then return nil, why end
  end
  if values.llm then
    llm = llms.find(self.database, values.llm)
    if not llm then return nil, permits.no_llm(values.llm) end
  end
  local rows = bindings.list(self.database, subject, llm, values.after, values.limit + 1)
  return operations.page(rows, values.limit, bindings.view, 1)
end)

-- act(values, subject, llm) with what input names; llm is nil for all.
local function change_named(self, actor, input, act)
  local function permit() return permits.allow_binding(self, actor, llm_key_of(input)) end
  return operations.change_rights(self, actor, permit, function()
    local values, why = bindings.read(input)
    if not values then return nil, why end
    local subject, llm = bindings.resolve(self.database, values)
    if not subject then return nil, llm end
    return act(values, subject, llm)
  end)
end

local function take_back(self, actor, row)
  bindings.delete(self.database, row)
  self.audit:done(actor, "binding.revoke", bindings.target(row))
  return bindings.view(row)
end

operations.define("grant", "binding.grant", function(self, actor, input)
  return change_named(self, actor, input, function(values, subject, llm)
    local row, new = bindings.grant(self.database, values, subject, llm, actor.name, self.clock.text())
    if not row then return nil, new end
    if new then self.audit:done(actor, "binding.grant", bindings.target(row)) end
    local object = bindings.view(row)
    object.new = new
    return object
  end)
end)

operations.define("revoke", "binding.revoke", function(self, actor, input)
  return change_named(self, actor, input, function(values, subject, llm)
    local row, why = bindings.exact(self.database, values, subject, llm)
    if not row then return nil, why end
    return take_back(self, actor, row)
  end)
end)

operations.define("delete_binding", "binding.revoke", function(self, actor, id)
  local wrong = operations.key_problem(id)
  if wrong then return nil, wrong end
  local row, missing
  local function permit()
    row, missing = bindings.find(self.database, id)
    local caller, why = permits.allow_binding(self, actor, row and row[bindings.LLM_ID])
    -- In the words for one that does not exist.
    return caller, why and why.status == 403 and permits.forbidden("admin", false) or why
  end
  return operations.change_rights(self, actor, permit, function()
    if not row then return nil, missing end
    return take_back(self, actor, row)
  end)
end)
