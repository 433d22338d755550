-- The command line, as a script or a person uses it: real processes against real peers.
local uv = require "luv"
local lfs = require "lfs"
local cjson = require "cjson"
local peers = require "spec.support.peers"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local BUILD = assert(uv.fs_realpath(os.getenv("DEPUTY_BUILD") or "build"))
local DEPUTY = BUILD .. "/deputy"
local TOKEN = "tok-alice-very-secret"
local KEY = "sk-local-very-secret"

local dir, central, model

-- A build directory elsewhere has no lua folder beside it.
local function lua_folder()
  return not lfs.attributes(BUILD .. "/../lua/deputy/config.lua") and lfs.currentdir() .. "/lua" or false
end

local function prepared(spec)
  local env = {
    DEPUTY_LUA = lua_folder(), XDG_CONFIG_HOME = dir .. "/xdg", HOME = dir, LUA_PATH = false, LUA_PATH_5_4 = false,
  }
  for name, value in pairs(spec.env or {}) do env[name] = value end
  spec.env, spec.cwd = env, spec.cwd or dir
  table.insert(spec, 1, DEPUTY)
  return spec
end

local function deputy(spec)
  local r = shell.run(prepared(spec))
  assert.is_false(r.timed_out, "timed out")
  assert.is_nil(r.signal)
  local output = r.stdout .. r.stderr
  assert.is_nil(output:find(TOKEN, 1, true), "the token was printed")
  assert.is_nil(output:find(KEY, 1, true), "the key was printed")
  return r
end

local function write(name, text)
  local path = tmp.write(dir, name, text)
  uv.fs_chmod(path, 384) -- 0600
  return path
end

local function configure(changes)
  local settings = {
    central = { url = central and central.url or peers.refused(), bearerTokenFile = "token" },
    providers = {
      { name = "vllm-local", type = "openai", url = (model and model.url or peers.refused()) .. "/v1", model = "qwen3",
        apiKey = KEY, failoverFor = { "claude" } },
    },
  }
  for name, value in pairs(changes or {}) do settings[name] = value end
  write("deputy.json", cjson.encode(settings))
end

local function start_world()
  central = peers.central{
    llms = { claude = {}, opus = {} },
    tokens = { [TOKEN] = { view = { "claude", "opus" }, run = { "claude", "opus" } } },
  }
  model = peers.openai{ models = { "qwen3" }, api_key = KEY }
  configure()
end

local OUTAGE = { status = 503, json = { error = { message = "no capacity", code = "overloaded" } } }

before_each(function()
  dir = tmp.dir()
  central, model = nil, nil
  write("token", TOKEN .. "\n")
end)

after_each(function()
  peers.stop_all()
  tmp.remove(dir)
end)

