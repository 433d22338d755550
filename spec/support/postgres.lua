-- A real PostgreSQL in a temporary directory, over a Unix socket, as an unprivileged user: started by the first use,
-- one for the whole file of specs.
--
--   local postgres = require "spec.support.postgres"
--   local url = postgres.database()    a fresh, empty database
--   postgres.url(name)                 the URL of one by its name ("postgres" is always there)
--   postgres.run(url, sql)             with the server's own client, as its superuser; what it prints
--   postgres.kill_clients()            ends every connection, as a restart would
--   postgres.halt(), postgres.resume()  stops the server; starts it again on the same data
--   postgres.stop()                    in a teardown of the file; killed with the process otherwise
local uv = require "luv"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local postgres = {}

local USER = "postgres"
local server
local databases = 0

local function newest(name)
  local dirs = {}
  local scan = uv.fs_scandir("/usr/lib/postgresql")
  local version = scan and uv.fs_scandir_next(scan)
  while version do
    dirs[#dirs + 1] = tonumber(version)
    version = uv.fs_scandir_next(scan)
  end
  table.sort(dirs)
  assert(dirs[1], "PostgreSQL is not installed: make deps")
  return ("/usr/lib/postgresql/%d/bin/%s"):format(dirs[#dirs], name)
end

-- The server refuses to run as root.
local function as_user(command)
  if uv.getuid() ~= 0 then return command end
  return {
    "setpriv", "--reuid=" .. USER, "--regid=" .. USER, "--clear-groups", "--pdeathsig", "KILL", "--",
    table.unpack(command),
  }
end

local function own(dir)
  if uv.getuid() ~= 0 then return end
  local passwd = tmp.read("/etc/passwd"):match("\n" .. USER .. ":[^:]*:(%d+:%d+)")
  local uid, gid = passwd:match("^(%d+):(%d+)$")
  assert(uv.fs_chown(dir, tonumber(uid), tonumber(gid)))
end

local function launch()
  local command = as_user{
    newest "postgres", "-D", server.dir .. "/data", "-k", server.dir, "-c", "listen_addresses=", "-c", "fsync=off",
    "-c", "full_page_writes=off", "-c", "max_connections=50", "-c", "shared_buffers=32MB", "-c", "autovacuum=off",
  }
  command.cwd = server.dir
  server.process = shell.start(command)
  assert(server.process:wait_for("ready to accept connections", 20000), server.process.stderr)
end

local function start()
  if server then return end
  server = { dir = tmp.dir() }
  own(server.dir)
  local command = as_user{
    newest "initdb", "-D", server.dir .. "/data", "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8",
    "--no-sync", "--no-instructions",
  }
  command.cwd, command.timeout_ms = server.dir, 60000
  local result = shell.run(command)
  assert(result.status == 0, result.stderr)
  launch()
end

function postgres.url(name)
  start()
  return ("postgres://%s@%s/%s"):format(USER, server.dir:gsub("/", "%%2F"), name)
end

function postgres.run(url, sql)
  local result = shell.run{ newest "psql", url, "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql }
  return result.status == 0 and result.stdout:gsub("\n$", "") or nil, result.stderr
end

function postgres.database()
  start()
  databases = databases + 1
  local name = "central_" .. databases
  assert(postgres.run(postgres.url("postgres"), "CREATE DATABASE " .. name))
  return postgres.url(name)
end

function postgres.kill_clients()
  assert(postgres.run(postgres.url("postgres"),
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"))
end

function postgres.halt()
  server.process:signal("sigint")
  assert(server.process:wait(20000), "PostgreSQL does not stop")
end

function postgres.resume()
  launch()
end

function postgres.stop()
  if not server then return end
  postgres.halt()
  tmp.remove(server.dir)
  server = nil
end

return postgres
