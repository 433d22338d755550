-- Changes take effect on the very next request: random interleavings of everything that changes a permission with
-- probes and inference, against a model that knows nothing of the implementation. Not one answer may be wrong.
-- RANDOM_STEPS (10000 in all) and RANDOM_SEED change how much and which.
local databases = require "spec.support.central_db"

local STEPS = tonumber(os.getenv("RANDOM_STEPS") or 10000)
local SEED = tonumber(os.getenv("RANDOM_SEED") or 20260131)

local ROLES = { "view", "run", "create", "edit", "delete", "admin" }

-- ---- the model: sets and loops, as the README says it --------------------------------------------------------------

local function new_model()
  return { users = {}, groups = {}, llms = {}, tokens = {}, bindings = {} }
end

local function subjects_of(model, user)
  local all = { [user.id] = true }
  for _, group in pairs(model.groups) do
    if group.members[user.id] then all[group.id] = true end
  end
  return all
end

-- What a request gets: a status. llm: the model's LLM or nil.
local function expected(model, now, token, role, llm)
  if not token or token.revoked or not model.users[token.user] then return 401 end
  if token.expires and token.expires <= now then return 401 end
  local user = model.users[token.user]
  if user.disabled then return 401 end
  local who, allowed = subjects_of(model, user), false
  for _, binding in pairs(model.bindings) do
    local fits = who[binding.subject] and (binding.role == role or binding.role == "admin")
      and (binding.llm == "*" or (llm and binding.llm == llm.id))
    if fits and binding.effect == "deny" then return 403 end
    if fits then allowed = true end
  end
  if not allowed then return 403 end
  if not llm then return 404 end
  if not llm.enabled then return 403 end
  if role == "run" then return llm.paused and 503 or "forward" end
  return 200
end

-- ---- moves ---------------------------------------------------------------------------------------------------------

