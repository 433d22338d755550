-- The operations on users, service accounts, groups and who is in them.
local operations = require "central.operations"
local permits = require "central.permits"
local problem = require "central.problem"
local subjects = require "central.subjects"

local function find_subject(self, key, wanted)
  local wrong = problem.is(key) and key or operations.key_problem(key)
  if wrong then return nil, wrong end
  return subjects.find(self.database, key, wanted)
end

-- An admin who takes away his own account would lock the door with the key inside.
local function is_own(actor, row, what)
  if actor.id == row[subjects.ID] then
    return problem(409, "own_account", "this is your own account: somebody else has to %s it", what)
  end
end

local function define_subject(word, list_kind)
  operations.define("list_" .. word .. "s", word .. ".list", function(self, actor, options)
    local caller, why = permits.admin(self, actor)
    if not caller then return nil, why end
    local values
    values, why = operations.list_options(options,
      word == "user" and { kind = { kind = "word", of = { "user", "service" } } })
    if not values then return nil, why end
    local rows = subjects.list(self.database, values.kind or list_kind, values.after, values.limit + 1)
    return operations.page(rows, values.limit, subjects.view, subjects.NAME)
  end)

  operations.define("get_" .. word, word .. ".view", function(self, actor, key)
    local caller, why = permits.admin(self, actor)
    if not caller then return nil, why end
    local row
    row, why = find_subject(self, key, word)
    if not row then return nil, why end
    local object = subjects.view(row)
    if word == "user" then
      object.groups = subjects.group_names(self.database, row[subjects.ID])
    end
    return object
  end)

  operations.define("create_" .. word, word .. ".create", function(self, actor, input)
    return operations.change(self, actor, permits.as_admin(self, actor), function()
      local row, why = subjects.create(self.database, word, input, self.clock.text())
      if not row then return nil, why end
      self.audit:done(actor, word .. ".create", subjects.target(row))
      return subjects.view(row)
    end)
  end)

  operations.define("update_" .. word, word .. ".edit", function(self, actor, key, input)
    return operations.change_rights(self, actor, permits.as_admin(self, actor), function()
      local row, why = find_subject(self, key, word)
      if not row then return nil, why end
      local own = type(input) == "table" and input.disabled == true and is_own(actor, row, "disable")
      if own then return nil, own end
      local updated, changed = subjects.update(self.database, row, input, self.clock.text())
      if not updated then return nil, changed end
      self.audit:done(actor, word .. ".edit", subjects.target(row), changed)
      return subjects.view(updated)
    end)
  end)

  operations.define("delete_" .. word, word .. ".delete", function(self, actor, key)
    return operations.change_rights(self, actor, permits.as_admin(self, actor), function()
      local row, why = find_subject(self, key, word)
      if not row then return nil, why end
      local own = is_own(actor, row, "delete")
      if own then return nil, own end
      subjects.delete(self.database, row)
      self.audit:done(actor, word .. ".delete", subjects.target(row))
      return subjects.view(row)
    end)
  end)
end

define_subject("user", nil)
define_subject("group", "group")

operations.define("list_members", "member.list", function(self, actor, key, options)
  local caller, why = permits.admin(self, actor)
  if not caller then return nil, why end
  local values, group
  values, why = operations.list_options(options)
  if not values then return nil, why end
  group, why = find_subject(self, key, "group")
  if not group then return nil, why end
  local rows = subjects.members(self.database, group, values.after, values.limit + 1)
  return operations.page(rows, values.limit, subjects.view, subjects.NAME)
end)

local function change_member(self, actor, group_key, user_key, action, act)
  return operations.change_rights(self, actor, permits.as_admin(self, actor), function()
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
  end)
end

operations.define("add_member", "member.add", function(self, actor, group_key, user_key)
  return change_member(self, actor, group_key, user_key, "member.add", function(group, user)
    return subjects.join(self.database, group, user, self.clock.text())
  end)
end)

operations.define("remove_member", "member.remove", function(self, actor, group_key, user_key)
  return change_member(self, actor, group_key, user_key, "member.remove", function(group, user)
    if subjects.leave(self.database, group, user) then return true end
    return nil, problem(404, "member_not_found", '"%s" is not in "%s"', user[subjects.NAME], group[subjects.NAME])
  end)
end)
