-- What a command that destroys would take with it, without doing it.
--   dry_run.user(backend, name), .group, .llm, .token, .binding     { would =, ... lists }, or nil and a problem
--   dry_run.text(plan)      the same for people;  dry_run.object(plan)  for JSON
local admin_backend = require "central.admin_backend"
local problem = require "central.problem"

local dry_run = {}

local MAX = 100000

local function take(plan, field, backend, name, ...)
  local rows, why = admin_backend.all(backend, name, MAX, ...)
  if not rows then return nil, why end
  plan[field] = rows
  return plan
end

function dry_run.user(backend, key)
  local user, why = backend:get_user(key)
  if not user then return nil, why end
  local plan = { would = ("delete %s %s (%s)"):format(user.kind == "service" and "service account" or "user", user.name,
    user.id), groups = user.groups or {} }
  plan, why = take(plan, "tokens", backend, "list_tokens", { user = user.id })
  if not plan then return nil, why end
  return take(plan, "bindings", backend, "list_bindings", { user = user.id })
end

function dry_run.group(backend, key)
  local group, why = backend:get_group(key)
  if not group then return nil, why end
  local plan = { would = ("delete group %s (%s)"):format(group.name, group.id) }
  plan, why = take(plan, "members", backend, "list_members", group.id, {})
  if not plan then return nil, why end
  return take(plan, "bindings", backend, "list_bindings", { group = group.id })
end

function dry_run.llm(backend, key)
  local llm, why = backend:get_llm(key)
  if not llm then return nil, why end
  return take({ would = ("delete LLM %s (%s)"):format(llm.name, llm.id) }, "bindings", backend, "list_bindings",
    { llm = llm.id })
end

function dry_run.token(backend, id)
  local rows, why = admin_backend.all(backend, "list_tokens", MAX, {})
  if not rows then return nil, why end
  for _, token in ipairs(rows) do
    if token.id == id then
      return { would = ("revoke the token %s of %s%s"):format(id, token.user, token.revokedAt and ", which is revoked "
        .. "already" or ""), tokens = { token } }
    end
  end
  return nil, problem(404, "token_not_found", 'no token "%s"', id)
end

function dry_run.member(backend, group, user)
  local rows, why = admin_backend.all(backend, "list_members", MAX, group, {})
  if not rows then return nil, why end
  for _, member in ipairs(rows) do
    if member.name == user or member.id == user then
      return { would = ("take %s out of the group %s"):format(member.name, group), members = { member } }
    end
  end
  return nil, problem(404, "member_not_found", '"%s" is not in "%s"', user, group)
end

function dry_run.bindings(backend, inputs)
  local plan = { would = "revoke", bindings = {} }
  for _, input in ipairs(inputs) do
    local rows, why = admin_backend.all(backend, "list_bindings", MAX,
      { user = input.user, group = input.group, llm = input.llm })
    if not rows then return nil, why end
    local found
    for _, each in ipairs(rows) do
      local same = each.role == input.role and each.effect == (input.effect or "allow")
      if same and (input.llm ~= nil) == (each.llmId ~= nil) then found = each end
    end
    if not found then
      return nil, problem(404, "binding_not_found", '"%s" has no such binding: %s %s on %s', input.user or input.group,
        input.effect or "allow", input.role, input.llm or "all LLMs")
    end
    plan.bindings[#plan.bindings + 1] = found
  end
  return plan
end

local function binding_text(each)
  return ("%s %s on %s, of %s"):format(each.effect, each.role, each.llmId and each.llm or "all LLMs", each.subject)
end

local LISTS = {
  { "tokens", "token", function(each) return each.id .. (each.name ~= "" and " " .. each.name or "") end },
  { "bindings", "binding", binding_text },
  { "members", "member", function(each) return each.name end },
  { "groups", "group", function(each) return each end },
}

-- Without the lists that are empty: cjson would make objects of them.
function dry_run.object(plan)
  local object = {}
  for field, value in pairs(plan) do
    if type(value) ~= "table" or #value > 0 then object[field] = value end
  end
  return object
end

function dry_run.text(plan)
  local lines = { "would " .. plan.would }
  for _, list in ipairs(LISTS) do
    local rows = plan[list[1]] or {}
    for _, each in ipairs(rows) do lines[#lines + 1] = ("  %s: %s"):format(list[2], list[3](each)) end
  end
  return (table.concat(lines, "\n"):gsub("[^\n%g \128-\255]", "?"))
end

return dry_run
