-- deputy central: serves the control plane, and administers it.
local arguments = require "central.arguments"
local admin_config = require "central.admin_config"
local config = require "deputy.config"

local NAME = "deputy central"

local ABOUT = "The control plane: it keeps the LLMs, the users, their tokens and permissions, answers the probe, and "
  .. "passes inference on. All commands but serve work on the database itself (--db), or on a running central over "
  .. "HTTP (--url and a token); init, backup, migrate and status on the database alone."

local MORE = [[
What a script needs of a result stands alone on stdout: an id, a token.
'deputy central COMMAND --help' says more about one; the options above go with all of them.

environment:
  DEPUTY_CENTRAL_DB      for --db
  DEPUTY_CENTRAL_URL     for --url
  DEPUTY_CENTRAL_TOKEN   the token for --url

exit codes:
  0  done
  1  refused, or it failed
  2  wrong arguments

example:
  deputy central init --db sqlite:central.db > admin.token
  export DEPUTY_CENTRAL_DB=sqlite:central.db
  deputy central llm create claude --url https://api.example/v1 --api-key-env API_KEY
  deputy central user create alice
  deputy central grant --user alice --role view --role run --llm claude
  deputy central token create --user alice > alice.token
  deputy central serve --listen 127.0.0.1:7070]]

-- ---- arguments -----------------------------------------------------------------------------------------------------

local GROUPS = {
  { "llm", "LLMs" }, { "user", "users" }, { "service-account", "accounts of programs" }, { "group", "groups of users" },
  { "token", "bearer tokens" }, { "bindings", "permissions that were given" },
}

local OWN = {
  { "init", "Make the database and its first admin; prints the admin's token, once." },
  { "serve", "Serve HTTP until SIGTERM or SIGINT." },
  { "backup", "Copy the database to FILE, which must not exist, while it is in use." },
  { "migrate", "Bring the database to this program's version; prints the version." },
  { "status", "The database's version, and how much is in it." },
}

local function whole_number(text)
  local n = math.tointeger(tonumber(text))
  return n and n > 0 and n or nil, ("expected a whole number above 0, got '%s'"):format(text)
end

local function make_parser()
  local parser = arguments.parser(NAME, ABOUT):epilog(MORE):command_target("_noun")
  parser:option("--db", "sqlite:FILE or postgres://USER@HOST/NAME. (Arguments can be seen by everybody: a password "
    .. "belongs into the environment, or the configuration's dbFile.)"):argname("DB")
  parser:option("-c --config", "A configuration: for serve, and for the database that it names."):argname("FILE")
  parser:option("--url", "A running central."):argname("URL")
  parser:option("--token-file", "The token for --url."):argname("FILE")
  parser:option("--ca-file", "A PEM bundle to trust, instead of the system's."):argname("FILE")
  parser:option("--timeout-ms", "How long to wait for an answer."):argname("N"):default("10000")
    :convert(whole_number)
  parser:flag("--json", "Print JSON.")
  local own, groups = {}, {}
  for _, each in ipairs(OWN) do own[each[1]] = arguments.command(parser, each[1], each[2]) end
  own.init:option("--name", "The admin's name."):argname("NAME"):default("admin")
  own.serve:option("--listen", "HOST:PORT or unix:PATH."):argname("ADDRESS")
  own.backup:argument("file", "Where to."):argname("FILE")
  for _, each in ipairs(GROUPS) do
    groups[each[1]] = arguments.command(parser, each[1], each[2]):command_target("_verb")
  end
  for _, each in ipairs(require "central.admin_commands") do
    each.arguments(arguments.command(each.group and groups[each.group] or parser, each.verb, each.summary))
  end
  return parser
end

local function find_command(o)
  for _, each in ipairs(require "central.admin_commands") do
    if each.group == o._noun and each.verb == o._verb or not each.group and each.verb == o._noun then return each end
  end
end

-- ---- saying no -----------------------------------------------------------------------------------------------------

local function fail(format, ...)
  arguments.say(NAME, format, ...)
  return 1
end

-- Whoever knows databases as files only: what else the text may be is not shown, it may hold a password.
local function database_hint(db)
  local is_file = db and not db:find("[:@%c]")
  return is_file and (': for a file say "sqlite:%s"'):format(db) or ""
end

local function misuse(format, ...)
  arguments.say(NAME, format, ...)
  arguments.point_to_help(NAME)
  return 2
end

local LISTS = { user_not_found = "list_users", group_not_found = "list_groups", llm_not_found = "list_llms" }

