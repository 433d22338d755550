-- The commands of `deputy central` but init and serve: their arguments, which operation each of them is, and what is
-- shown. A command is { group, verb, summary, arguments = function(command), run = function(backend, show, o) }; run
-- returns nothing, or nil and a problem. Operations are those of service.lua (admin_backend.lua says where).
local cjson = require "cjson"
local admin_backend = require "central.admin_backend"
local dry_run = require "central.admin_dry_run"
local nearest = require "deputy.nearest"
local problem = require "central.problem"
local rbac = require "central.rbac"

local commands = {}

local function define(group, verb, summary, arguments, run)
  commands[#commands + 1] = { group = group, verb = verb, summary = summary, arguments = arguments, run = run }
end

-- ---- what many have ------------------------------------------------------------------------------------------------

local function nothing() end

local function named(word)
  return function(command) command:argument(word, "Its name or id.") end
end

local function limited(command, default)
  command:option("--limit", "At most so many."):argname("N"):default(default or "1000"):convert(function(text)
    local n = math.tointeger(tonumber(text))
    return n and n > 0 and n or nil, "--limit: expected a whole number above 0"
  end)
end

local function with_dry_run(command)
  command:flag("-n --dry-run", "Only say what would go.")
end

-- What may leave nobody who is admin of all LLMs.
local function with_force(command)
  command:flag("--force", "Even if nobody is left who is admin of all LLMs.")
end

-- fill: what is derived from a row for its columns; scripts get the rows as they are.
local function list(operation, columns, options_of, fill)
  return function(backend, show, o)
    local rows, more = admin_backend.all(backend, operation, o.limit, options_of and options_of(o) or {})
    if not rows then return nil, more end
    for _, row in ipairs(fill and not o.json and rows or {}) do fill(row) end
    show:list(columns, rows, more)
    return true
  end
end

local function shown(operation, argument)
  return function(backend, show, o)
    local object, why = backend[operation](backend, o[argument])
    if not object then return nil, why end
    show:object(object)
    return true
  end
end

-- For what destroys: says what would go, or does it.
local function destroys(plan, act, text)
  return function(backend, show, o)
    if o.dry_run then
      local planned, why = plan(backend, o)
      if not planned then return nil, why end
      show:word(dry_run.text(planned), dry_run.object(planned))
      return true
    end
    local object, why = act(backend, o)
    if not object then return nil, why end
    show:done(object, "%s", text(o, object))
    return true
  end
end

-- ---- LLMs ----------------------------------------------------------------------------------------------------------

local function absolute(path, folder)
  return path:sub(1, 1) ~= "/" and folder and folder .. "/" .. path or path
end

local function upstream(command)
  command:option("--model", "What the upstream calls it (default: the name)."):argname("MODEL")
  command:option("--description", "For people."):argname("TEXT")
  command:option("--type", "How to speak to the upstream (openai)."):argname("TYPE")
  command:option("--api-key-env", "The environment variable of the server that holds the upstream's key.")
    :argname("NAME")
  command:option("--api-key-file", "The file that the server reads the upstream's key from."):argname("FILE")
  command:option("--api-key"):hidden(true):convert(function()
    return nil, "--api-key: everybody can read arguments: use --api-key-env or --api-key-file"
  end)
end

local function llm_input(o)
  return {
    url = o.upstream, model = o.model, description = o.description, type = o.type, apiKeyEnv = o.api_key_env,
    apiKeyFile = o.api_key_file and absolute(o.api_key_file, o.folder),
  }
end

define("llm", "create", "Add an LLM; prints its id.", function(command)
  command:argument("name", "What callers call it.")
  command:option("--url", "Where its upstream is, as in https://api.example/v1. (That of a central goes before "
    .. "'llm', or into DEPUTY_CENTRAL_URL.)"):argname("URL"):count(1):target("upstream")
  upstream(command)
  command:flag("--disabled", "Off for everybody, until it is enabled.")
  command:flag("--paused", "Probes are answered, inference is not, until it is resumed.")
end, function(backend, show, o)
  local input = llm_input(o)
  input.name = o.name
  if o.disabled then input.enabled = false end
  if o.paused then input.paused = true end
  local llm, why = backend:create_llm(input)
  if not llm then return nil, why end
  show:word(llm.id, llm)
  return true
end)

local LLMS = {
  { "name", "NAME" }, { "id", "ID" }, { "enabled", "ENABLED" }, { "paused", "PAUSED" }, { "model", "MODEL" },
  { "url", "URL" }, { "description", "DESCRIPTION" },
}
define("llm", "list", "The LLMs that you may view.", limited, list("list_llms", LLMS))
define("llm", "show", "All about one LLM.", named "llm", shown("get_llm", "llm"))

define("llm", "edit", "Change an LLM's description or upstream.", function(command)
  named "llm" (command)
  command:option("--url", "Where its upstream is. (That of a central goes before 'llm', or into "
    .. "DEPUTY_CENTRAL_URL.)"):argname("URL"):target("upstream")
  upstream(command)
  command:flag("--no-api-key", "The upstream needs no key any more.")
end, function(backend, show, o)
  local input = llm_input(o)
  if o.no_api_key then input.apiKeyEnv, input.apiKeyFile = cjson.null, cjson.null end
  if next(input) == nil then return nil, { message = "nothing to change was given", usage = true } end
  local llm, why = backend:update_llm(o.llm, input)
  if not llm then return nil, why end
  show:done(llm, "%s is changed", llm.name)
  return true
end)

define("llm", "rename", "Give an LLM another name; permissions stay.", function(command)
  command:argument("llm", "Its name or id.")
  command:argument("new_name", "The name from now on.")
end, function(backend, show, o)
  local llm, why = backend:update_llm(o.llm, { name = o.new_name })
  if not llm then return nil, why end
  show:done(llm, "%s is called %s now", o.llm, llm.name)
  return true
end)

local function llm_switch(verb, summary, input, text)
  define("llm", verb, summary, named "llm", function(backend, show, o)
    local llm, why = backend:update_llm(o.llm, input)
    if not llm then return nil, why end
    show:done(llm, "%s is %s", llm.name, text)
    return true
  end)
end
llm_switch("pause", "Stop inference (503); probes are still answered.", { paused = true }, "paused")
llm_switch("resume", "End a pause.", { paused = false }, "running")
llm_switch("enable", "Let callers see it again.", { enabled = true }, "enabled")
llm_switch("disable", "Off for everybody: probes are 403, and no stand-in answers.", { enabled = false }, "disabled")

define("llm", "delete", "Delete an LLM, with the permissions on it.", function(command)
  named "llm" (command)
  with_dry_run(command)
end, destroys(function(backend, o) return dry_run.llm(backend, o.llm) end,
  function(backend, o) return backend:delete_llm(o.llm) end,
  function(_, llm) return llm.name .. " is deleted" end))

-- ---- users and service accounts ------------------------------------------------------------------------------------

local PEOPLE = {
  { "name", "NAME" }, { "id", "ID" }, { "kind", "KIND" }, { "disabled", "DISABLED" }, { "createdAt", "CREATED" },
}

local function define_people(group, kind, what)
  define(group, "create", "Add a " .. what .. "; prints the id.", function(command)
    command:argument("name", "Its name.")
  end, function(backend, show, o)
    local user, why = backend:create_user{ name = o.name, kind = kind }
    if not user then return nil, why end
    show:word(user.id, user)
    return true
  end)
  define(group, "list", "All of them.", limited, list("list_users", PEOPLE, function() return { kind = kind } end))
  define(group, "show", "One of them, with its groups.", named "user", shown("get_user", "user"))
  define(group, "rename", "Give it another name.", function(command)
    command:argument("user", "Its name or id.")
    command:argument("new_name", "The name from now on.")
  end, function(backend, show, o)
    local user, why = backend:update_user(o.user, { name = o.new_name })
    if not user then return nil, why end
    show:done(user, "%s is called %s now", o.user, user.name)
    return true
  end)
  for verb, flag in pairs{ enable = false, disable = true } do
    define(group, verb, flag and "Refuse all its tokens, until it is enabled." or "Take its tokens again.",
      function(command)
        named "user" (command)
        if flag then with_force(command) end
      end, function(backend, show, o)
        local user, why = backend:update_user(o.user, { disabled = flag })
        if not user then return nil, why end
        show:done(user, "%s is %sd", user.name, verb)
        return true
      end)
  end
  define(group, "delete", "Delete it, with its tokens and permissions.", function(command)
    named "user" (command)
    with_dry_run(command)
    with_force(command)
  end, destroys(function(backend, o) return dry_run.user(backend, o.user) end,
    function(backend, o) return backend:delete_user(o.user) end,
    function(_, user) return user.name .. " is deleted" end))
end
define_people("user", "user", "user")
define_people("service-account", "service", "service account")

-- ---- groups --------------------------------------------------------------------------------------------------------

define("group", "create", "Add a group; prints its id.", function(command)
  command:argument("name", "Its name.")
end, function(backend, show, o)
  local group, why = backend:create_group{ name = o.name }
  if not group then return nil, why end
  show:word(group.id, group)
  return true
end)

local GROUPS = { { "name", "NAME" }, { "id", "ID" }, { "createdAt", "CREATED" } }
define("group", "list", "All groups.", limited, list("list_groups", GROUPS))

define("group", "members", "Who is in a group.", function(command)
  named "group" (command)
  limited(command)
end, function(backend, show, o)
  local rows, more = admin_backend.all(backend, "list_members", o.limit, o.group, {})
  if not rows then return nil, more end
  show:list(PEOPLE, rows, more)
  return true
end)

define("group", "rename", "Give a group another name.", function(command)
  command:argument("group", "Its name or id.")
  command:argument("new_name", "The name from now on.")
end, function(backend, show, o)
  local group, why = backend:update_group(o.group, { name = o.new_name })
  if not group then return nil, why end
  show:done(group, "%s is called %s now", o.group, group.name)
  return true
end)

local function membership(command)
  command:argument("group", "The group's name or id.")
  command:argument("user", "The user's name or id.")
end

define("group", "add", "Put a user into a group.", function(command)
  membership(command)
  with_force(command)
end, function(backend, show, o)
  local result, why = backend:add_member(o.group, o.user)
  if not result then return nil, why end
  show:done(result, result.changed and "%s is in %s now" or "%s was in %s already", result.member.name,
    result.group.name)
  return true
end)

define("group", "remove", "Take a user out of a group.", function(command)
  membership(command)
  with_dry_run(command)
  with_force(command)
end, destroys(function(backend, o) return dry_run.member(backend, o.group, o.user) end,
  function(backend, o) return backend:remove_member(o.group, o.user) end,
  function(o) return ("%s is not in %s any more"):format(o.user, o.group) end))

define("group", "delete", "Delete a group, with its permissions; its users stay.", function(command)
  named "group" (command)
  with_dry_run(command)
  with_force(command)
end, destroys(function(backend, o) return dry_run.group(backend, o.group) end,
  function(backend, o) return backend:delete_group(o.group) end,
  function(_, group) return group.name .. " is deleted" end))

-- ---- tokens --------------------------------------------------------------------------------------------------------

local SECONDS = { m = 60, h = 3600, d = 86400, w = 604800 }

-- "30d" is from now on, "2026-12-31" the end of what comes before that day.
local function expiry(text)
  local n, unit = text:match("^(%d%d?%d?%d?%d?)([mhdw])$")
  if n then return { expiresIn = math.tointeger(tonumber(n)) * SECONDS[unit] } end
  if text:find("^%d%d%d%d%-%d%d%-%d%d$") then return { expiresAt = text .. "T00:00:00Z" } end
  if text:find("^%d%d%d%d%-%d%d%-%d%dT") then return { expiresAt = text } end
  return nil, ("--expires: expected as in 30d, 12h, 2026-12-31 or 2026-12-31T12:00:00Z, got '%s'"):format(text)
end

define("token", "create", "Make a token; prints it, once.", function(command)
  command:option("--user", "Whose it is (a service account too)."):argname("NAME"):count(1)
  command:option("--name", "What it is for."):argname("TEXT")
  command:option("--expires", "30d, 12h, 2026-12-31 or 2026-12-31T12:00:00Z; never without."):argname("TIME")
    :convert(expiry)
end, function(backend, show, o)
  local expires = o.expires or {}
  local token, why = backend:create_token{
    user = o.user, name = o.name, expiresIn = expires.expiresIn, expiresAt = expires.expiresAt,
  }
  if not token then return nil, why end
  show:word(token.token, token)
  return true
end)

local TOKENS = {
  { "id", "ID" }, { "user", "USER" }, { "name", "NAME" }, { "createdAt", "CREATED" }, { "expiresAt", "EXPIRES" },
  { "lastUsedAt", "LAST USED" }, { "revokedAt", "REVOKED" },
}
define("token", "list", "Tokens, without what is secret of them.", function(command)
  command:option("--user", "Only this user's."):argname("NAME")
  limited(command)
end, list("list_tokens", TOKENS, function(o) return { user = o.user } end))

-- Whoever has found a token may hand it in whole.
local function token_id(text) return text:match("^dpt_([a-z0-9]+)_[a-z0-9]+$") or text end

define("token", "revoke", "Revoke a token, from the next request on.", function(command)
  command:argument("id", "Its id, as token list shows it; or the token itself."):convert(token_id)
  with_dry_run(command)
  with_force(command)
end, destroys(function(backend, o) return dry_run.token(backend, o.id) end,
  function(backend, o) return backend:revoke_token(o.id) end,
  function(o) return o.id .. " is revoked" end))

-- ---- permissions ---------------------------------------------------------------------------------------------------

local function binding(command)
  command:mutex(
    command:option("--user", "A user or service account."):argname("NAME"),
    command:option("--group", "A group."):argname("NAME"))
  command:option("--role", "view, run, create, edit, delete or admin; may be repeated."):argname("ROLE"):count("1+")
  command:option("--llm", "On this one (default: on all)."):argname("NAME")
end

-- One input for each role. A role that is none is told here: before those that stand before it are given.
local function inputs_of(o, effect)
  if not o.user and not o.group then return nil, { message = "--user or --group is needed", usage = true } end
  local inputs = {}
  for i, role in ipairs(o.role) do
    if not rbac.is_role(role) then
      return nil, problem(400, "invalid_request", "role: not a known word: %s", nearest.suggest(role, rbac.ROLES))
    end
    inputs[i] = { user = o.user, group = o.group, role = role, llm = o.llm, effect = effect }
  end
  return inputs
end

local function each_role(operation, effect_of, text)
  return function(backend, show, o)
    local inputs, why = inputs_of(o, effect_of(o))
    if not inputs then return nil, why end
    for _, input in ipairs(inputs) do
      local object
      object, why = backend[operation](backend, input)
      if not object then return nil, why end
      show:done(object, text, object.subject, object.role, object.llmId and object.llm or "all LLMs")
    end
    return true
  end
end

define(nil, "grant", "Allow a role, on all LLMs or on one.", binding,
  each_role("grant", function() return nil end, "%s has %s on %s"))
define(nil, "deny", "Deny a role, whatever allows it.", function(command)
  binding(command)
  with_force(command)
end,
  each_role("grant", function() return "deny" end, "%s is denied %s on %s"))

define(nil, "revoke", "Take back a grant, or with --deny a denial.", function(command)
  binding(command)
  command:flag("--deny", "Take back a denial.")
  with_dry_run(command)
  with_force(command)
end, function(backend, show, o)
  local effect = o.deny and "deny" or nil
  if not o.dry_run then
    return each_role("revoke", function() return effect end, "taken from %s: %s on %s")(backend, show, o)
  end
  local inputs, why = inputs_of(o, effect)
  if not inputs then return nil, why end
  local plan
  plan, why = dry_run.bindings(backend, inputs)
  if not plan then return nil, why end
  show:word(dry_run.text(plan), dry_run.object(plan))
  return true
end)

local BINDINGS = {
  { "subject", "WHO" }, { "subjectKind", "KIND" }, { "effect", "EFFECT" }, { "role", "ROLE" }, { "llm", "LLM" },
  { "createdAt", "CREATED" }, { "createdBy", "BY" }, { "id", "ID" },
}
define("bindings", "list", "Who may do what.", function(command)
  command:mutex(
    command:option("--user", "Only this user's own."):argname("NAME"),
    command:option("--group", "Only this group's."):argname("NAME"))
  command:option("--llm", "Only those on this LLM alone."):argname("NAME")
  limited(command)
end, list("list_bindings", BINDINGS, function(o) return { user = o.user, group = o.group, llm = o.llm } end))

-- ---- the rest ------------------------------------------------------------------------------------------------------

local AUDIT = {
  { "at", "AT" }, { "actor", "WHO" }, { "peer", "FROM" }, { "action", "ACTION" }, { "target", "WHAT" },
  { "outcome", "OUTCOME" }, { "code", "CODE" }, { "times", "TIMES" }, { "detail", "DETAIL" },
}

-- "deny run on claude", "user=alice expiresAt=...": ids are for scripts.
local function say_detail(row)
  local detail, words = type(row.detail) == "table" and row.detail or {}, {}
  if detail.effect and detail.role then
    row.detail = ("%s %s on %s"):format(detail.effect, detail.role,
      detail.llm and detail.llm ~= "*" and detail.llm or "all LLMs")
    return
  end
  for key, value in pairs(detail) do
    if not key:find("Id$") and type(value) ~= "table" then words[#words + 1] = key .. "=" .. tostring(value) end
  end
  table.sort(words)
  row.detail = table.concat(words, " ")
end

define(nil, "audit", "Who did what to what, and each refusal; the latest first.", function(command)
  limited(command, "100")
end, list("list_audit", AUDIT, nil, say_detail))

define(nil, "whoami", "Who the token is, and what it may.", nothing, function(backend, show)
  local object, why = backend:whoami()
  if not object then return nil, why end
  show:object(object)
  return true
end)

return commands
