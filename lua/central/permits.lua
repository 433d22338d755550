-- Who may do what, and the words for whoever may not. self: the service (service.lua).
--
--   local caller, why = permits.allow(self, actor, role)       with the role on all LLMs; permits.admin(self, actor)
--   permits.allow_on(self, actor, role, key)                   on one LLM, which is in caller.llm then
--   permits.allow_binding(self, actor, key)                    to change bindings: key names their LLM, nil all
--   permits.standing(self, actor, key)                         whatever he may; caller.llm is the LLM or nil
-- Each returns the caller with his rights (rbac.lua), looked up now, or nil and a problem.
--   permits.as_admin(self, actor)      a function that asks permits.admin, for operations.change
--   permits.unauthenticated(code), permits.forbidden(role, on_llm), permits.no_llm(key)     the problems
local fields = require "central.fields"
local llms = require "central.llms"
local problem = require "central.problem"
local rbac = require "central.rbac"

local permits = {}

local AUTHENTICATION = {
  missing_token = "expected a token: Authorization: Bearer dpt_...",
  invalid_token = "the token is not known here",
  expired_token = "the token has expired: ask for a new one",
  revoked_token = "the token was revoked",
  disabled_user = "the token's user is disabled",
}

function permits.unauthenticated(code)
  return problem(401, code, AUTHENTICATION[code])
end

-- Says nothing of the LLM: the same whether it exists or not.
function permits.forbidden(role, on_llm)
  if on_llm then
    return problem(403, "permission_denied", 'you need the role "%s" on this LLM; without it nobody is told whether '
      .. "it exists", role)
  end
  return problem(403, "permission_denied", 'you need the role "%s" on all LLMs', role)
end

function permits.no_llm(key)
  return problem(404, "llm_not_found", 'no LLM "%s"', key)
end

function permits.standing(self, actor, key)
  if actor.kind == "local" then
    return { rights = rbac.EVERYTHING, llm = key and llms.find(self.database, key) or nil }
  end
  local caller, code = self.auth:standing(actor.token_id, key)
  if not caller then return nil, permits.unauthenticated(code) end
  return caller
end

-- The caller with his rights, when he has the role on all LLMs.
function permits.allow(self, actor, role)
  local caller, why = permits.standing(self, actor)
  if not caller then return nil, why end
  if not rbac.allows(caller.rights, role) then return nil, permits.forbidden(role, false) end
  return caller
end

function permits.admin(self, actor) return permits.allow(self, actor, "admin") end

-- The same for one LLM, which is in caller.llm then.
function permits.allow_on(self, actor, role, key)
  local wrong = type(key) ~= "string" and "expected a name or an id" or fields.name_problem(key)
  if wrong then return nil, problem(400, "invalid_request", "the LLM's name or id: " .. wrong) end
  local caller, why = permits.standing(self, actor, key)
  if not caller then return nil, why end
  if not rbac.allows(caller.rights, role) then return nil, permits.forbidden(role, true) end
  if not caller.llm then return nil, permits.no_llm(key) end
  return caller
end

function permits.as_admin(self, actor)
  return function() return permits.admin(self, actor) end
end

-- Bindings on one LLM are also the business of its own admins. Those of all LLMs keep their hold on it, even when one
-- of its admins denies them.
function permits.allow_binding(self, actor, llm_key)
  local caller, why = permits.admin(self, actor)
  if caller or not llm_key then return caller, why end
  return permits.allow_on(self, actor, "admin", llm_key)
end

return permits
