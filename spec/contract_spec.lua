-- deputy contract: passes on a central that keeps the contract, and names the rule that another one breaks.
local uv = require "luv"
local lfs = require "lfs"
local cjson = require "cjson"
local centrals = require "spec.support.central"
local fake = require "spec.support.contract_central"
local peers = require "spec.support.peers"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local BUILD = assert(uv.fs_realpath(os.getenv("DEPUTY_BUILD") or "build"))

local function lua_folder()
  return not lfs.attributes(BUILD .. "/../lua/deputy/config.lua") and lfs.currentdir() .. "/lua" or false
end

local function contract(...)
  local r = shell.run{
    BUILD .. "/deputy", "contract", timeout_ms = 60000, env = { DEPUTY_LUA = lua_folder() }, ...,
  }
  assert.is_false(r.timed_out)
  for _, token in ipairs{ fake.allowed, fake.denied } do
    assert.is_nil((r.stdout .. r.stderr):find(token, 1, true), "a token was printed")
  end
  return r
end

local function check(url, ...)
  return contract("--url", url, "--token-allowed", fake.allowed, "--token-denied", fake.denied, "--llm", "claude",
    "--samples", "5", ...)
end

-- The rules that do not hold, as "a b", in the order of the report.
local function failing(text)
  local names = {}
  for name in text:gmatch("%f[^\n\0]FAIL  (%S+)") do names[#names + 1] = name end
  return table.concat(names, " ")
end

local function command(peer, what)
  return "curl -fsS -o /dev/null -X POST " .. peer.url .. "/" .. what
end

describe("deputy contract", function()
  after_each(function()
    centrals.stop_all()
    peers.stop_all()
  end)

  it("passes on deputy central, by id and by name", function()
    local central = centrals.start()
    local id = central:llm("claude", { url = peers.refused() .. "/v1" })
    local alice = central:user("alice", { { "view", "claude" }, { "run", "claude" } })
    local bob = central:user("bob", { "create" })
    local function change(verb)
      return ("%s/deputy central %s --user alice --role view --llm claude --db %s"):format(BUILD, verb, central.db)
    end
    for _, llm in ipairs{ "claude", id } do
      local r = contract("--url", central.url, "--token-allowed", alice, "--token-denied", bob, "--llm", llm, "--infer",
        "--revoke", change "revoke", "--grant", change "grant")
      assert.equal("", failing(r.stdout), r.stdout)
      assert.equal(0, r.status)
      assert.matches("\n16 hold, 0 do not, 0 notes\n$", r.stdout)
      assert.matches("the very next probe is forbidden", r.stdout, 1, true)
    end
  end)

  it("passes on a central that keeps the contract, and says so line by line", function()
    local peer = peers.start(fake.spec())
    local r = check(peer.url, "--infer", "--revoke", command(peer, "revoke"), "--grant", command(peer, "grant"))
    assert.equal("", failing(r.stdout))
    assert.equal("", r.stderr)
    assert.equal(0, r.status)
    assert.matches("\n16 hold, 0 do not, 0 notes\n$", r.stdout)
    assert.matches("the very next probe is forbidden", r.stdout, 1, true)
    assert.matches("an outage is 503 'upstream_unreachable'", r.stdout, 1, true)
    for line in r.stdout:gmatch("[^\n]+") do
      assert.is_truthy(line:match("^ok    [%l-]+ +%S") or line:match("^%d+ hold"), line)
    end
  end)

  it("asks nothing that changes something or costs something unless it is told to", function()
    local peer = peers.start(fake.spec())
    assert.equal(0, check(peer.url).status)
    for _, request in ipairs(peer:requests("POST")) do
      assert.is_not.equal("Bearer " .. fake.allowed, request.headers.authorization)
    end
    assert.equal(0, peer:count("PUT") + peer:count("DELETE") + peer:count("PATCH"))
  end)

  it("gives the same as one JSON object", function()
    local r = check(peers.start(fake.spec "hides as not found").url, "--json")
    local report = cjson.decode(r.stdout)
    assert.equal(1, r.status)
    assert.is_false(report.ok)
    assert.equal("claude", report.llm)
    local results = {}
    for _, each in ipairs(report.checks) do results[each.id] = each.result end
    assert.equal("FAIL", results.denied)
    assert.equal("ok", results.allowed)
    assert.equal("note", results["revocation-lag"])
  end)

  it("takes the tokens from files, and warns when others may read them", function()
    local dir = tmp.dir()
    for _, who in ipairs{ "allowed", "denied" } do tmp.write(dir, who, fake[who] .. "\n") end
    uv.fs_chmod(dir .. "/allowed", 384)
    uv.fs_chmod(dir .. "/denied", 420)
    local r = contract("--url", peers.start(fake.spec()).url, "--token-allowed-file", dir .. "/allowed",
      "--token-denied-file", dir .. "/denied", "--llm", "claude", "--samples", "1")
    assert.equal(0, r.status, r.stdout .. r.stderr)
    assert.matches("denied can be read by others", r.stderr, 1, true)
    assert.is_nil(r.stderr:find("allowed can be", 1, true))
  end)

  it("works over TLS, and not with a certificate that is wrong", function()
    local ca = peers.tls_files().ca
    local spec = fake.spec()
    spec.tls = "good"
    assert.equal(0, check(peers.start(spec).url, "--ca-file", ca).status)
    for _, kind in ipairs{ "wrong_host", "expired", "self_signed", "untrusted" } do
      spec.tls = kind
      local r = check(peers.start(spec).url, "--ca-file", ca)
      assert.equal(1, r.status, kind)
      assert.equal("reachable", failing(r.stdout), kind)
    end
  end)

  it("says when nobody is there, in one line", function()
    local r = check(peers.refused())
    assert.equal(1, r.status)
    assert.matches("^FAIL  reachable +cannot connect to 127%.0%.0%.1:%d+: connection refused\n0 hold", r.stdout)
  end)

  it("ends, with one line, when what comes is no HTTP or has no end", function()
    for expected, steps in pairs{
      ["is not an HTTP/1 reply"] = { { send = "SSH-2.0-x\r\n\r\n" }, { close = true } },
      ["the connection ended"] = { { send = "HTTP/1.1 200 OK\r\n" }, { close = true } },
      ["no answer in time"] = { { stall = true } },
      ["over 65536 bytes of head"] = { { send = "HTTP/1.1 200 OK\r\n" }, { repeat_send = "X-Y: zzzzzzzz\r\n" } },
    } do
      local r = check(peers.listener{ reply = steps }.url, "--timeout-ms", "500")
      assert.equal(1, r.status)
      assert.equal("reachable", failing(r.stdout))
      assert.matches(expected, r.stdout, 1, true)
    end
    -- Only a GET has a body.
    local r = check(peers.listener{ reply = { { send = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" },
      { repeat_send = "ffff\r\n" .. ("x"):rep(65535) .. "\r\n" } } }.url, "--timeout-ms", "300", "--samples", "1")
    assert.equal(1, r.status)
    assert.matches("FAIL  head%-equals%-get +the allowed token: HEAD 200, GET limit: a body of over 1048576", r.stdout)
  end)

  for _, fault in ipairs{ "calls an outage a verdict", "calls an outage a mistake" } do
    it("finds, with --infer, a central that " .. fault, function()
      local r = check(peers.start(fake.spec(fault)).url, "--infer")
      assert.equal("inference", failing(r.stdout), r.stdout)
    end)
  end

  for _, fault in ipairs{ "remembers for a while", "asks once for each connection" } do
    it("finds, with --revoke, a central that " .. fault, function()
      local peer = peers.start(fake.spec(fault))
      local r = check(peer.url, "--max-lag-ms", "100", "--revoke", command(peer, "revoke"), "--grant",
        command(peer, "grant"))
      assert.equal("revocation-lag", failing(r.stdout), r.stdout)
    end)
  end

  it("grants again whatever was found", function()
    local peer = peers.start(fake.spec "remembers for a while")
    check(peer.url, "--max-lag-ms", "100", "--revoke", command(peer, "revoke"), "--grant", command(peer, "grant"))
    assert.equal(1, peer:count("POST", "^/grant$"))
  end)

  for _, fault in ipairs{ "takes another case for the same", "answers for a path with a slash at its end" } do
    it("only notes a central that " .. fault, function()
      local r = check(peers.start(fake.spec(fault)).url)
      assert.equal(0, r.status, r.stdout)
      assert.matches("note  path%-spelling", r.stdout)
    end)
  end

  it("answers wrong arguments with 2 and what was expected", function()
    local url, a, d = "http://127.0.0.1:1", fake.allowed, fake.denied
    local file = tmp.write(nil, "empty", "")
    for expected, args in pairs{
      ["missing option '%-%-url'"] = { "--llm", "x", "--token-allowed", a, "--token-denied", d },
      ["unknown option '%-%-tokens%-allowed': did you mean '%-%-token%-allowed'"] = { "--tokens-allowed", a },
      ["%-%-token%-denied or %-%-token%-denied%-file is needed"] = { "--url", url, "--llm", "x", "--token-allowed", a },
      ["the two tokens are the same"] = { "--url", url, "--llm", "x", "--token-allowed", a, "--token-denied", a },
      ["do not belong into the URL"] = { "--url", "http://u:p@h", "--llm", "x", "--token-allowed", a,
        "--token-denied", d },
      ["expected a path that holds {llm}, got 'models'"] = { "--url", url, "--llm", "x", "--token-allowed", a,
        "--token-denied", d, "--probe", "models" },
      ["%-%-revoke and %-%-grant go together"] = { "--url", url, "--llm", "x", "--token-allowed", a,
        "--token-denied", d, "--revoke", "true" },
      ["expected one line with the token"] = { "--url", url, "--llm", "x", "--token-allowed-file", file,
        "--token-denied", d },
    } do
      local r = contract(table.unpack(args))
      assert.equal(2, r.status, expected)
      assert.matches(expected, r.stderr)
      assert.equal("", r.stdout)
    end
  end)

  it("has help that warns of tokens as arguments", function()
    local r = contract("--help")
    assert.equal(0, r.status)
    assert.matches("can be seen by everybody on this machine", r.stdout, 1, true)
  end)
end)

describe("deputy contract finds a central", function()
  local peer

  setup(function() peer = peers.start(fake.spec()) end)
  teardown(peers.stop_all)

  -- What is wrong with a central, and the rules that must say so: no other may.
  local faults = {
    ["refuses everybody"] = "allowed",
    ["allows everybody"] = "denied path-tricks",
    ["hides as not found"] = "denied",
    ["allows without a token"] = "no-token",
    ["forbids without a token"] = "no-token",
    ["forbids a token that is none"] = "bad-token",
    ["accepts part of a token"] = "bad-token",
    ["has another status for HEAD"] = "head-equals-get",
    ["has no length for HEAD"] = "head-equals-get",
    ["has a header for HEAD alone"] = "head-equals-get",
    ["sends a body with HEAD"] = "no-body-on-head",
    ["redirects to a page for logging in"] = "no-token no-redirect",
    ["answers with a page"] = "no-html",
    ["is behind a cache"] = "no-cache",
    ["says not found only when it is not"] = "name-oracle",
    ["says more about what exists"] = "name-oracle",
    ["says other words about what exists"] = "name-oracle",
    ["has a header for what exists"] = "name-oracle",
    ["allows any name"] = "catch-all path-tricks",
    ["allows what looks like an id"] = "catch-all",
    ["breaks on a name that is none"] = "catch-all path-tricks",
    ["resolves what was escaped"] = "path-tricks",
    ["lists at a dot"] = "path-tricks",
    ["breaks on a control byte"] = "path-tricks",
    ["looks longer for what exists"] = "timing",
    ["is slow once"] = "in-time",
    ["has no codes"] = "inference",
    ["has one code for both verdicts"] = "inference",
    ["hides inference as not found"] = "inference",
  }

  for fault, rules in pairs(faults) do
    it("that " .. fault, function()
      peer:set{ fault = fault, was_slow = false }
      local r = check(peer.url)
      assert.equal(rules, failing(r.stdout), r.stdout)
      assert.equal(1, r.status)
    end)
  end
end)
