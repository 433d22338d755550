-- The probe over real sockets. In every case three things are looked at: what the verdict is, that no local provider is
-- called without an allowed one, and that nobody but the central sees the caller's token.
local deputy = require "deputy"
local socket = require "socket"
local peers = require "spec.support.peers"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local TOKEN = "tok-alice-3141592653"
local PROBE_MS = 80

local central, thief

setup(function()
  central = peers.central{ llms = { claude = { id = "clxyz" } }, tokens = { [TOKEN] = { view = { "*" } } } }
  thief = peers.listener{ reply = { status = 204 } }
end)

before_each(function()
  central:clear()
  thief:clear()
  central:set{ probe = false, script = false, connect = false }
end)

teardown(peers.stop_all)

-- A router whose local provider is the thief, and what its log says.
local function make(options)
  local registry = deputy.registry()
  local lines = {}
  registry:register(deputy.openai{ name = "local", url = thief.url .. "/v1" })
  registry:register{ name = "mine", complete = function() return "local" end }
  local settings = {
    central_url = central.url, bearer_token = TOKEN, policy = "spec/support/policies/reports_probe.lua", verify = "off",
    timeouts = { probe_ms = PROBE_MS, connect_ms = 2000 },
    on_log = function(_, text) lines[#lines + 1] = text end,
  }
  for key, value in pairs(options or {}) do settings[key] = value or nil end
  return deputy.router(registry, settings), lines, registry
end

-- The verdict, how often a stand-in was called in a run, and how the probe ended: "kind status type".
local function ask(options, llm)
  local router <close>, lines, registry = make(options)
  llm = llm or "claude"
  local verdict = router:check_auth(llm)
  registry:register_failover(llm, "mine")
  local calls = 0
  local ok, result = pcall(router.run, router, llm, function() error("primary", 0) end, function()
    calls = calls + 1
    return "local"
  end)
  assert.equal(ok and "local" or "primary", ok and result.result or result)
  local text = table.concat(lines, "\n")
  local line = text:match("run %d+: probe ([^\n]*)") or ""
  assert.is_nil(text:find(TOKEN, 1, true))
  return verdict, calls, line
end

local function assert_fails_closed(expected, how, options, llm)
  local verdict, calls, line = ask(options, llm)
  assert.equal(expected, verdict)
  assert.equal(0, calls)
  assert.equal(how, line)
  assert.equal(0, thief:bytes())
  assert.is_false(thief:saw(TOKEN))
end

local function assert_allows(options, llm)
  local verdict, calls = ask(options, llm)
  assert.equal("allowed", verdict)
  assert.equal(1, calls)
  assert.is_false(thief:saw(TOKEN))
end

describe("a probe", function()
  it("is a bare HEAD with the caller's token, on a connection of its own", function()
    assert_allows()
    local log = central:log()
    assert.equal(2, #log)
    assert.equal(2, central:connections())
    for _, request in ipairs(log) do
      assert.equal("HEAD", request.method)
      assert.equal("/api/v1/llms/claude", request.target)
      assert.equal("", request.body)
      assert.equal("Bearer " .. TOKEN, request.headers.authorization)
      for _, name in ipairs{ "accept-encoding", "cookie", "expect", "content-type", "content-length", "referer" } do
        assert.is_nil(request.headers[name])
      end
    end
    central:wait_until(function()
      for _, connection in ipairs(central:connection_log()) do if not connection.ended then return false end end
      return true
    end)
    for _, connection in ipairs(central:connection_log()) do assert.truthy(connection.ended) end
  end)

  it("follows the path that is configured", function()
    assert_allows{ central_url = central.url, probe_path = "/api/v1/llms/{llm}?x=1" }
    assert.equal("/api/v1/llms/claude?x=1", central:log()[1].target)
  end)

  it("remembers no cookie", function()
    central:set{ probe = { status = 204, headers = { ["Set-Cookie"] = "session=1; Path=/" } } }
    local router <close> = make()
    assert.equal("allowed", router:check_auth("claude"))
    assert.equal("allowed", router:check_auth("claude"))
    assert.is_nil(central:log()[2].headers.cookie)
  end)

  it("remembers no answer", function()
    local router <close> = make()
    central:set{ probe = { each = { { status = 204 }, { status = 403 }, { status = 500 }, { status = 204 } } } }
    local verdicts = {}
    for i = 1, 4 do verdicts[i] = router:check_auth("claude") end
    assert.same({ "allowed", "forbidden", "unreachable", "allowed" }, verdicts)
  end)

  it("carries each caller's own token", function()
    local router <close> = make()
    assert.equal("allowed", router:check_auth("claude", TOKEN))
    assert.equal("forbidden", router:check_auth("claude", "tok-mallory"))
    assert.equal("Bearer tok-mallory", central:log()[2].headers.authorization)
  end)

  it("takes the id for the name", function() assert_allows(nil, "clxyz") end)
end)

describe("a probe that is answered", function()
  for _, case in ipairs{
    { "200 and 204 are allowed", { each = { { status = 200 }, { status = 204 } } }, "allowed" },
    { "401 is forbidden", { status = 401 }, "forbidden", "ok 401 nil" },
    { "403 is forbidden", { status = 403 }, "forbidden", "ok 403 nil" },
    { "404 is unreachable", { status = 404 }, "unreachable", "ok 404 nil" },
    { "500 is unreachable", { status = 500 }, "unreachable", "ok 500 nil" },
    { "429 is unreachable", { status = 429 }, "unreachable", "ok 429 nil" },
    { "407 is unreachable", { status = 407 }, "unreachable", "ok 407 nil" },
    { "100 before 204 is allowed", { { send = "HTTP/1.1 100 Continue\r\n\r\n" }, { status = 204 } }, "allowed" },
    { "103 before 204 is allowed",
      { { send = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" }, { status = 204 } }, "allowed" },
    { "103 before 403 is forbidden",
      { { send = "HTTP/1.1 103 Early Hints\r\n\r\n" }, { status = 403 } }, "forbidden", "ok 403 nil" },
    { "103 and no more is no answer",
      { { send = "HTTP/1.1 103 Early Hints\r\n\r\n" }, { stall = true } }, "unreachable", "timeout nil nil" },
    { "103 with a type does not lend it to 500",
      { { send = "HTTP/1.1 103 E\r\nContent-Type: a/b\r\n\r\n" }, { status = 500 } }, "unreachable", "ok 500 nil" },
    { "101 is no answer",
      { { send = "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" }, { close = true } },
      "unreachable" },
    { "a body after 204's head is nothing", { { status = 204 }, { wait_ms = 20 }, { send = "late" } }, "allowed" },
    { "a late body does not change 403", { { status = 403, headers = { ["Content-Length"] = "30" } },
      { wait_ms = 20 }, { send = "HTTP/1.1 200 OK\r\n\r\n" } }, "forbidden", "ok 403 nil" },
    { "a second head does not change the first", { { send = "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"
      .. "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" } }, "forbidden", "ok 403 nil" },
    { "an HTML 200 is a captive portal", { status = 200, headers = { ["Content-Type"] = "text/html" } },
      "unreachable", "ok 200 text/html" },
    { "whatever its parameters", { status = 200, headers = { ["Content-Type"] = "Text/HTML; charset=utf-8" } },
      "unreachable", "ok 200 text/html" },
    { "folded too", { { send = "HTTP/1.1 200 OK\r\nContent-Type: text/\r\n html\r\n\r\n" } },
      "unreachable", "ok 200 text/html" },
    { "XHTML too", { status = 203, headers = { ["Content-Type"] = "application/xhtml+xml" } },
      "unreachable", "ok 203 application/xhtml+xml" },
    { "an HTML 403 is still forbidden", { status = 403, headers = { ["Content-Type"] = "text/html" } },
      "forbidden", "ok 403 text/html" },
    { "a JSON 200 is allowed", { status = 200, headers = { ["Content-Type"] = "application/json" } }, "allowed" },
  } do
    it(case[1], function()
      central:set{ probe = case[2] }
      if case[3] == "allowed" then return assert_allows() end
      local verdict, calls, line = ask()
      assert.equal(case[3], verdict)
      assert.equal(0, calls)
      assert.equal(case[4] or line, line)
      assert.equal(0, thief:bytes())
    end)
  end

  for _, status in ipairs{ 301, 302, 303, 307, 308 } do
    it(status .. " leads nowhere", function()
      central:set{ probe = { status = status, headers = { Location = thief.url .. "/api/v1/llms/claude" } } }
      assert_fails_closed("unreachable", ("ok %d nil"):format(status))
      assert.equal(0, thief:connections())
    end)
  end

  it("a redirect to itself is not followed either", function()
    central:set{ routes = { { "HEAD /api.*", { status = 302, headers = { Location = central.url .. "/allowed" } } },
      { "HEAD /allowed", { status = 204 } } } }
    assert_fails_closed("unreachable", "ok 302 nil")
    assert.equal(0, central:count("HEAD", "^/allowed"))
    central:set{ routes = false }
  end)
end)

describe("a probe that fails", function()
  for _, case in ipairs{
    { "nothing comes", { { stall = true } }, "timeout" },
    { "a status line, then nothing", { { send = "HTTP/1.1 200 OK\r\n" }, { stall = true } }, "timeout" },
    { "half a status line", { { send = "HTTP/1.1 20" }, { stall = true } }, "timeout" },
    { "a head without its end", { { send = "HTTP/1.1 204 No\r\nX: y\r\n" }, { stall = true } }, "timeout" },
    { "one byte every 10 ms", { { drip = "HTTP/1.1 200 OK\r\nX: " .. ("y"):rep(90) .. "\r\n\r\n", every_ms = 10 } },
      "timeout" },
    { "a connection that closes", { { close = true } }, "connect" },
    { "a reset", { { reset = true } }, "connect" },
    { "a reset in the head", { { send = "HTTP/1.1 200 OK\r\nX: " }, { reset = true } }, "connect" },
    { "a close in the head", { { send = "HTTP/1.1 200 OK\r\nX: y\r\n" }, { close = true } }, "connect" },
    { "garbage", { { send = ("\xff\0\r\n"):rep(20) }, { close = true } }, "protocol" },
    { "HTTP/0.9", { { send = "<html>hello</html>" }, { close = true } }, "protocol" },
    { "two different lengths", { { send = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n" } },
      "protocol" },
    { "a length and chunks",
      { { send = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" } }, "protocol" },
    { "a NUL in the head", { { send = "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n" } }, "protocol" },
    { "a folded line of framing", { { send = "HTTP/1.1 200 OK\r\nContent-Length:\r\n 0\r\n\r\n" } }, "protocol" },
    { "a folded status line", { { send = "HTTP/1.1 200 OK\r\n folded\r\n\r\n" } }, "protocol" },
    { "a header bomb of lines",
      { { send = "HTTP/1.1 200 OK\r\n" }, { repeat_send = ("X: %s\r\n"):format(("y"):rep(99)) } },
      "limit" },
    { "a header bomb of one line", { { send = "HTTP/1.1 200 OK\r\nX: " }, { repeat_send = ("y"):rep(999) } }, "limit" },
    { "a header bomb of 103s",
      { { repeat_send = "HTTP/1.1 103 Early Hints\r\nLink: <" .. ("y"):rep(999) .. ">\r\n\r\n" } }, "limit" },
    { "two types", { { send = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Type: a/b\r\n\r\n" } },
      "protocol" },
  } do
    it(case[1], function()
      central:set{ probe = case[2] }
      assert_fails_closed("unreachable", case[3] .. " nil nil", case[3] == "limit"
        and { timeouts = { probe_ms = 3000 }, limits = { max_header_bytes = 16384 } } or nil)
      assert.is_true(central:connections() >= 2)
    end)
  end

  it("a peer that speaks first", function()
    central:set{ connect = { { send = "220 smtp.example\r\n" }, { stall = true } } }
    assert_fails_closed("unreachable", "protocol nil nil")
  end)

  it("a refused connection", function()
    assert_fails_closed("unreachable", "connect nil nil", { central_url = peers.refused() })
  end)

  it("a connection that never stands", function()
    assert_fails_closed("unreachable", "timeout nil nil", { central_url = peers.blackhole() })
  end)

  it("a host that does not exist", function()
    local verdict, calls, line = ask({ central_url = "http://central.invalid:9" })
    assert.equal("unreachable", verdict)
    assert.equal(0, calls)
    assert.is_true(line == "dns nil nil" or line == "timeout nil nil")
  end)

  it("takes no longer than its time, and neither does closing", function()
    central:set{ probe = { { stall = true } } }
    local began = peers.now_us()
    do
      local router <close> = make()
      assert.equal("unreachable", router:check_auth("claude"))
    end
    local us = peers.now_us() - began
    assert.is_true(us >= PROBE_MS * 1000 - 5000 and us < PROBE_MS * 1000 + 500000)
  end)
end)

describe("TLS", function()
  local secure

  local function start(kind)
    secure = peers.central{ llms = { claude = {} }, tokens = { [TOKEN] = { view = { "*" } } }, tls = kind }
    return { central_url = secure.url, ca_file = peers.tls_files().ca, timeouts = { probe_ms = 2000 } }
  end

  after_each(function() secure:stop() end)

  it("that is good is allowed", function()
    assert_allows(start("good"))
    assert.is_true(secure:saw(TOKEN))
  end)

  for _, kind in ipairs{ "expired", "self_signed", "wrong_host", "untrusted" } do
    it("that is " .. kind .. " hears no token", function()
      assert_fails_closed("unreachable", "tls nil nil", start(kind))
      assert.equal(0, secure:bytes())
    end)
  end

  it("that the system does not know is not trusted", function()
    local options = start("good")
    options.ca_file = nil
    assert_fails_closed("unreachable", "tls nil nil", options)
  end)

  it("without a readable CA file is not trusted", function()
    local options = start("good")
    options.ca_file = "/nonexistent/ca.pem"
    local verdict, calls = ask(options)
    assert.equal("unreachable", verdict)
    assert.equal(0, calls)
    assert.equal(0, secure:bytes())
  end)

  it("is resumed by the next probe, on a connection of its own; never by who trusts another CA", function()
    local files, free = peers.tls_files(), assert(socket.bind("127.0.0.1", 0))
    local port = select(2, free:getsockname())
    free:close()
    local url = start("good").central_url:gsub(":%d+$", ":" .. port)
    local server = shell.start{ "openssl", "s_server", "-accept", "127.0.0.1:" .. port, "-www",
      "-cert", files.good.cert, "-key", files.good.key }
    finally(function() server:stop() end)
    local function count()
      local page = shell.run{ "curl", "-sS", "--retry", "20", "--retry-delay", "1", "--retry-connrefused",
        "--cacert", files.ca, url }.stdout
      return tonumber(page:match("(%d+) server accepts that finished")),
        tonumber(page:match("(%d+) session cache hits"))
    end
    local function probe_thrice(ca_file)
      local router <close> = make{ central_url = url, ca_file = ca_file, probe_method = "GET",
        timeouts = { probe_ms = 2000 } }
      for _ = 1, 3 do router:check_auth("claude") end
    end
    local before = count()
    probe_thrice(files.ca)
    local after, hits = count()
    assert.equal(before + 4, after) -- each is a handshake, and so is the asking
    assert.equal(2, hits)
    probe_thrice(files.untrusted.cert)
    after, hits = count()
    assert.equal(before + 5, after)
    assert.equal(2, hits)
  end)

  it("where plain HTTP is expected, and the other way round", function()
    local options = start("good")
    options.central_url = secure.url:gsub("https:", "http:")
    options.timeouts = { probe_ms = PROBE_MS }
    local verdict, calls = ask(options)
    assert.equal("unreachable", verdict)
    assert.equal(0, calls)
    options.central_url = central.url:gsub("http:", "https:")
    verdict, calls = ask(options)
    assert.equal("unreachable", verdict)
    assert.equal(0, calls)
    assert.is_false(central:saw(TOKEN))
  end)
end)

describe("a name", function()
  for name, target in pairs{
    ["a/b"] = "a%2Fb", ["a b"] = "a%20b", ["../../x"] = "..%2F..%2Fx", ["a%2fb"] = "a%252fb", ["a?b#c"] = "a%3Fb%23c",
    ["ümlaut"] = "%C3%BCmlaut", ["~a.b_c-d"] = "~a.b_c-d", ["..."] = "...", ["a;b:c@d"] = "a%3Bb%3Ac%40d",
    [("x"):rep(128)] = ("x"):rep(128), ["{llm}"] = "%7Bllm%7D", ["a\\b"] = "a%5Cb",
  } do
    it(("%q is one segment"):format(name):sub(1, 60), function()
      central:set{ probe = { status = 204 } }
      assert_allows(nil, name)
      assert.equal("/api/v1/llms/" .. target, central:log()[1].target)
    end)
  end

  for what, name in pairs{
    ["empty"] = "", ["a dot"] = ".", ["two dots"] = "..", ["a line feed"] = "a\nb", ["a line end"] = "a\r\nX: y",
    ["a NUL"] = "claude\0x", ["DEL"] = "a\x7f", ["129 bytes"] = ("x"):rep(129), ["a tab"] = "a\tb",
  } do
    it("that is or holds " .. what .. " is refused before any I/O", function()
      central:set{ probe = { status = 204 } }
      local router <close>, _, registry = make()
      assert.equal("unreachable", router:check_auth(name))
      assert.has_error(function() registry:register_failover(name, "mine") end)
      assert.has_error(function()
        router:run(name, function() error("primary") end, function() error("must not be called") end)
      end)
      assert.has_error(function() router:complete{ llm = name, body = "{}" } end)
      assert.equal(0, central:bytes())
    end)
  end
end)

describe("a token", function()
  for what, token in pairs{
    ["a line end"] = "tok\r\nX-Admin: 1", ["a line feed"] = "tok\nX: y", ["a NUL"] = "tok\0x", ["a space"] = "tok x",
    ["a tab"] = "tok\tx", ["no byte"] = "", ["an umlaut"] = "t\xc3\xb6k", ["DEL"] = "tok\x7f",
    ["9000 bytes"] = ("t"):rep(9000),
  } do
    it("with " .. what .. " is refused before any I/O", function()
      local router <close> = make()
      assert.equal("unreachable", router:check_auth("claude", token))
      local ok, message = pcall(router.complete, router, { llm = "claude", body = "{}", bearer_token = token })
      assert.is_false(ok)
      assert.is_nil(#token > 0 and tostring(message):find(token, 1, true) or nil)
      ok, message = pcall(make, { bearer_token = token })
      assert.is_false(ok)
      assert.is_nil(#token > 0 and tostring(message):find(token, 1, true) or nil)
      assert.equal(0, central:bytes())
    end)
  end

  it("that is not there makes no probe", function()
    local verdict, calls, line = ask({ bearer_token = false })
    assert.equal("unreachable", verdict)
    assert.equal(0, calls)
    assert.equal("no_token nil nil", line)
    assert.equal(0, central:bytes())
  end)
end)

-- What the environment says must not matter: a process of its own for each.
describe("the environment", function()
  local SCRIPT = [[
    local deputy = require "deputy"
    local router <close> = deputy.router(deputy.registry(), { central_url = arg[1], bearer_token = arg[2],
      policy = "spec/support/policies/reports_probe.lua", verify = "off", timeouts = { probe_ms = 2000 } })
    print(router:check_auth("claude"))
    if arg[3] then print(router:complete{ llm = "claude", body = "{}" }) end
  ]]

  local function child(env, url, ...)
    local path = tmp.write(nil, "probe.lua", SCRIPT)
    env.LUA_CPATH = package.cpath
    local r = shell.run{ "lua5.4", path, url or central.url, TOKEN, env = env, ... }
    assert.equal("", r.stderr)
    return r.stdout
  end

  it("with proxies in it", function()
    local env = {}
    for _, name in ipairs{ "http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY" } do
      env[name] = thief.url
    end
    env.no_proxy, env.NO_PROXY = false, false
    assert.equal("allowed\n", child(env))
    assert.equal("unreachable\n", child(env, peers.refused()))
    assert.equal("unreachable\n", child(env, "http://central.invalid"))
    assert.equal(0, thief:connections())
  end)

  it("with a netrc and a curlrc at home", function()
    local home = tmp.dir()
    tmp.write(home, ".netrc", "machine 127.0.0.1 login eve password secret\ndefault login eve password secret\n")
    tmp.write(home, ".curlrc", "location\nproxy = " .. thief.url .. "\n")
    assert.equal("allowed\n", child{ HOME = home, CURL_HOME = home, NETRC = home .. "/.netrc" })
    assert.equal("Bearer " .. TOKEN, central:log()[1].headers.authorization)
    assert.equal(1, #central:requests("HEAD"))
    assert.equal(0, thief:connections())
  end)

  it("with a certificate bundle in it that trusts everybody", function()
    local files = peers.tls_files()
    local secure = peers.central{
      llms = { claude = {} }, tokens = { [TOKEN] = { view = { "*" } } }, tls = "self_signed",
    }
    assert.equal("unreachable\n", child({ SSLKEYLOGFILE = "/dev/full" }, secure.url))
    assert.equal("unreachable\n", child({ CURL_CA_BUNDLE = files.self_signed.cert }, secure.url))
    secure:stop()
  end)

  it("with name servers that never answer", function()
    local silent = socket.udp()
    local can_bind = silent:setsockname("127.0.0.99", 53)
    local can_mount = shell.run{ "unshare", "-m", "true" }.status == 0
    if not can_bind or not can_mount then return pending("needs root") end
    local conf = tmp.write(nil, "resolv.conf", "nameserver 127.0.0.99\noptions timeout:5 attempts:1\n")
    local path = tmp.write(nil, "probe.lua", (SCRIPT:gsub("probe_ms = 2000", "probe_ms = 100")))
    local command = [[mount --bind "$1" /etc/resolv.conf &&
      LD_PRELOAD="$LUA_PRELOAD" exec lua5.4 "$2" http://central.example "$3"]]
    local r = shell.run{ "unshare", "-m", "sh", "-c", command, "sh", conf, path, TOKEN,
      env = { LUA_CPATH = package.cpath } }
    silent:close()
    assert.equal("unreachable\n", r.stdout)
    assert.is_true(r.us < 1500000) -- the resolver's own thread is not waited for
  end)
end)

describe("all 1,000 status numbers", function()
  -- Written out, not computed: a for allowed, f for forbidden, u for the rest.
  local expected = {}
  for i = 0, 999 do expected[i] = "unreachable" end
  for i = 200, 299 do expected[i] = "allowed" end
  expected[401], expected[403] = "forbidden", "forbidden"

  local WAYS = {
    clean = [[return { line .. "Content-Length: 0\r\n\r\n", { close = true } }]],
    json = [[return { line .. "Content-Type: application/json\r\n\r\n", { close = true } }]],
    html = [[return { line .. "Content-Type: text/html\r\n\r\n", { close = true } }]],
    cut_head = [[return { line .. "Content-Len", { close = true } }]],
    reset_head = [[return { line, { reset = true } }]],
    bomb = [[return { line .. ("X: " .. ("y"):rep(900) .. "\r\n"):rep(5) .. "\r\n", { close = true } }]],
    two_lengths = [[return { line .. "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", { close = true } }]],
    nothing = [[return { { close = true } }]],
  }
  local HEAR_OUT = { clean = true, json = true }

  for way, code in pairs(WAYS) do
    it("when the transfer is: " .. way, function()
      central:set{ script = [[
        return function(request)
          local line = "HTTP/1.1 " .. request.path:match("/s(%d%d%d)$") .. " Whatever\r\n"
          ]] .. code .. "\nend" }
      local registry = deputy.registry()
      registry:register{ name = "mine", complete = function() return "local" end }
      local router <close> = deputy.router(registry, {
        central_url = central.url, bearer_token = TOKEN,
        policy = "spec/support/policies/ignores_verdict.lua", verify = "off",
        timeouts = { probe_ms = 3000 }, limits = { max_header_bytes = 2048 },
      })
      local calls = 0
      local function primary() error("primary", 0) end
      local function substitute() calls = calls + 1; return calls end
      for status = 0, 999 do
        local llm = ("s%03d"):format(status)
        registry:register_failover(llm, "mine")
        local before = calls
        pcall(router.run, router, llm, primary, substitute)
        local allowed = HEAR_OUT[way] and expected[status] == "allowed"
        if calls - before ~= (allowed and 1 or 0) then
          error(("status %d: called %d times"):format(status, calls - before))
        end
      end
      assert.equal(HEAR_OUT[way] and 100 or 0, calls)
      assert.equal(1000, central:count("HEAD"))
    end)
  end

  it("what check_auth makes of each", function()
    central:set{ script = [[return function(request)
      return { "HTTP/1.1 " .. request.path:match("/s(%d%d%d)$") .. " X\r\nContent-Length: 0\r\n\r\n", { close = true } }
    end]] }
    local router <close> = deputy.router(deputy.registry(), {
      central_url = central.url, bearer_token = TOKEN, policy = "lua/router.lua", verify = "off",
      timeouts = { probe_ms = 3000 } })
    for status = 0, 999 do
      local verdict = router:check_auth(("s%03d"):format(status))
      if verdict ~= expected[status] then error(("status %d: %s"):format(status, verdict)) end
    end
  end)
end)
