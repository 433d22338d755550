-- Makes the database of the central's bench: fill.make(path, { llms =, users =, bindings = }) in a new SQLite file, by
-- the central's own tables. Each user has a token. The first ten bindings are the same in every database; the others
-- are spread so that every user and every LLM has its share. Returns two lists of lines "STATUS PATH TOKEN" for
-- probe_load, half of them by id: those ten, and as many users and LLMs as there are, three of four allowed.
local clocks = require "central.clock"
local migrations = require "central.migrations"
local store = require "central.store"
local tokens = require "central.tokens"

local fill = {}

local SQL = {
  subject = "INSERT INTO subjects (id, kind, name, disabled, created_at, updated_at) VALUES (?, ?, ?, 0, ?, ?)",
  token = "INSERT INTO tokens (id, user_id, name, hash, created_at) VALUES (?, ?, ?, ?, ?)",
  llm = [[INSERT INTO llms (id, name, description, type, url, model, enabled, paused, revision, created_at, updated_at)
    VALUES (?, ?, ?, ?, ?, ?, 1, 0, 1, ?, ?)]],
  binding = [[INSERT INTO bindings (id, subject_id, scope, llm_id, role, effect, created_at, created_by)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)]],
}

local TEN = 10
local PROBES = 20000

-- Shaped like those that ids.new makes, for a tenth of the time.
local function id_of(kind, number)
  return ("%s%023d"):format(kind, number)
end

local function make_llms(database, count, now)
  local llms = {}
  for i = 1, count do
    local id, name = id_of("l", i), ("llm-%05d"):format(i)
    database:run(SQL.llm, id, name, "one of many", "openai", "http://127.0.0.1:9/v1", "m", now, now)
    llms[i] = { id = id, name = name }
  end
  return llms
end

local function make_users(database, count, now)
  local users = {}
  for i = 1, count do
    local id = id_of("u", i)
    local token_id, hash, token = tokens.new()
    database:run(SQL.subject, id, "user", ("user-%05d"):format(i), now, now)
    database:run(SQL.token, token_id, id, "bench", hash, now)
    users[i] = { id = id, token = token, may = {} }
  end
  return users
end

-- The n-th binding of a user is on another LLM than the ones before it.
local function make_bindings(database, users, llms, count, now)
  for i = 0, count - 1 do
    local user, nth = users[i % #users + 1], i // #users
    local llm = llms[(i * 7 + nth * 13) % #llms + 1]
    if not user.may[llm] then
      database:run(SQL.binding, id_of("b", i), user.id, llm.id, llm.id, "view", "allow", now, "bench")
      user.may[llm], user.some = true, user.some or llm
    end
  end
end

local function probe(user, llm, by_id)
  return ("%d /api/v1/llms/%s %s"):format(user.may[llm] and 200 or 403, by_id and llm.id or llm.name, user.token)
end

local function probes_of_ten(users)
  local lines = {}
  for i = 1, TEN do lines[i] = probe(users[i], users[i].some, i % 2 == 0) end
  return lines
end

local function probes_of_all(users, llms)
  local lines = {}
  for i = 1, PROBES do
    local user = users[math.random(#users)]
    lines[i] = probe(user, i % 4 > 0 and user.some or llms[math.random(#llms)], i % 2 == 0)
  end
  return lines
end

function fill.make(path, size)
  local database = assert(store.open{ db = "sqlite:" .. path })
  assert(migrations.run(database))
  local now = clocks.new().text()
  local llms, users
  math.randomseed(size.bindings)
  database:transaction(function()
    llms, users = make_llms(database, size.llms, now), make_users(database, size.users, now)
    make_bindings(database, users, llms, size.bindings, now)
    return true
  end)
  database:close()
  return probes_of_ten(users), probes_of_all(users, llms)
end

return fill
