-- What a caller may do. A role is what its name says and nothing else; admin stands for all of them, in a grant as in
-- a deny. A binding gives (allow) or takes (deny) one role, to a user, a service account or a group, on one LLM or on
-- all; a deny overrides every allow, wherever each of them comes from.
--
-- Rights are a number: for each role two bits, "allowed" and "denied", one for each binding (the column bit of the
-- table); those of several bindings are or'ed together.
--   rbac.allows(rights, role)
--   rbac.allows_any(rights)     whether there is a role that they allow
--   rbac.ROLES                  in the order of the bits
--   rbac.is_role(text)
local rbac = {}

rbac.ROLES = { "view", "run", "create", "edit", "delete", "admin" }

local ALLOW, DENY = {}, {}
for i, role in ipairs(rbac.ROLES) do ALLOW[role], DENY[role] = 1 << 2 * (i - 1), 2 << 2 * (i - 1) end
for _, role in ipairs(rbac.ROLES) do
  if role ~= "admin" then ALLOW[role], DENY[role] = ALLOW[role] | ALLOW.admin, DENY[role] | DENY.admin end
end

-- What whoever holds the database itself has.
rbac.EVERYTHING = ALLOW.admin

function rbac.is_role(text)
  return DENY[text] ~= nil
end

function rbac.allows(rights, role)
  return rights & ALLOW[role] ~= 0 and rights & DENY[role] == 0
end

function rbac.allows_any(rights)
  for _, role in ipairs(rbac.ROLES) do
    if rbac.allows(rights, role) then return true end
  end
  return false
end

return rbac