-- ' did you mean "alice"?', from what there is.
local function suggestion(backend, why)
  local operation, word = LISTS[why.code or ""], why.message:match('"([^"]*)"')
  local rows = operation and word and require("central.admin_backend").all(backend, operation, 500, {})
  local nearest = require "deputy.nearest"
  local best, least
  for _, row in ipairs(rows or {}) do
    local distance = nearest.distance(word, row.name)
    if distance <= math.max(1, #word // 3) and (not least or distance < least) then best, least = row.name, distance end
  end
  return best and (': did you mean "%s"?'):format(best) or ""
end

local function report(backend, why, o)
  if why.usage then
    arguments.say(NAME, "%s", why.message)
    arguments.point_to_help(table.concat({ NAME, o._noun, o._verb }, " "))
    return 2
  end
  return fail("%s%s", (why.message:gsub("[%c\127]", "?")), suggestion(backend, why))
end

-- ---- where ---------------------------------------------------------------------------------------------------------

local function read_config(o, host)
  if not o.config then return true end
  local settings, problems = admin_config.load(o.config, host)
  for _, each in ipairs(problems) do
    io.stderr:write(settings and "warning: " or "", config.format(each, o.config), "\n")
  end
  return settings
end

-- What is given is nearer than what stands in the environment: a database, or a URL, or what is wrong.
local function choose(o, settings)
  local named = settings ~= true and settings.db or nil
  if o.db and o.url then return nil, nil, "--db and --url do not go together" end
  if o.db or o.url then return o.db, o.url end
  if named then return named end
  local db, url = os.getenv("DEPUTY_CENTRAL_DB"), os.getenv("DEPUTY_CENTRAL_URL")
  if db and url then return nil, nil, "DEPUTY_CENTRAL_DB and DEPUTY_CENTRAL_URL are both set: say --db or --url" end
  if not db and not url then
    local own_url = o._noun == "llm" and (o._verb == "create" or o._verb == "edit")
    return nil, nil, "--db sqlite:FILE, a postgres:// URL, or --url URL is needed"
      .. (own_url and (", before 'llm': behind '%s', --url is that of the LLM's upstream"):format(o._verb) or "")
  end
  return db, url
end

-- What a command could not be done for is its end as well: it is said once.
local logged

local function log(level, text)
  if level ~= "error" then return end
  logged = text
  arguments.say(NAME, "%s", text)
end

local function open_remote(o, url, host)
  local base, token, why
  base, why = require("central.client").parse(url)
  if not base then return nil, "--url: " .. why, true end
  token, why = arguments.secret(o, "token", host)
  if why then return nil, why, true end
  token = token or os.getenv("DEPUTY_CENTRAL_TOKEN")
  if not token or token == "" then return nil, "--url needs --token-file or DEPUTY_CENTRAL_TOKEN", true end
  if url:find("^http://") and not url:find("^http://127%.") and not url:find("^http://localhost%f[:/\0]")
    and not url:find("^http://%[::1%]") then
    io.stderr:write("warning: the token travels unencrypted: use https\n")
  end
  return require("central.admin_backend").open{
    url = url, token = token, ca_file = o.ca_file, timeout = o.timeout_ms / 1000, force = o.force,
  }
end

-- ---- on the database alone -----------------------------------------------------------------------------------------

local own = {}

function own.init(backend, show, o)
  local result, why = backend:init{ name = o.name }
  if not result then return nil, why end
  show:word(result.token.token, result)
  return true
end

function own.backup(backend, show, o)
  local done, why = backend:backup(o.file)
  if not done then return nil, why end
  show:done({ file = o.file }, "copied to %s", o.file)
  return true
end

function own.migrate(_, show)
  local version = require("central.migrations").LATEST
  show:word(tostring(version), { version = version })
  return true
end

function own.status(backend, show)
  local counts = { version = require("central.migrations").LATEST }
  for word, operation in pairs{ llms = "list_llms", users = "list_users", groups = "list_groups" } do
    local rows, more = require("central.admin_backend").all(backend, operation, 10000, {})
    if not rows then return nil, more end
    counts[word] = more and "over " .. #rows or #rows
  end
  show:object(counts)
  return true
end

-- ---- the whole -----------------------------------------------------------------------------------------------------

-- Most likely another one was meant: nobody can do anything with an empty one.
local function warn_of_new(db)
  local function is_there(path)
    local handle = io.open(path, "rb") -- a folder can be opened, too
    return handle ~= nil and handle:close()
  end
  local file = db:match("^sqlite:(.+)$")
  if file and not is_there(file) and is_there(file:match("^(.*/)") or ".") then
    arguments.say(NAME .. " serve", "warning: there is no database %s: it is made now, and nobody has a token for it "
      .. "before 'deputy central init'", file)
  end
end

local function serve(o, settings, db, host)
  warn_of_new(db)
  local status, why = require "central.admin_serve"(settings ~= true and settings or nil, db, o, host)
  return status or misuse("%s", why)
end

local function open(o, db, url, host)
  if url then return open_remote(o, url, host) end
  return require("central.admin_backend").open{
    db = db, log = log, create = o._noun == "init" or o._noun == "migrate", force = o.force,
  }
end

return function(args, host)
  local o, status = arguments.parse(make_parser(), args)
  if not o then return status end
  local settings = read_config(o, host)
  if not settings then return 1 end
  local db, url, problem = choose(o, settings)
  if problem then return misuse("%s", problem) end
  local run = own[o._noun]
  if (run or o._noun == "serve") and not db then
    return misuse("%s works on the database itself: --db is needed, not --url", o._noun)
  end
  if o._noun == "serve" then return serve(o, settings, db, host) end
  local backend, why, usage = open(o, db, url, host)
  if not backend and why == logged then return 1 end
  if not backend then return usage and misuse("%s", why) or fail("%s%s", why, database_hint(db)) end
  run = run or find_command(o).run
  o.folder = host.folder()
  local done
  done, why = run(backend, require("central.admin_show").new(o, host), o)
  status = done and 0 or report(backend, why, o)
  backend:close()
  return status
end
