-- deputy central ...: what administrates, as a person or a script uses it; each command on the database itself and over
-- HTTP.
local uv = require "luv"
local cjson = require "cjson"
local centrals = require "spec.support.central"
local gateway = require "spec.support.gateway"
local peers = require "spec.support.peers"
local postgres = require "spec.support.postgres"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local UPSTREAM = "http://127.0.0.1:9/v1"

local function deputy(dir, env, ...)
  local r = shell.run{
    env = gateway.environment(dir, env), cwd = dir, timeout_ms = 20000, gateway.DEPUTY, "central", ...,
  }
  assert.is_false(r.timed_out)
  assert.is_nil(r.stderr:find("stack traceback", 1, true), r.stderr)
  return r
end

local function id_of(text)
  local id = text:match("^([a-z][a-z0-9]+)\n$")
  assert.equal(24, #(id or ""), text)
  return id
end

for _, way in ipairs{ "the database", "HTTP" } do
  describe("deputy central on " .. way, function()
    local central, env

    -- It must succeed; what it prints on stdout.
    local function run(...)
      local r = deputy(central.dir, env, ...)
      assert.equal(0, r.status, r.stderr)
      if not r.stderr:find("^these are the first %d+: %-%-limit N gives more\n$") then assert.equal("", r.stderr) end
      return r.stdout
    end

    local function refused(...)
      local r = deputy(central.dir, env, ...)
      assert.equal(1, r.status, r.stdout .. r.stderr)
      assert.equal("", r.stdout)
      assert.equal(0, select(2, r.stderr:gsub("\n.", "")), r.stderr)
      return r.stderr
    end

    local function json(...) return cjson.decode(run("--json", ...)) end

    local function probe(token, llm)
      return central:call("HEAD", "/api/v1/llms/" .. (llm or "claude"), token).status
    end

    before_each(function()
      central = centrals.start()
      env = way == "HTTP" and { DEPUTY_CENTRAL_URL = central.url, DEPUTY_CENTRAL_TOKEN = central.admin }
        or { DEPUTY_CENTRAL_DB = central.db }
      env.USER = "operator"
    end)

    after_each(function()
      centrals.stop_all()
      peers.stop_all()
    end)

    it("keeps the last admin of all LLMs, unless it is forced", function()
      assert.matches("give that to somebody else", refused("revoke", "--user", "admin", "--role", "admin"), 1, true)
      local id = central.admin:match("^dpt_([a-z0-9]+)_")
      assert.matches("--force", refused("token", "revoke", id), 1, true)
      assert.matches("admin of all LLMs", refused("deny", "--user", "admin", "--role", "admin"), 1, true)
      run("revoke", "--user", "admin", "--role", "admin", "--force")
      assert.equal(403, central:call("GET", "/api/v1/users", central.admin).status)
    end)

    it("takes a user from nothing to a probe that is allowed, and back", function()
      id_of(run("llm", "create", "claude", "--url", UPSTREAM, "--model", "large"))
      id_of(run("user", "create", "alice"))
      assert.equal("", run("grant", "--user", "alice", "--role", "view", "--role", "run", "--llm", "claude"))
      local token = run("token", "create", "--user", "alice"):match("^(dpt_%w+_%w+)\n$")
      assert.equal(200, probe(token))
      assert.equal("", run("deny", "--user", "alice", "--role", "view"))
      assert.equal(403, probe(token))
      assert.equal("", run("revoke", "--deny", "--user", "alice", "--role", "view"))
      assert.equal(200, probe(token))
      assert.equal("", run("revoke", "--user", "alice", "--role", "view", "--llm", "claude"))
      assert.equal(403, probe(token))
      assert.equal("", run("grant", "--user", "alice", "--role", "view"))
      assert.equal("", run("token", "revoke", token))
      assert.equal(401, probe(token))
    end)

    it("changes LLMs", function()
      local id = id_of(run("llm", "create", "claude", "--url", UPSTREAM, "--api-key-env", "KEY", "--description", "x"))
      local llm = json("llm", "show", "claude")
      assert.equal(id, llm.id)
      assert.equal("KEY", llm.apiKeyEnv)
      assert.equal("claude", llm.model)
      run("llm", "edit", "claude", "--model", "larger", "--api-key-file", "key", "--description", "")
      llm = json("llm", "show", id)
      assert.equal("larger", llm.model)
      assert.equal(uv.fs_realpath(central.dir) .. "/key", llm.apiKeyFile)
      assert.is_nil(llm.apiKeyEnv)
      run("llm", "edit", "claude", "--no-api-key")
      assert.is_nil(json("llm", "show", "claude").apiKeyFile)
      run("llm", "rename", "claude", "opus")
      assert.equal(id, json("llm", "show", "opus").id)
      for verb, field in pairs{ pause = "paused", disable = "enabled" } do
        run("llm", verb, "opus")
        assert.equal(verb == "pause", json("llm", "show", "opus")[field])
        run("llm", verb == "pause" and "resume" or "enable", "opus")
        assert.equal(verb ~= "pause", json("llm", "show", "opus")[field])
      end
      run("llm", "delete", "opus")
      assert.matches('no LLM "opus"', refused("llm", "show", "opus"), 1, true)
    end)

    it("changes users, service accounts and groups", function()
      id_of(run("user", "create", "alice"))
      id_of(run("service-account", "create", "nightly"))
      id_of(run("group", "create", "team"))
      run("llm", "create", "claude", "--url", UPSTREAM)
      run("grant", "--group", "team", "--role", "view", "--llm", "claude")
      local token = run("token", "create", "--user", "nightly", "--name", "cron"):match("%S+")
      assert.equal(403, probe(token))
      run("group", "add", "team", "nightly")
      assert.equal(200, probe(token))
      assert.same({ "team" }, json("service-account", "show", "nightly").groups)
      assert.equal("nightly", json("group", "members", "team")[1].name)
      run("service-account", "disable", "nightly")
      assert.equal(401, probe(token))
      run("service-account", "enable", "nightly")
      run("group", "rename", "team", "crew")
      assert.equal(200, probe(token))
      run("group", "remove", "crew", "nightly")
      assert.equal(403, probe(token))
      run("user", "rename", "alice", "alicia")
      local names = {}
      for _, user in ipairs(json("user", "list")) do names[#names + 1] = user.name end
      assert.same({ "admin", "alicia" }, names)
      assert.equal("nightly", json("service-account", "list")[1].name)
      run("user", "delete", "alicia")
      run("group", "delete", "crew")
      assert.same({}, json("group", "list"))
    end)

    it("shows tables to people and JSON to scripts", function()
      run("user", "create", "alice")
      assert.matches("^NAME +ID +KIND +DISABLED +CREATED\nadmin +%w+ +user +no +%S+\nalice +%w+ +user +no +%S+\n$",
        run("user", "list"))
      assert.equal("[]\n", run("--json", "group", "list"))
      assert.equal("NAME  ID  CREATED\n", run("group", "list"))
      assert.equal("alice", json("user", "list")[2].name)
      assert.matches("\nname +alice\n", run("user", "show", "alice"))
    end)

    it("gives long lists whole, and says when it does not", function()
      local dir = central.dir
      for i = 1, 4 do run("user", "create", "user" .. i) end
      local r = deputy(dir, env, "--json", "user", "list", "--limit", "3")
      assert.equal(3, #cjson.decode(r.stdout))
      assert.matches("these are the first 3", r.stderr, 1, true)
      assert.equal(5, #json("user", "list", "--limit", "5"))
    end)

    it("makes tokens that end, and shows no secret of them again", function()
      run("user", "create", "alice")
      for _, expires in ipairs{ "30d", "12h", "2099-12-31", "2099-12-31T12:00:00Z" } do
        run("token", "create", "--user", "alice", "--expires", expires, "--name", expires)
      end
      local token = run("token", "create", "--user", "alice"):match("%S+")
      local list = run("--json", "token", "list", "--user", "alice")
      assert.is_nil(list:find(token:match("_(%w+)$"), 1, true))
      local ends = {}
      for _, each in ipairs(cjson.decode(list)) do ends[each.name] = each.expiresAt end
      assert.equal("2099-12-31T00:00:00.000Z", ends["2099-12-31"])
      assert.equal("2099-12-31T12:00:00.000Z", ends["2099-12-31T12:00:00Z"])
      assert.is_string(ends["30d"])
      assert.matches("lies in the past", refused("token", "create", "--user", "alice", "--expires", "2001-01-01"))
    end)

    it("lists permissions and what was done", function()
      run("user", "create", "alice")
      run("grant", "--user", "alice", "--role", "view")
      run("deny", "--user", "alice", "--role", "run")
      local effects = {}
      for _, each in ipairs(json("bindings", "list", "--user", "alice")) do effects[each.role] = each.effect end
      assert.same({ view = "allow", run = "deny" }, effects)
      local entry = json("audit")[1]
      assert.equal("binding.grant", entry.action)
      assert.equal("alice", entry.target)
      assert.equal(way == "HTTP" and "admin" or "local:operator", entry.actor)
      assert.matches("^AT +WHO +FROM +ACTION", run("audit", "--limit", "2"))
      assert.matches("binding.grant +alice +done +%- +1 +deny run on all LLMs\n", run("audit", "--limit", "1"))
      run("token", "create", "--user", "alice")
      assert.matches("token.create +%- +done +%- +1 +user=alice\n", run("audit", "--limit", "1"))
      assert.is_true(json("whoami").onAllLlms.admin)
    end)

    describe("with --dry-run", function()
      before_each(function()
        run("llm", "create", "claude", "--url", UPSTREAM)
        run("user", "create", "alice")
        run("group", "create", "team")
        run("group", "add", "team", "alice")
        run("grant", "--user", "alice", "--role", "view", "--llm", "claude")
        run("token", "create", "--user", "alice", "--name", "laptop")
      end)

      it("only says what would go", function()
        local before = json("audit", "--limit", "1")
        for what, case in pairs{
          ["a user"] = { { "user", "delete", "alice" }, "would delete user alice %(%w+%)\n  token: %w+ laptop\n"
            .. "  binding: allow view on claude, of alice\n  group: team\n" },
          ["an LLM"] = { { "llm", "delete", "claude" },
            "would delete LLM claude %(%w+%)\n  binding: allow view on claude, of alice\n" },
          ["a group"] = { { "group", "delete", "team" }, "would delete group team %(%w+%)\n  member: alice\n" },
          ["a membership"] = { { "group", "remove", "team", "alice" }, "would take alice out of the group team\n"
            .. "  member: alice\n" },
          ["a permission"] = { { "revoke", "--user", "alice", "--role", "view", "--llm", "claude" },
            "would revoke\n  binding: allow view on claude, of alice\n" },
        } do
          local words = table.move(case[1], 1, #case[1], 1, {})
          words[#words + 1] = "--dry-run"
          assert.matches("^" .. case[2] .. "$", run(table.unpack(words)), what)
          assert.is_string(json(table.unpack(words)).would)
        end
        assert.same(before, json("audit", "--limit", "1"))
      end)

      it("only says which token would go, and that what is not there is not there", function()
        local id = json("token", "list", "--user", "alice")[1].id
        assert.matches("^would revoke the token " .. id .. " of alice\n", run("token", "revoke", id, "-n"))
        assert.is_nil(json("token", "list", "--user", "alice")[1].revokedAt)
        assert.matches('no user "bob"', refused("user", "delete", "bob", "-n"), 1, true)
        assert.matches("no such binding", refused("revoke", "-n", "--user", "alice", "--role", "run"), 1, true)
      end)
    end)

    it("says what is wrong, and the nearest word", function()
      run("user", "create", "alice")
      run("llm", "create", "claude", "--url", UPSTREAM)
      for expected, words in pairs{
        ['no user "alcie": did you mean "alice"?'] = { "user", "show", "alcie" },
        ['no LLM "cluade"'] = { "grant", "--user", "alice", "--role", "view", "--llm", "cluade" },
        ['role: not a known word: did you mean "view"?'] = { "grant", "--user", "alice", "--role", "veiw" },
        ['there is a user, service account or group named "alice" already'] = { "user", "create", "alice" },
        ["name: looks like an id"] = { "llm", "create", "cabcdefghijklmnopqrstuvw", "--url", UPSTREAM },
        ["url:"] = { "llm", "create", "x", "--url", "ftp://x" },
        ["apiKeyEnv: expected the name of an environment variable"] = { "llm", "create", "x", "--url", UPSTREAM,
          "--api-key-env", "sk-123" },
      } do
        assert.matches(expected, refused(table.unpack(words)), 1, true)
      end
      -- As when a script's variable was never set.
      for _, words in ipairs{ { "user", "show", "" }, { "llm", "pause", "" }, { "user", "delete", "" },
        { "group", "remove", "", "alice" }, { "group", "add", "", "alice" }, { "token", "revoke", "" } } do
        assert.matches("name or id: must not be empty", refused(table.unpack(words)), 1, true)
      end
      assert.matches("role: not a known", refused("grant", "--user", "alice", "--role", "view", "--role", "veiw"))
      assert.same({}, json("bindings", "list", "--user", "alice"))
    end)

    it("exits with 2 for wrong arguments", function()
      for expected, words in pairs{
        ["unknown command 'uesr': did you mean 'user'?"] = { "uesr", "list" },
        ["unknown option '--ulr': did you mean '--url'?"] = { "--ulr", "x", "user", "list" },
        ["missing argument 'name'"] = { "user", "create" },
        ["missing option '--url'"] = { "llm", "create", "x" },
        ["--user or --group is needed"] = { "grant", "--role", "view" },
        ["--expires: expected as in 30d"] = { "token", "create", "--user", "alice", "--expires", "soon" },
        ["unknown option '--api-kye-evn': did you mean '--api-key-env'?"] = {
          "llm", "create", "x", "--url", UPSTREAM, "--api-kye-evn", "X" },
        ["unknown option '--expire-at': did you mean '--expires'?"] = { "token", "create", "--expire-at", "3d" },
        ["nothing to change was given"] = { "llm", "edit", "x" },
        ["expected a whole number above 0"] = { "user", "list", "--limit", "many" },
        ["--limit: expected a whole number above 0"] = { "audit", "--limit", "many" },
        ["--api-key: everybody can read arguments: use --api-key-env or --api-key-file\n"] = {
          "llm", "create", "x", "--url", UPSTREAM, "--api-key", "sk-x" },
      } do
        local r = deputy(central.dir, env, table.unpack(words))
        if words[1] == "token" then
          assert.matches("\nTry 'deputy central token create --help'.\n", r.stderr, 1, true)
        end
        assert.equal(2, r.status, expected .. r.stderr)
        assert.matches(expected, r.stderr, 1, true)
        assert.matches("\nTry 'deputy central[%l -]* %-%-help'.\n$", r.stderr)
      end
    end)
  end)
end

describe("deputy central", function()
  local dir

  teardown(postgres.stop)

  before_each(function() dir = tmp.dir() end)

  after_each(function()
    centrals.stop_all()
    peers.stop_all()
  end)

  local function run(...) return deputy(dir, {}, ...) end

  it("has help for each command", function()
    local r = run("--help")
    assert.equal(0, r.status)
    for _, command in ipairs{
      { "init" }, { "serve" }, { "backup" }, { "migrate" }, { "status" }, { "grant" }, { "deny" }, { "revoke" },
      { "audit" }, { "whoami" }, { "llm", "create" }, { "llm", "edit" }, { "llm", "pause" }, { "user", "delete" },
      { "service-account", "create" }, { "group", "add" }, { "token", "create" }, { "bindings", "list" },
    } do
      assert.matches("\n   " .. command[1] .. " ", r.stdout, 1, true)
      command[#command + 1] = "--help"
      local help = run(table.unpack(command))
      assert.equal(0, help.status)
      assert.matches("^usage: deputy central", help.stdout)
    end
  end)

  it("init prints the first admin's token alone, once", function()
    local r = run("init", "--db", "sqlite:central.db")
    assert.equal(0, r.status, r.stderr)
    assert.matches("^dpt_%w+_%w+\n$", r.stdout)
    assert.equal("", r.stderr)
    local again = run("init", "--db", "sqlite:central.db")
    assert.equal(1, again.status)
    assert.equal("", again.stdout)
    assert.matches("has an admin already", again.stderr, 1, true)
  end)

  it("makes no database by mistake", function()
    local r = run("user", "list", "--db", "sqlite:cental.db")
    assert.equal(1, r.status)
    assert.matches("there is no database cental.db: deputy central init makes one", r.stderr, 1, true)
    assert.is_nil(uv.fs_stat(dir .. "/cental.db"))
    r = run("user", "list", "--db", "central.db")
    assert.equal(1, r.status)
    assert.matches(': for a file say "sqlite:central.db"\n$', r.stderr)
    r = run("user", "list", "--db", "postgres://u:secret@127.0.0.1:1/x")
    assert.matches("^deputy central: the database does not answer: [^\n]*\n$", r.stderr)
    assert.is_nil(r.stderr:find("secret", 1, true))
  end)

  it("says so when it serves a database that nobody has made yet", function()
    local function serve() return run("serve", "--db", "sqlite:new.db", "--listen", "unix:none/x.sock").stderr end
    assert.matches("warning: there is no database new.db: it is made now, and nobody has a token for it before "
      .. "'deputy central init'", serve(), 1, true)
    assert.equal(0, run("init", "--db", "sqlite:new.db").status)
    assert.is_nil(serve():find("warning", 1, true))
  end)

  it("takes the database from a configuration, relative to it", function()
    uv.fs_mkdir(dir .. "/etc", 448)
    tmp.write(dir .. "/etc", "central.json", '{"db": "sqlite:central.db"}')
    local r = run("init", "-c", "etc/central.json")
    assert.same({ 0, "" }, { r.status, r.stderr })
    assert.is_not_nil(uv.fs_stat(dir .. "/etc/central.db"))
    assert.equal(0, run("-c", "etc/central.json", "user", "create", "alice").status)
  end)

  it("names each mistake of a configuration, as deputy serve does", function()
    tmp.write(dir, "central.json", '{\n"listne": "127.0.0.1:1",\n"limits": {"maxConnections": 0}\n}\n')
    local r = run("serve", "-c", "central.json")
    assert.equal(1, r.status)
    assert.matches('central.json:2: listne: not a known key: did you mean "listen"?', r.stderr, 1, true)
    assert.matches("central.json:3: limits.maxConnections: expected a whole number from 1 to", r.stderr, 1, true)
  end)

  it("backs up a database in use, and says its version", function()
    local central = centrals.start{ dir = dir }
    central:deputy("user create", "alice")
    central:deputy("backup", dir .. "/copy.db")
    local r = run("--json", "user", "list", "--db", "sqlite:copy.db")
    assert.equal(2, #cjson.decode(r.stdout))
    assert.equal(1, run("backup", dir .. "/copy.db", "--db", central.db).status)
    assert.equal("deputy central: cannot write none/copy.db: no such file or directory\n",
      run("backup", "none/copy.db", "--db", central.db).stderr)
    assert.matches("^%d+\n$", run("migrate", "--db", central.db).stdout)
    assert.equal(2, cjson.decode(run("--json", "status", "--db", central.db).stdout).users)
  end)

  it("works on PostgreSQL as on SQLite", function()
    local url = postgres.database()
    local function on(...)
      local r = run("--db", url, ...)
      assert.equal(0, r.status, r.stderr)
      return r.stdout
    end
    assert.matches("^dpt_%w+_%w+\n$", on "init")
    id_of(on("llm", "create", "claude", "--url", UPSTREAM))
    id_of(on("user", "create", "alice"))
    on("grant", "--user", "alice", "--role", "view", "--role", "run", "--llm", "claude")
    on("token", "create", "--user", "alice", "--expires", "1d")
    assert.matches("\n  token: %w+\n  binding: ", on("user", "delete", "alice", "--dry-run"))
    on("user", "delete", "alice")
    assert.equal("user.delete", cjson.decode(on("--json", "audit"))[1].action)
    assert.equal(1, #cjson.decode(on("--json", "bindings", "list")))
    assert.equal(1, run("--db", url, "init").status)
  end)

  it("needs one place to work on", function()
    for expected, words in pairs{
      ["--db sqlite:FILE, a postgres:// URL, or --url URL is needed"] = { "user", "list" },
      ["--db and --url do not go together"] = { "user", "list", "--db", "sqlite:x", "--url", "http://127.0.0.1:1" },
      ["before 'llm': behind 'create', --url is that of the LLM's upstream"] = {
        "llm", "create", "x", "--url", "http://127.0.0.1:1" },
      ["init works on the database itself"] = { "init", "--url", "http://127.0.0.1:1" },
      ["--url needs --token-file or DEPUTY_CENTRAL_TOKEN"] = { "user", "list", "--url", "http://127.0.0.1:1" },
      ["--url: expected http://HOST[:PORT] or https://HOST[:PORT]"] = { "user", "list", "--url", "localhost:7070" },
      ["--listen: expected HOST:PORT"] = { "serve", "--db", "postgres://x/y", "--listen", "here" },
    } do
      local r = run(table.unpack(words))
      assert.equal(2, r.status, expected .. r.stderr)
      assert.matches(expected, r.stderr, 1, true)
    end
    local r = run("user", "list", "--db", "mysql://u:secret@h/d")
    assert.equal(1, r.status)
    assert.is_nil(r.stderr:find("secret", 1, true))
  end)

  it("over HTTP, says who is not there, who is no central, and who may not", function()
    local function ask(url, token)
      return deputy(dir, { DEPUTY_CENTRAL_TOKEN = token or "dpt_x" }, "user", "list", "--url", url)
    end
    local r = ask(peers.refused())
    assert.equal(1, r.status)
    assert.matches("cannot connect to 127.0.0.1:%d+: connection refused", r.stderr)
    r = ask(peers.start{ default = { status = 200, body = "<html>" } }.url)
    assert.matches("what came back is not JSON", r.stderr, 1, true)
    r = ask(peers.start().url)
    assert.matches("404 came back, but not as a central says it: is this the right URL?", r.stderr, 1, true)
    r = ask(peers.start{ default = { status = 404, json = { error = { message = "no model", code = "x" } } } }.url)
    assert.matches("404 came back, but not as a central says it: is this the right URL?", r.stderr, 1, true)
    local central = centrals.start{ dir = dir }
    r = ask(central.url, "dpt_wrong")
    assert.matches("the token is not known here", r.stderr, 1, true)
    r = ask(central.url, central:user("alice", {}))
    assert.matches('you need the role "admin" on all LLMs', r.stderr, 1, true)
    assert.is_nil(r.stderr:find("dpt_", 1, true))
  end)

  it("over HTTPS, verifies the certificate", function()
    local ca = peers.tls_files().ca
    local files = { data = {}, object = "list" }
    for kind, ok in pairs{ good = true, wrong_host = false, expired = false, self_signed = false } do
      local peer = peers.start{ tls = kind, default = { json = files } }
      local r = deputy(dir, { DEPUTY_CENTRAL_TOKEN = "dpt_secret" }, "user", "list", "--url", peer.url, "--ca-file", ca)
      assert.equal(ok and 0 or 1, r.status, kind .. r.stderr)
      assert.equal(ok, peer:saw("dpt_secret"))
    end
  end)
end)
