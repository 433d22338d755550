-- What is particular to PostgreSQL: a server that may be away, and several machines that write.
local DBI = require "DBI"
local socket = require "socket"
local uv = require "luv"

local postgres = {}
postgres.name = "postgres"
-- The driver forgets a connection that could not be made without closing it: few attempts, then.
postgres.MAX_RETRY_S = 30

-- An old snapshot would be an old permission, hence READ COMMITTED: each statement sees what was committed before it.
postgres.SETTINGS = {
  "SET statement_timeout = 1000", "SET lock_timeout = 1000", "SET idle_in_transaction_session_timeout = 10000",
  "SET client_encoding = 'UTF8'", "SET default_transaction_isolation = 'read committed'",
  "SET client_min_messages = warning", "SET plan_cache_mode = force_generic_plan",
}
-- One writer at a time, as with SQLite: a check and what depends on it are never divided by another machine's commit.
-- The number is only a name, "depc".
postgres.BEGIN = { "BEGIN", "SELECT 1 FROM (SELECT pg_advisory_xact_lock(1684369507)) AS waited" }
postgres.COMMIT = "COMMIT"
postgres.ROLLBACK = "ROLLBACK"
postgres.PING = "SELECT 1"

-- For the connection, unless the URL says otherwise. A standby lags behind, and so would revocations: only a server
-- that takes writes is good enough.
local PARAMETERS = {
  { "connect_timeout", "2" }, { "tcp_user_timeout", "1000" }, { "keepalives_idle", "5" },
  { "keepalives_interval", "1" }, { "keepalives_count", "3" }, { "target_session_attrs", "read-write" },
  { "application_name", "deputy-central" },
}

local function decode(text)
  return text and (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

function postgres.parse(url)
  local authority, rest = url:match("^postgres%a*://([^/?]*)(.*)$")
  if not authority or url:find("#", 1, true) then
    return nil, 'expected a database as in "postgres://USER:PASSWORD@HOST:PORT/NAME"'
  end
  local userinfo, place = authority:match("^(.*)@([^@]*)$")
  place = place or authority
  local path, query = rest:match("^([^?]*)%??(.*)$")
  local given = {}
  for key, value in query:gmatch("([^&=]+)=([^&]*)") do given[key] = decode(value) end
  local separator = query == "" and (rest:find("?", 1, true) and "" or "?") or "&"
  for _, parameter in ipairs(PARAMETERS) do
    if not given[parameter[1]] then
      url = url .. separator .. parameter[1] .. "=" .. parameter[2]
      separator = "&"
    end
  end
  local host, port = place:match("^%[?([^%[%],]-)%]?:?(%d*)$")
  return {
    url = url, password = decode(userinfo and userinfo:match(":(.*)$")) or given.password,
    raw_password = userinfo and userinfo:match(":(.*)$"), host = decode(host), port = tonumber(port) or 5432,
    shown = ("postgres://%s%s"):format(place, path),
  }
end

-- What the server or its library says, without the password, on one line.
function postgres.clean(target, why)
  for _, secret in ipairs{ target.password or "", target.raw_password or "" } do
    if secret ~= "" then
      local at = 1
      while at do
        local first, last = why:find(secret, at, true)
        if first then why = why:sub(1, first - 1) .. "***" .. why:sub(last + 1) end
        at = first and first + 3
      end
    end
  end
  return ("%s: %s"):format(target.shown, (why:gsub("%s+", " "):gsub(" $", "")))
end

-- Whether somebody listens at all: asked first, with a limit of its own, since the driver's is two seconds at least.
local function listens(target, timeout_ms)
  if not target.host or target.host == "" or target.host:sub(1, 1) == "/" then return true end
  local tcp = socket.tcp()
  tcp:settimeout(timeout_ms / 1000)
  local ok, why = tcp:connect(target.host, target.port)
  tcp:close()
  return ok, why
end

-- The driver overwrites what a server said that refused it.
local REFUSED = "the server refused the connection: the user, the password or the database's name may be wrong, or it "
  .. "is starting, or full; its own log says which"

-- By the kernel's names for them: { ["socket:[1234]"] = descriptor }.
local function sockets()
  local found, scan = {}, uv.fs_scandir("/proc/self/fd")
  local name = scan and uv.fs_scandir_next(scan)
  while name do
    local link = uv.fs_readlink("/proc/self/fd/" .. name)
    if link and link:find("^socket:") then found[link] = tonumber(name) end
    name = uv.fs_scandir_next(scan)
  end
  return found
end

-- The driver does not tell its socket: it is the one that was not there before.
local function new_socket(before)
  local found
  for link, fd in pairs(sockets()) do
    if not before[link] then
      if found then return nil end
      found = fd
    end
  end
  return found
end

-- The connection and its socket (or nil, when that is not clear); nil and why.
function postgres.connect(target, timeout_ms)
  local ok, why = listens(target, timeout_ms)
  if not ok then return nil, postgres.clean(target, why) end
  local before = sockets()
  local connection
  ok, connection, why = pcall(DBI.Connect, "PostgreSQL", target.url)
  if not ok or not connection then
    why = tostring(ok and why or connection)
    return nil, postgres.clean(target, why:find("server closed the connection", 1, true) and REFUSED or why)
  end
  connection:autocommit(true)
  return connection, nil, new_socket(before)
end

function postgres.moved()
  return nil
end

function postgres.claim()
  return true
end

function postgres.classify(why)
  if why:find("statement timeout", 1, true) or why:find("lock timeout", 1, true)
    or why:find("deadlock detected", 1, true) or why:find("could not serialize", 1, true) then
    return "busy"
  end
  return "failed"
end

function postgres.backup()
  return nil, "a PostgreSQL database is copied with its own tools: pg_dump --format=custom --file=FILE URL"
end

return postgres
