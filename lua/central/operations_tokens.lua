-- The operations on tokens.
local operations = require "central.operations"
local permits = require "central.permits"
local rbac = require "central.rbac"
local subjects = require "central.subjects"
local tokens = require "central.tokens"

-- Everybody sees and revokes his own; an admin everybody's. Only admins make them: whoever has found a token could
-- otherwise give himself one that never expires.
operations.define("list_tokens", "token.list", function(self, actor, options)
  local values, why = operations.list_options(options, { user = { kind = "key" } })
  if not values then return nil, why end
  local caller
  caller, why = permits.standing(self, actor)
  if not caller then return nil, why end
  local is_admin = rbac.allows(caller.rights, "admin")
  local own = actor.id and (values.user == actor.id or values.user == actor.name)
  if not is_admin and values.user and not own then return nil, permits.forbidden("admin", false) end
  local user
  if values.user and not own then
    user, why = subjects.find(self.database, values.user, "user")
    if not user then return nil, why end
  end
  local user_id = user and user[subjects.ID] or ((own or not is_admin) and actor.id) or nil
  local rows = tokens.list(self.database, user_id, values.after, values.limit + 1)
  return operations.page(rows, values.limit, tokens.view, 1)
end)

operations.define("create_token", "token.create", function(self, actor, input)
  return operations.change(self, actor, permits.as_admin(self, actor), function()
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

operations.define("revoke_token", "token.revoke", function(self, actor, id)
  local wrong = operations.key_problem(id)
  if wrong then return nil, wrong end
  local row, missing
  local function permit()
    local caller, why = permits.standing(self, actor)
    if not caller then return nil, why end
    row, missing = tokens.find(self.database, id)
    if rbac.allows(caller.rights, "admin") or (row and row[3] == actor.id) then return caller end
    return nil, permits.forbidden("admin", false)
  end
  return operations.change_rights(self, actor, permit, function()
    if not row then return nil, missing end
    if tokens.revoke(self.database, row, self.clock.text()) then
      self.audit:done(actor, "token.revoke", tokens.target(row), { user = row[4] })
    end
    return tokens.view((tokens.find(self.database, id)))
  end)
end)