local function pick(map)
  local keys = {}
  for key in pairs(map) do keys[#keys + 1] = key end
  table.sort(keys)
  if #keys == 0 then return nil end
  return map[keys[math.random(#keys)]]
end

local function chance(share) return math.random() < share end

local function count(map)
  local n = 0
  for _ in pairs(map) do n = n + 1 end
  return n
end

local serial = 0
local function fresh(word)
  serial = serial + 1
  return word .. "-" .. serial
end

local moves = {}

function moves.create_user(model, c)
  if count(model.users) >= 6 then return end
  local user = c:service_as_admin("create_user", { name = fresh("user"), kind = chance(0.3) and "service" or "user" })
  model.users[user.id] = { id = user.id, name = user.name, disabled = false }
end

function moves.create_group(model, c)
  if count(model.groups) >= 4 then return end
  local group = c:service_as_admin("create_group", { name = fresh("group") })
  model.groups[group.id] = { id = group.id, name = group.name, members = {} }
end

function moves.create_llm(model, c)
  if count(model.llms) >= 4 then return end
  local llm = c:llm(fresh("llm"))
  model.llms[llm.id] = { id = llm.id, name = llm.name, enabled = true, paused = false }
end

function moves.create_token(model, c)
  local user = pick(model.users)
  if not user or count(model.tokens) >= 8 then return end
  local life = chance(0.4) and math.random(1, 60) or nil
  local made = c:service_as_admin("create_token", { user = user.name, expiresIn = life })
  model.tokens[made.id] = {
    id = made.id, text = made.token, user = user.id, expires = life and c.clock.now + life or nil,
  }
end

function moves.bind(model, c)
  local to_group = chance(0.4)
  local subject = pick(to_group and model.groups or model.users)
  local llm = chance(0.7) and pick(model.llms) or nil
  if not subject then return end
  -- view and run are what the probes of this spec ask for.
  local role = chance(0.7) and ROLES[math.random(2)] or ROLES[math.random(#ROLES)]
  if role == "create" then llm = nil end
  local effect = chance(0.25) and "deny" or "allow"
  local binding = c:grant{
    [to_group and "group" or "user"] = chance(0.5) and subject.id or subject.name, role = role, effect = effect,
    llm = llm and (chance(0.5) and llm.id or llm.name) or nil,
  }
  model.bindings[binding.id] = {
    id = binding.id, subject = subject.id, role = role, effect = effect, llm = llm and llm.id or "*",
  }
end

function moves.unbind(model, c)
  local binding = pick(model.bindings)
  if not binding then return end
  if chance(0.5) then
    c:service_as_admin("delete_binding", binding.id)
  else
    local llm, group = model.llms[binding.llm], model.groups[binding.subject]
    c:revoke{
      [group and "group" or "user"] = (group or model.users[binding.subject]).name, role = binding.role,
      effect = binding.effect, llm = llm and (chance(0.5) and llm.id or llm.name) or nil,
    }
  end
  model.bindings[binding.id] = nil
end

function moves.join(model, c)
  local group, user = pick(model.groups), pick(model.users)
  if not group or not user then return end
  c:service_as_admin("add_member", group.name, user.name)
  group.members[user.id] = true
end

function moves.leave(model, c)
  local group = pick(model.groups)
  local id = group and next(group.members)
  if not id then return end
  c:service_as_admin("remove_member", group.name, id)
  group.members[id] = nil
end

function moves.rename(model, c)
  local kind = pick{ a = "llm", b = "user", c = "group" }
  local object = pick(model[kind .. "s"])
  if not object then return end
  object.name = fresh(kind)
  c:service_as_admin("update_" .. kind, object.id, { name = object.name })
end

-- Two LLMs change their names: whoever remembers a name remembers the wrong one.
function moves.swap_names(model, c)
  local a, b = pick(model.llms), pick(model.llms)
  if not a or a == b then return end
  c:service_as_admin("update_llm", a.id, { name = fresh("between") })
  c:service_as_admin("update_llm", b.name, { name = a.name })
  c:service_as_admin("update_llm", a.id, { name = b.name })
  a.name, b.name = b.name, a.name
end

function moves.toggle(model, c)
  local llm = pick(model.llms)
  if not llm then return end
  local field = chance(0.5) and "enabled" or "paused"
  llm[field] = not llm[field]
  c:service_as_admin("update_llm", llm.name, { [field] = llm[field] })
end

function moves.disable(model, c)
  local user = pick(model.users)
  if not user then return end
  user.disabled = not user.disabled
  c:service_as_admin("update_user", user.name, { disabled = user.disabled })
end

function moves.revoke_token(model, c)
  local token = pick(model.tokens)
  if not token then return end
  if not model.users[token.user] then -- went with its user
    model.tokens[token.id] = nil
    return
  end
  c:service_as_admin("revoke_token", token.id)
  token.revoked = true
  if chance(0.5) then model.tokens[token.id] = nil end
end

function moves.pass_time(_, c)
  c.clock.now = c.clock.now + math.random(1, 20)
  if chance(0.3) then c.app:tick() end
end

local function forget(model, id)
  for key, binding in pairs(model.bindings) do
    if binding.subject == id or binding.llm == id then model.bindings[key] = nil end
  end
  for _, group in pairs(model.groups) do group.members[id] = nil end
end

function moves.delete(model, c)
  if chance(0.5) then return end
  local kind = pick{ a = "llm", b = "user", c = "group" }
  local object = pick(model[kind .. "s"])
  if not object then return end
  c:service_as_admin("delete_" .. kind, chance(0.5) and object.id or object.name)
  forget(model, object.id)
  model[kind .. "s"][object.id] = nil
  -- The old name on a new LLM: nothing is inherited.
  if kind == "llm" and chance(0.5) then
    local llm = c:llm(object.name)
    model.llms[llm.id] = { id = llm.id, name = llm.name, enabled = true, paused = false }
  end
end

local NAMES = {}
for name in pairs(moves) do NAMES[#NAMES + 1] = name end
table.sort(NAMES)

-- ---- probes --------------------------------------------------------------------------------------------------------

local function escape(text)
  return (text:gsub("[^%w%-._~]", function(byte) return ("%%%02X"):format(byte:byte()) end))
end

local function one_probe(model, c)
  local token = pick(model.tokens)
  local llm = chance(0.9) and pick(model.llms) or nil
  local key = llm and (chance(0.5) and llm.id or llm.name) or "nobody-knows-this"
  local text = token and (chance(0.95) and token.text or token.text:sub(1, -2) .. (token.text:sub(-1) == "0" and "1"
    or "0"))
  local known = token and text == token.text and token or nil
  local want = expected(model, c.clock.now, known, "view", llm)
  local got = c:ask("HEAD", "/api/v1/llms/" .. escape(key), text).status
  if got ~= want then return ("probe of %s: %s instead of %s"):format(key, got, want) end
  want = expected(model, c.clock.now, known, "run", llm)
  local reply
  if chance(0.5) then
    reply = c:ask("POST", "/v1/chat/completions", text, "{}", key)
  else
    reply = c:ask("POST", "/api/v1/llms/" .. escape(key) .. "/infer", text, "{}")
  end
  got = reply.forward and "forward" or reply.status
  if got ~= want then return ("run of %s: %s instead of %s"):format(key, got, want) end
  if reply.forward and reply.forward.llm ~= llm.id then return "the wrong LLM" end
end

-- Every token on every LLM, with one process.
local function sweep(model, c)
  for _, token in pairs(model.tokens) do
    for _, llm in pairs(model.llms) do
      local want = expected(model, c.clock.now, token, "view", llm)
      local got = c:ask("HEAD", "/api/v1/llms/" .. llm.id, token.text).status
      if got ~= want then return ("sweep: %s instead of %s"):format(got, want) end
    end
  end
end

describe("The central under random changes", function()
  teardown(databases.stop)
  after_each(databases.close)

  for _, kind in ipairs(databases.KINDS) do
    it(("never answers wrongly: %d steps on %s"):format(STEPS // 2, kind), function()
      math.randomseed(SEED)
      local c, model, answers = databases.central(kind), new_model(), {}
      -- The other process, which is told nothing.
      local other = databases.central(c.url, { shared = true })
      other.clock = c.clock
      local here = c
      for step = 1, STEPS // 2 do
        local move = NAMES[math.random(#NAMES)]
        -- For a while all is done by one of them: what it remembers only its own changes make untrue.
        if chance(0.1) then here = here == c and other or c end
        moves[move](model, chance(0.8) and here or c)
        local wrong = step % 25 < 2 and sweep(model, here) or nil
        for _ = 1, 2 do wrong = wrong or one_probe(model, chance(0.7) and here or other) end
        if wrong then error(("seed %d, step %d, after %s: %s"):format(SEED, step, move, wrong), 0) end
        answers[move] = (answers[move] or 0) + 1
      end
      for _, name in ipairs(NAMES) do assert.is_true((answers[name] or 0) > 10, name) end
    end)
  end
end)