describe("deputy", function()
  it("lists its commands", function()
    local help = deputy{ "--help" }
    assert.same({ 0, "" }, { help.status, help.stderr })
    for _, name in ipairs{ "ask", "probe", "check", "providers", "version" } do
      assert.matches("\n  " .. name .. " +%l", help.stdout)
    end
    local alone = deputy{}
    assert.same({ 2, "", help.stdout }, { alone.status, alone.stdout, alone.stderr })
  end)

  it("explains each command", function()
    for name in deputy{ "--help" }.stdout:gmatch("\n  (%l+) ") do
      local help = deputy{ name, "--help" }
      assert.same({ 0, "" }, { help.status, help.stderr })
      assert.matches("^usage: deputy " .. name .. " ", help.stdout)
      for _, section in ipairs{ "\noptions:\n", "\nexit codes:\n  0 ", "\nexample:\n  deputy " .. name } do
        assert.is_truthy(help.stdout:find(section, 1, true), section)
      end
      for line in help.stdout:gmatch("[^\n]+") do assert.is_true(#line <= 110, line) end
    end
  end)

  it("names the nearest word for one that it does not know, and exits 2", function()
    local cases = {
      { { "asc" }, "unknown command 'asc': did you mean 'ask'?" },
      { { "porbe", "claude" }, "unknown command 'porbe': did you mean 'probe'?" },
      { { "serve-the-world" }, "unknown command 'serve-the-world'\n" },
      { { "--halp" }, "unknown option '--halp': options stand behind the command\n" },
      { { "-c", "deputy.json", "ask" }, "unknown option '-c': options stand behind the command\n" },
      { { "check", "deputy.json" }, "unexpected argument 'deputy.json': a configuration is named with -c FILE\n" },
      { { "providers", "strat", "tiny" }, "unknown operand 'strat': did you mean 'start'?\n" },
      { { "ask", "--strem", "a", "b" }, "unknown option '--strem': did you mean '--stream'?" },
      { { "ask", "--jsno=1", "a", "b" }, "unknown option '--jsno': did you mean '--json'?" },
      { { "probe", "--json", "a" }, "unknown option '--json'" },
      { { "ask", "--json", "-x", "a", "b" }, "unknown option '-x'" },
      { { "ask", "--json=yes", "a", "b" }, "option '--json' takes no value" },
      { { "check", "-c" }, "option '-c' needs a value" },
      { { "ask", "a", "b", "--system" }, "option '--system' needs a value" },
      { { "ask" }, "expected LLM PROMPT" },
      { { "ask", "claude" }, "expected LLM PROMPT" },
      { { "ask", "claude", "two", "words" }, "unexpected argument 'words': put what has spaces in quotes" },
      { { "version", "x" }, "unexpected argument 'x'" },
      { { "ask", "a", "b", "--timeout-ms", "0" }, "--timeout-ms: expected a whole number from 1 to 86400000, got '0'" },
      { { "ask", "a", "b", "--timeout-ms", "1s" }, "got '1s'" },
      { { "ask", "a", "b", "--json", "--stream" }, "--stream and --json exclude each other" },
    }
    for _, case in ipairs(cases) do
      local r = deputy(case[1])
      assert.same({ 2, "" }, { r.status, r.stdout })
      assert.is_truthy(r.stderr:find(case[2], 1, true), r.stderr)
      assert.matches("\nTry 'deputy[ %l]* %-%-help'%.\n$", r.stderr)
    end
  end)

  it("prints its version and those of its libraries", function()
    local r = deputy{ "version" }
    assert.same({ 0, "" }, { r.status, r.stderr })
    assert.matches("^deputy %d+%.%d+%.%d+\nlibcurl %d[%d.]+\nlibuv %d[%d.]+\nLua 5%.4[%d.]*\nyajl %d[%d.]+\n$",
      r.stdout)
    assert.equal(r.stdout, deputy{ "--version" }.stdout)
  end)

  it("fails when nobody takes what it prints", function()
    local r = shell.run{ "sh", "-c", DEPUTY .. " version > /dev/full" }
    assert.equal(1, r.status)
    assert.matches("cannot write to stdout", r.stderr)
    r = shell.run{ "sh", "-c", DEPUTY .. " version >&-" }
    assert.equal(1, r.status)
    assert.matches("cannot write to stdout", r.stderr)
  end)

  it("puts nothing of its own where a standard stream was closed", function()
    local db = "sqlite:" .. dir .. "/central.db"
    for _, command in ipairs{ "init", "status" } do
      local r = shell.run{ "sh", "-c", ("%s central %s --db %s >&-"):format(DEPUTY, command, db) }
      assert.equal(1, r.status, r.stderr)
      assert.matches("cannot write to stdout", r.stderr)
    end
    for _, closed in ipairs{ "<&-", "2>&-", "<&- 2>&-" } do
      local r = shell.run{ "sh", "-c", ("%s central status --db %s %s"):format(DEPUTY, db, closed) }
      assert.equal(0, r.status, closed .. r.stderr)
      assert.matches("users +1", r.stdout)
    end
  end)
end)

describe("the configuration file", function()
  it("is deputy.json here, then the one in XDG_CONFIG_HOME, then in ~/.config", function()
    local text = '{"central": {"url": "http://127.0.0.1:1"}}'
    lfs.mkdir(dir .. "/.config")
    lfs.mkdir(dir .. "/.config/deputy")
    write(".config/deputy/deputy.json", text)
    assert.equal(dir .. "/.config/deputy/deputy.json: ok\n",
      deputy{ "check", env = { XDG_CONFIG_HOME = false } }.stdout)
    assert.equal(1, deputy{ "check" }.status)
    lfs.mkdir(dir .. "/xdg")
    lfs.mkdir(dir .. "/xdg/deputy")
    write("xdg/deputy/deputy.json", text)
    assert.equal(dir .. "/xdg/deputy/deputy.json: ok\n", deputy{ "check" }.stdout)
    write("deputy.json", text)
    assert.equal("deputy.json: ok\n", deputy{ "check" }.stdout)
    write("other.json", text)
    assert.equal("other.json: ok\n", deputy{ "check", "-c", "other.json" }.stdout)
  end)

  it("that is not there: says where it looked and shows a small one that works", function()
    for _, command in ipairs{ { "check" }, { "providers" }, { "probe", "claude" }, { "ask", "claude", "hi" } } do
      local r = deputy(command)
      assert.same({ 1, "" }, { r.status, r.stdout })
      assert.is_truthy(r.stderr:find("tried deputy.json and " .. dir .. "/xdg/deputy/deputy.json", 1, true))
      write("small.json", assert(r.stderr:match("\n%s*({.*})")))
      assert.equal("small.json: ok\n", deputy{ "check", "-c", "small.json" }.stdout)
    end
    local r = deputy{ "check", "-c", "none.json" }
    assert.same({ 1, "" }, { r.status, r.stdout })
    assert.matches("^deputy check: there is no configuration: tried none.json\n", r.stderr)
  end)

  it("with mistakes: every command says them all and does nothing", function()
    write("deputy.json", '{"central": {"ulr": "http://c", "bearerToken": "' .. TOKEN .. '"},\n"log": {"level": "x"}}')
    for _, command in ipairs{ { "providers" }, { "probe", "claude" }, { "ask", "claude", "hi" } } do
      local r = deputy(command)
      assert.same({ 1, "" }, { r.status, r.stdout })
      assert.same({ "deputy.json:1: central.ulr", "deputy.json:1: central.url", "deputy.json:2: log.level" },
        { r.stderr:match("^(%S+ %S+): [^\n]*\n(%S+ %S+): [^\n]*\n(%S+ %S+): [^\n]*\n$") })
    end
  end)

  it("without a usable policy: exit 1, before anything is asked", function()
    start_world()
    configure{ policy = { script = "mine.lua" } }
    for _, text in ipairs{ "", "return 3", "return {", "error('x')" } do
      if text ~= "" then write("mine.lua", text) end
      local r = deputy{ "ask", "claude", "hi" }
      assert.same({ 1, "" }, { r.status, r.stdout })
      assert.matches("mine%.lua", r.stderr)
    end
    assert.equal(0, central:connections())
  end)

  it("names its own Lua files when they cannot be found", function()
    local r = deputy{ "check", env = { DEPUTY_LUA = dir } }
    assert.same({ 1, "" }, { r.status, r.stdout })
    assert.matches("DEPUTY_LUA is '.*', but there is no deputy/config.lua in it", r.stderr)
  end)

  it("says which Lua library is missing, and where a program of its own went wrong", function()
    for text, word in pairs{
      ['require "missing.library"'] = "the Lua module 'missing.library' is not installed: it is in one of Debian's "
        .. "packages lua-argparse, lua-luv, lua-socket,",
      ['error "out of order"'] = "admin.lua:1: out of order\nstack traceback:",
    } do
      for _, folder in ipairs{ "/own", "/own/deputy", "/own/central" } do uv.fs_mkdir(dir .. folder, 448) end
      tmp.write(dir .. "/own/deputy", "config.lua", "")
      tmp.write(dir .. "/own/central", "admin.lua", text)
      local r = deputy{ "central", "user", "list", env = { DEPUTY_LUA = dir .. "/own" } }
      assert.same({ 1, "" }, { r.status, r.stdout })
      assert.is_truthy(r.stderr:find(word, 1, true), r.stderr)
    end
  end)
end)

describe("deputy check", function()
  it("says that all is well", function()
    configure()
    local r = deputy{ "check" }
    assert.same({ 0, "deputy.json: ok\n", "" }, { r.status, r.stdout, r.stderr })
  end)

  it("prints every mistake at once, with line, key and the nearest known key", function()
    write("deputy.json", '{"central": {"url": "ftp://x", "bearerToken": "' .. TOKEN
      .. '", "bearerTokenFile": "token"},\n' .. '"timeuots": {},\n"policy": {"gate": "on"}}')
    local r = deputy{ "check" }
    assert.same({ 1, "" }, { r.status, r.stderr })
    assert.equal('deputy.json:1: central.bearerTokenFile: central.bearerToken is given too: keep one of them\n'
      .. "deputy.json:1: central.url: expected an absolute URL, http:// or https://\n"
      .. 'deputy.json:2: timeuots: not a known key: did you mean "timeouts"?\n'
      .. 'deputy.json:3: policy.gate: "on" is not known: known here: probe, policy\n', r.stdout)
  end)

  it("loads and verifies the policy with its settings, and opens the files that are named", function()
    write("broken.lua", "local M = {}\nreturn syntax error(")
    configure{ policy = { script = "broken.lua" } }
    local r = deputy{ "check" }
    assert.same({ 1, "" }, { r.status, r.stderr })
    assert.matches("^deputy.json: policy: .*broken.lua:2: ", r.stdout)
    configure{ policy = { script = "nowhere.lua" } }
    assert.matches("deputy.json: policy: .*nowhere.lua", deputy{ "check" }.stdout)
    configure{ policy = { settings = { retry = 1 } } }
    r = deputy{ "check" }
    assert.equal(1, r.status)
    assert.matches("deputy.json: policy: .*policy.settings.retry: unknown", r.stdout)
    configure{ policy = { settings = { retries = 1 } } }
    assert.equal(0, deputy{ "check" }.status)
  end)

  it("does not take for served what deputy serve would refuse to serve", function()
    configure{ gateway = { listen = "0.0.0.0:4141" } }
    local r = deputy{ "check" }
    assert.same({ 1, "" }, { r.status, r.stderr })
    assert.matches("^deputy.json: gateway.listen: 0.0.0.0:4141 can be reached from other machines, .*gateway.apiKeys",
      r.stdout)
    configure{ gateway = { listen = "0.0.0.0:4141", apiKeys = { "a-key-of-the-gateway" } } }
    assert.equal(0, deputy{ "check" }.status)
  end)

  it("warns of what is risky, on stderr", function()
    configure{ policy = { gate = "policy" } }
    uv.fs_chmod(dir .. "/token", 420) -- 0644
    local r = deputy{ "check" }
    assert.same({ 0, "deputy.json: ok\n" }, { r.status, r.stdout })
    assert.matches("policy.gate: warning: the script alone decides", r.stderr)
    assert.matches("central.bearerTokenFile: warning: every user of this machine can read it: chmod 600 token\n",
      r.stderr)
  end)
end)

describe("deputy probe", function()
  local function verdict(spec)
    local r = deputy(spec)
    return r.stdout, r.status, r.stderr
  end

  it("prints the verdict alone, and says it by its exit code", function()
    start_world()
    local cases = {
      [200] = { "allowed\n", 0 }, [204] = { "allowed\n", 0 },
      [401] = { "forbidden\n", 3 }, [403] = { "forbidden\n", 3 },
      [302] = { "unreachable\n", 4 }, [404] = { "unreachable\n", 4 }, [500] = { "unreachable\n", 4 },
    }
    for status, expected in pairs(cases) do
      central:set{ probe = { status = status } }
      assert.same({ expected[1], expected[2], "" }, { verdict{ "probe", "claude" } })
    end
    assert.is_true(central:saw("Bearer " .. TOKEN))
    assert.equal(0, model:connections())
    central:stop()
    assert.same({ "unreachable\n", 4, "" }, { verdict{ "probe", "claude" } })
  end)

  it("follows a revocation at once", function()
    start_world()
    assert.same({ "allowed\n", 0, "" }, { verdict{ "probe", "claude" } })
    central:revoke(TOKEN, "claude", "view")
    assert.same({ "forbidden\n", 3, "" }, { verdict{ "probe", "claude" } })
  end)

  it("says more with -v, on stderr", function()
    start_world()
    local out, status, err = verdict{ "probe", "claude", "-v" }
    assert.same({ "allowed\n", 0 }, { out, status })
    assert.matches("claude: allowed %(probe: ok, status 200, [%d.]+ ms%)\n$", err)
  end)

  it("says with -v what to look at when it is not allowed", function()
    start_world()
    local words = { [302] = "redirects are not followed", [404] = "see central.url and central.probe",
      [405] = "see central.probeMethod", [500] = "the central itself fails" }
    for status, text in pairs(words) do
      central:set{ probe = { status = status } }
      local out, _, err = verdict{ "probe", "claude", "-v" }
      assert.equal("unreachable\n", out)
      assert.is_truthy(err:find(text, 1, true), err)
    end
    central:set{ probe = { status = 200, headers = { ["Content-Type"] = "text/html" } } }
    local out, _, err = verdict{ "probe", "claude", "-v" }
    assert.same({ "unreachable\n", true }, { out, err:find("a page, or what else", 1, true) ~= nil }, err)
    for code, text in pairs{ [401] = "the central does not take this token", [403] = "this token may not view it" } do
      central:set{ probe = { status = code } }
      out, _, err = verdict{ "probe", "claude", "-v" }
      assert.same({ "forbidden\n", true }, { out, err:find(text, 1, true) ~= nil }, err)
    end
    central:stop()
    _, _, err = verdict{ "probe", "claude", "-v" }
    assert.matches("nobody listens where central.url leads\n$", err)
  end)

  it("asks nobody about a name that cannot be one, or without a token", function()
    start_world()
    for _, name in ipairs{ "", ".", "..", "a\nb", ("n"):rep(129) } do
      local out, status, err = verdict{ "probe", name }
      assert.same({ "unreachable\n", 4 }, { out, status })
      assert.matches("^deputy probe: %S", err)
    end
    configure{ central = { url = central.url } }
    local out, status, err = verdict{ "probe", "claude" }
    assert.same({ "unreachable\n", 4 }, { out, status })
    assert.matches("no token to ask with: set central.bearerToken", err)
    assert.equal(0, central:connections())
  end)
end)

describe("deputy ask", function()
  before_each(start_world)

  it("prints the central's answer and nothing else, and probes nothing", function()
    local r = deputy{ "ask", "claude", "hi" }
    assert.same({ 0, "Hello from central\n", "" }, { r.status, r.stdout, r.stderr })
    assert.equal(0, central:count("HEAD"))
    assert.equal(0, model:connections())
  end)

  it("sends what was asked, whatever is in it", function()
    local prompt = 'say "hi"\n\\ \u{1f600} \1 {} [] \t'
    deputy{ "ask", "claude", "--system", "be \"short\"", "--", prompt }
    local body = cjson.decode(central:requests("POST")[1].body)
    assert.same({ model = "claude", messages = {
      { role = "system", content = 'be "short"' }, { role = "user", content = prompt },
    } }, body)
    deputy{ "ask", "claude", "-", stdin = prompt .. "\n" }
    body = cjson.decode(central:requests("POST")[2].body)
    assert.same({ { role = "user", content = prompt .. "\n" } }, body.messages)
    local r = deputy{ "ask", "claude", "\xff" }
    assert.same({ 2, "" }, { r.status, r.stdout })
    assert.matches("must be UTF%-8", r.stderr)
  end)

  it("prints the stand-in's answer when the central is down and allows it", function()
    central:set{ inference = OUTAGE }
    local r = deputy{ "ask", "claude", "hi" }
    assert.same({ 0, "Hello from local\n", "" }, { r.status, r.stdout, r.stderr })
    assert.equal(1, central:count("HEAD"))
    assert.equal("qwen3", cjson.decode(model:requests("POST")[1].body).model)
    assert.is_false(model:saw(TOKEN))
    assert.matches("'vllm%-local' stood in for 'claude' %(the central: 503%)",
      deputy{ "ask", "claude", "hi", "-v" }.stderr)
  end)

  it("fails with the central's own error when the permission was revoked", function()
    central:set{ inference = OUTAGE }
    central:revoke(TOKEN, "claude", "view")
    local r = deputy{ "ask", "claude", "hi" }
    assert.same({ 1, "" }, { r.status, r.stdout })
    assert.equal("deputy ask: claude: the central answered 503 (overloaded): no capacity\n"
      .. "deputy ask: no failover: forbidden: the central says that this token may not see 'claude' (probe: 403)\n",
      r.stderr)
    assert.equal(0, model:connections())
  end)

  it("says why nobody stood in", function()
    local function why(llm)
      local r = deputy{ "ask", llm or "claude", "hi" }
      assert.same({ 1, "" }, { r.status, r.stdout })
      return r.stderr
    end
    central:set{ inference = OUTAGE, probe = { status = 500 } }
    assert.matches("no failover: unreachable: the central did not confirm .* %(probe: 500%)\n$", why())
    assert.matches("no failover: no provider in deputy.json stands in for 'opus'\n$", why("opus"))
    central:set{ inference = { status = 400, json = { error = { message = "bad", code = "context" } } } }
    assert.matches("answered 400 %(context%): bad\n.*no failover: the policy takes this for the central's answer, not",
      why())
    tmp.write(dir, "closed.lua", [[
      local judge = require "deputy.judge"
      local M = { should_failover = judge.should_failover, verdict = judge.verdict }
      function M.route(run) return run:primary() end -- as one that is closed by night
      return M]])
    central:set{ inference = OUTAGE, probe = "ok" }
    local open = tmp.read(dir .. "/deputy.json")
    tmp.write(dir, "deputy.json", (open:gsub("^{", '{ "policy": { "script": "closed.lua" }, ')))
    assert.matches("no failover: the policy .*, or has a reason of its own\n$", why())
    tmp.write(dir, "deputy.json", open)
    central:set{ inference = OUTAGE, probe = "ok" }
    model:set{ steps = { status = 404, json = { error = { message = "no such path" } } } }
    assert.matches("failed too %(404%) at 127[^ ]+ %(its url usually ends in /v1%);", why())
    model:stop()
    assert.matches("no failover: 'vllm%-local' was allowed to stand in, but failed too %(connect%) at "
      .. model.url:match("//([^/]+)"):gsub("%p", "%%%0") .. "; 'deputy providers' shows how it is\n$", why())
    configure{ central = { url = central.url } }
    assert.matches("no failover: unreachable: there is no token to ask the central with", why())
    configure{ policy = { script = "mine.lua", verify = "off" } }
    write("mine.lua", "return { route = function(run) run:primary() error('oops') end, verdict = function() end, "
      .. "should_failover = function() end }")
    local said = why()
    assert.matches("oops", said)
    assert.matches("no failover: the policy did not come to an end", said)
    central:stop()
    configure()
    assert.matches("the central did not answer %(connect%): .*\n.*no failover: unreachable: .* %(probe: connect%)\n$",
      why())
  end)

  it("--json prints one object, and the reply in it byte for byte", function()
    local body = '{"choices": [ {"message":{"content":"\\u0041 \\/","x":[],"big":12345678901234567890}} ],\n"y":1.0e2}'
    local reply = { status = 200, headers = { ["Content-Type"] = "application/json" }, body = body }
    central:set{ inference = reply }
    local r = deputy{ "ask", "claude", "hi", "--json" }
    assert.same({ 0, "" }, { r.status, r.stderr })
    assert.is_truthy(r.stdout:find('"result":' .. body .. ",", 1, true))
    local object = cjson.decode(r.stdout)
    assert.same({ false, cjson.null, "primary", "ok", 200 },
      { object.failover, object.via, object.trace[1].leg, object.trace[1].kind, object.trace[1].status })
    assert.equal("A /\n", deputy{ "ask", "claude", "hi" }.stdout)
  end)

  it("--json names the stand-in and each leg", function()
    central:set{ inference = OUTAGE }
    local object = cjson.decode(deputy{ "ask", "claude", "hi", "--json" }.stdout)
    assert.same({ true, "vllm-local" }, { object.failover, object.via })
    assert.equal("Hello from local", object.result.choices[1].message.content)
    local legs, last = {}, 0
    for i, entry in ipairs(object.trace) do
      legs[i] = ("%s %s %d %s"):format(entry.leg, entry.kind, entry.status, entry.verdict or entry.provider or "-")
      assert.is_true(entry.start_us >= last and entry.end_us >= entry.start_us)
      last = entry.start_us
    end
    assert.same({ "primary status 503 -", "primary status 503 -", "probe ok 200 allowed", "local ok 200 vllm-local" },
      legs)
  end)

  it("--json holds the central's error as it came", function()
    central:revoke(TOKEN, "claude", "view")
    for _, body in ipairs{ '{"error":{"message":"m","code":null},"big":12345678901234567890}', "<h1>down\xff</h1>" } do
      central:set{ inference = { status = 503, body = body } }
      local r = deputy{ "ask", "claude", "hi", "--json" }
      assert.equal(1, r.status)
      assert.matches("answered 503", r.stderr)
      local object = cjson.decode(r.stdout)
      assert.same({ false, cjson.null, "status", 503 },
        { object.failover, object.via, object.failure.kind, object.failure.status })
      local expected = body:sub(1, 1) == "{" and body or '"<h1>down?</h1>"'
      assert.is_truthy(r.stdout:find('"error":' .. expected .. ",", 1, true))
      assert.is_nil(object.result)
    end
    central:stop()
    local object = cjson.decode(deputy{ "ask", "claude", "hi", "--json" }.stdout)
    assert.same({ cjson.null, "connect" }, { object.error, object.failure.kind })
  end)

  it("takes control bytes out of what others say", function()
    central:set{ inference = { status = 418, json = { error = { message = "a\27[2Jb" } } } }
    assert.matches("answered 418.*: a %[2Jb\n", deputy{ "ask", "claude", "hi" }.stderr)
  end)

  it("keeps the token to itself when an error repeats it", function()
    central:set{ inference = { status = 401, json = { error = { message = "bad token " .. TOKEN .. "!" } } } }
    assert.matches("bad token %[token%]!\n", deputy{ "ask", "claude", "hi" }.stderr)
  end)

  it("--stream prints the words as they come", function()
    central:set{ every_ms = 150, reply = "one two three" }
    local p = shell.start(prepared{ "ask", "claude", "hi", "--stream" })
    assert.is_truthy(p:wait_for("^one"))
    assert.is_nil(p.stdout:find("three"))
    local r = p:wait()
    assert.same({ 0, "one two three\n", "" }, { r.status, r.stdout, r.stderr })
    assert.is_true(cjson.decode(central:requests("POST")[1].body).stream)
  end)

  it("--stream fails over before the first word", function()
    central:set{ inference = OUTAGE }
    local r = deputy{ "ask", "claude", "hi", "--stream" }
    assert.same({ 0, "Hello from local\n", "" }, { r.status, r.stdout, r.stderr })
  end)

  it("--stream reads events however they are written and cut", function()
    local function delta(text) return '{"choices":[{"delta":{"content":' .. cjson.encode(text) .. "}}]}" end
    local stream = ": hi\r\n\r\ndata:" .. delta("a") .. "\r\n\r\nevent: x\rdata: " .. delta("b\n")
      .. "\r\rid: 1\ndata: "
      .. '{"choices":[{"delta":\ndata: {"content":"c","role":"x"}}]}\n\ndata: {"choices":[]}\n\ndata: no json\n\n'
      .. "data: [DONE]\n\n"
    central:set{ inference = {
      { send = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" },
      { drip = stream, every_ms = 1, size = 3 }, { close = true },
    } }
    local r = deputy{ "ask", "claude", "hi", "--stream" }
    assert.same({ 0, "ab\nc\n", "" }, { r.status, r.stdout, r.stderr })
  end)

  it("--stream that is cut after words is a failure, not an answer", function()
    central:set{ every_ms = 20, inference = {
      { cut = 700 }, { sse = { '{"choices":[{"delta":{"content":"half"}}]}',
        '{"choices":[{"delta":{"content":"' .. ("x"):rep(600) .. '"}}]}' }, every_ms = 50 },
    } }
    local r = deputy{ "ask", "claude", "hi", "--stream" }
    assert.equal(1, r.status)
    assert.matches("^half", r.stdout)
    assert.matches("claude: the answer was cut off", r.stderr)
    assert.equal(0, model:connections())
  end)

  it("--timeout-ms bounds all of it", function()
    central:set{ inference = { stall = true } }
    local r = deputy{ "ask", "claude", "hi", "--timeout-ms", "300" }
    assert.same({ 1, "" }, { r.status, r.stdout })
    assert.matches("deadline", r.stderr)
    assert.is_true(r.us < 2000000)
  end)

  it("ends at Ctrl-C, and so does the call", function()
    central:set{ inference = { stall = true } }
    for signal, status in pairs{ sigint = 130, sigterm = 143 } do
      central:clear()
      local p = shell.start(prepared{ "ask", "claude", "hi" })
      central:wait_until(function() return central:count("POST") == 1 end)
      p:signal(signal)
      local r = p:wait(2000)
      assert.same({ status, "", "deputy ask: cancelled\n" }, { r.status, r.stdout, r.stderr })
      central:wait_until(function() return central:connection_log()[1].ended end)
      assert.is_truthy(central:connection_log()[1].ended)
    end
  end)

  it("stops when nobody reads any more", function()
    central:set{ inference = { sse = { '{"choices":[{"delta":{"content":"word "}}]}',
      '{"choices":[{"delta":{"content":"word "}}]}', '{"choices":[{"delta":{"content":"word "}}]}' }, every_ms = 100 } }
    local spec = prepared{ "ask", "claude", "hi", "--stream" }
    local command = table.concat({ table.unpack(spec) }, " ")
    local r = shell.run{ "bash", "-c", command .. " | true; exit ${PIPESTATUS[0]}", env = spec.env, cwd = dir }
    assert.equal(1, r.status)
    assert.matches("cannot write to stdout", r.stderr)
  end)

  it("shows on a terminal which leg it waits for, and takes the line away", function()
    central:set{ inference = { { wait_ms = 350 }, OUTAGE } }
    model:set{ steps = { { wait_ms = 350 }, { json = { choices = { { message = { content = "late" } } } } } } }
    local spec = prepared{ "ask", "claude", "hi" }
    spec.env.TERM = "xterm"
    local command = table.concat({ table.unpack(spec) }, " ") .. " > " .. dir .. "/answer"
    local r = shell.run{ "script", "-qec", command, "/dev/null", env = spec.env, cwd = dir }
    assert.equal(0, r.status)
    assert.equal("late\n", tmp.read(dir .. "/answer"))
    assert.matches("\rprimary claude 0%.[12] s\27%[K", r.stdout)
    assert.matches("\rlocal vllm%-local 0%.[12] s\27%[K", r.stdout)
    assert.matches("\r\27%[Kdeputy ask: 'vllm%-local' stood in for 'claude' %(the central: 503%)\r\n$", r.stdout)
  end)

  it("says so when an answer has no words", function()
    for body, message in pairs{
      ['{"choices":[{"message":{"content":null,"tool_calls":[{"id":"x"}]}}]}'] = "the answer has no text in it",
      ['{"choices":[{"message":{"content":[{"type":"text","text":"in "},{"type":"text","text":"parts"}]}}]}'] = false,
      ['{"choices":[{"message":{"content":null,"refusal":"in parts"}}]}'] = false,
    } do
      central:set{ inference = { status = 200, headers = { ["Content-Type"] = "application/json" }, body = body } }
      local r = deputy{ "ask", "claude", "hi" }
      assert.equal(0, r.status)
      assert.equal(message and "" or "in parts\n", r.stdout)
      assert.equal(message and "deputy ask: " .. message .. "; see --json for what came\n" or "", r.stderr)
    end
  end)
end)

describe("deputy providers", function()
  local function with_three()
    start_world()
    configure{ providers = {
      { name = "vllm-local", type = "openai", url = model.url .. "/v1", model = "qwen3", apiKey = KEY,
        failoverFor = { "claude", "opus" } },
      { name = "off", type = "openai", url = peers.refused() .. "/v1" },
      { name = "e", type = "echo", failoverFor = "claude" },
    } }
  end

  it("prints a table", function()
    with_three()
    local r = deputy{ "providers" }
    assert.same({ 0, "" }, { r.status, r.stderr })
    local lines = {}
    for line in r.stdout:gmatch("[^\n]+") do lines[#lines + 1] = line:gsub("  +", "|") end
    assert.same({
      "NAME|TYPE|STANDS IN FOR|AVAILABLE|MODEL|URL|MODELS",
      "vllm-local|openai|claude, opus|yes|qwen3|" .. model.url .. "/v1|qwen3",
      "off|openai|-|no|-|" .. peers.refused() .. "/v1|-",
    }, { lines[1], lines[2], lines[3] })
    assert.matches("^e|echo|claude|yes|%-|%-|", lines[4])
    r = deputy{ "providers", env = { XDG_RUNTIME_DIR = false } }
    assert.matches("\nwhether 'deputy serve' runs is not known: no control socket is configured: ", r.stdout)
    assert.matches("deputy providers: 'off': ", deputy{ "providers", "-v" }.stderr)
  end)

  it("prints JSON", function()
    with_three()
    local r = deputy{ "providers", "--json" }
    assert.same({ 0, "" }, { r.status, r.stderr })
    local list = cjson.decode(r.stdout)
    assert.same({
      name = "vllm-local", type = "openai", url = model.url .. "/v1", model = "qwen3",
      failoverFor = { "claude", "opus" }, available = true, models = { "qwen3" }, error = cjson.null,
    }, list[1])
    assert.same({ false, "string" }, { list[2].available, type(list[2].error) })
  end)

  it("is an empty list when there are none", function()
    configure{ providers = nil, central = { url = "http://127.0.0.1:1" } }
    write("deputy.json", '{"central": {"url": "http://127.0.0.1:1"}}')
    assert.equal("[]\n", deputy{ "providers", "--json" }.stdout)
  end)

  it("waits for none of them longer than its two seconds", function()
    start_world()
    configure{ providers = { { name = "deaf", type = "openai", url = peers.blackhole() .. "/v1" } } }
    local r = deputy{ "providers", "--json" }
    assert.is_false(cjson.decode(r.stdout)[1].available)
    assert.is_true(r.us < 3000000)
  end)
end)
