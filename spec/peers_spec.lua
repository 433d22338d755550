-- The peers themselves, so that the other specs can trust them. Clients here are LuaSocket and curl, nothing of ours.
local socket = require "socket"
local lfs = require "lfs"
local cjson = require "cjson"
local peers = require "spec.support.peers"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local function dial(peer)
  local client = assert(socket.connect("127.0.0.1", peer.port))
  client:settimeout(3)
  return client
end

-- Sends and reads until the peer ends the stream: all bytes, and "closed", "timeout" or what else ended it.
local function exchange(peer, bytes, timeout)
  local client = dial(peer)
  if timeout then client:settimeout(timeout) end
  client:send(bytes)
  local all, why, part = client:receive("*a")
  client:close()
  return all or part, why or "closed"
end

local GET = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
local GET_CLOSE = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

local function curl(...)
  return shell.run{ "curl", "-sS", "--noproxy", "*", "--max-time", "5", ... }
end

-- Resets show as errors in curl's exit status (56), which LuaSocket calls plain "closed".
local function curl_status(peer)
  return curl(peer.url .. "/").status
end

local function count_fds()
  local count = 0
  for _ in lfs.dir("/proc/self/fd") do count = count + 1 end
  return count
end

describe("a peer", function()
  after_each(peers.stop_all)

  it("starts fast, serves, and refuses once stopped", function()
    local began = peers.now_us()
    local peer = peers.start{ default = { body = "hi" } }
    assert.is_true(peers.now_us() - began < 500000)
    assert.equal("hi", curl(peer.url .. "/").stdout)
    peer:stop()
    peer:stop()
    assert.is_nil(socket.connect("127.0.0.1", peer.port))
    assert.has_error(function() peer:log() end, "peer peer is not running")
  end)

  it("logs what came, byte for byte", function()
    local peer = peers.start{}
    local bytes = "POST /a/b?q=1 HTTP/1.1\r\nHost: x\r\nX-Two: 1\r\nx-two:  2 \r\nContent-Length: 6\r\n"
      .. "Connection: close\r\n\r\n\0\1\n\r\xff\""
    exchange(peer, bytes)
    local log = peer:log()
    assert.equal(1, #log)
    local request = log[1]
    assert.equal(bytes, request.raw)
    assert.equal("\0\1\n\r\xff\"", request.body)
    assert.same({ "POST", "/a/b?q=1", "/a/b", "q=1", "1.1" },
      { request.method, request.target, request.path, request.query, request.version })
    assert.equal("1, 2", request.headers["x-two"])
    assert.same({ "X-Two", "1" }, request.header_list[2])
    assert.equal(#bytes, peer:bytes())
    assert.equal(#bytes, request.bytes_in)
    assert.equal(1, peer:connections())
    assert.is_true(math.abs(peers.now_us() - request.t_us) < 3000000)
    assert.is_true(peer:saw("\r\xff"))
    assert.is_false(peer:saw("tok-nobody"))
    peer:clear()
    assert.same({}, peer:log())
    assert.equal(0, peer:bytes())
  end)

  it("keeps connections alive and answers pipelined requests in order", function()
    local peer = peers.start{ routes = { { "GET /a", { body = "one" } }, { "POST /b", { body = "two" } } } }
    local answer = exchange(peer, "GET /a HTTP/1.1\r\n\r\nPOST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
      .. "3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\nHEAD /a HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert.equal("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none"
      .. "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo"
      .. "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 9\r\nConnection: close\r\n\r\n", answer)
    local log = peer:log()
    assert.same({ 1, 1, 1 }, { log[1].conn, log[2].conn, log[3].conn })
    assert.same({ 1, 2, 3 }, { log[1].n, log[2].n, log[3].n })
    assert.equal("abcde", log[2].body)
    assert.equal(1, peer:count("HEAD"))
    assert.equal(1, peer:count(nil, "^/b"))
  end)

  it("takes a large upload with 100-continue", function()
    local peer = peers.start{ default = { status = 204 } }
    local body = ("x"):rep(3 * 1024 * 1024)
    local file = tmp.write(nil, "body", body)
    local r = curl("-H", "Expect: 100-continue", "--data-binary", "@" .. file, "-w", "%{http_code}", peer.url .. "/")
    assert.equal("204", r.stdout)
    assert.is_true(peer:log()[1].body == body)
  end)

  it("answers 400 to what is not HTTP, and says why", function()
    local peer = peers.start{}
    assert.matches("^HTTP/1.1 400 ", (exchange(peer, "garbage\r\n\r\n")))
    assert.equal("not an HTTP/1 request", peer:connection_log()[1].error)
  end)

  it("shows a request whose body never came", function()
    local peer = peers.start{}
    local client = dial(peer)
    client:send("POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
    assert.is_truthy(peer:wait_until(function() return peer:bytes() > 40 and peer:log()[1] end))
    assert.is_true(peer:log()[1].unfinished)
    client:close()
    assert.equal("client", peer:wait_until(function() return peer:connection_log()[1].ended end))
  end)

  it("frames replies: no body on HEAD, 204 and 304, HTTP/1.0 is closed", function()
    local peer = peers.start{ default = { body = "hello", headers = { ["X-A"] = "1" } } }
    assert.equal("HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
      (exchange(peer, "HEAD / HTTP/1.0\r\n\r\n")))
    peer:set{ default = { status = 204, body = "never" } }
    assert.equal("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", (exchange(peer, GET_CLOSE)))
    peer:set{ default = { headers = { { "Z", "1" }, { "A", "2" }, { "Z", "3" } }, body = "x", framing = "close" } }
    assert.equal("HTTP/1.1 200 OK\r\nZ: 1\r\nA: 2\r\nZ: 3\r\nConnection: close\r\n\r\nx", (exchange(peer, GET)))
    peer:set{ default = { headers = { ["Content-Length"] = false }, body = "x" } }
    assert.equal("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nx", (exchange(peer, GET_CLOSE)))
  end)

  it("sends chunks and events", function()
    local peer = peers.start{ default = { chunked = { "ab", "c" } } }
    assert.matches("\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n$", (exchange(peer, GET_CLOSE)))
    peer:set{ default = { { chunked = { "ab" }, unfinished = true }, { reset = true } } }
    assert.equal(56, curl_status(peer))
    peer:set{ default = { sse = { "one", { a = 1 }, "event: x\ndata: y", ": note" }, done = true, every_ms = 5 } }
    local r = curl("-i", peer.url .. "/")
    assert.matches("text/event%-stream", r.stdout)
    assert.matches('\r\n\r\ndata: one\n\ndata: {"a":1}\n\nevent: x\ndata: y\n\n: note\n\ndata: %[DONE%]\n\n$', r.stdout)
    peer:set{ default = { sse = { "one" }, framing = "length" } }
    assert.matches("Content%-Length: 11\r\n", curl("-i", peer.url .. "/").stdout)
  end)

  it("sends raw bytes, waits, drips, repeats", function()
    local peer = peers.start{ default = {
      "HTTP/1.1 103 Early Hints\r\n\r\n", { wait_ms = 60 }, { send = "HTTP/1.1 200 OK\r\nContent-Length: 206\r\n\r\n" },
      { drip = "abcdef", every_ms = 10, size = 2 }, { repeat_send = "xy", times = 100 }, { close = true },
    } }
    local began = peers.now_us()
    local answer, why = exchange(peer, GET)
    assert.equal("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 206\r\n\r\nabcdef"
      .. ("xy"):rep(100), answer)
    assert.equal("closed", why)
    assert.is_true(peers.now_us() - began >= 78000)
  end)

  it("closes, resets, stalls and half-closes", function()
    local peer = peers.start{ default = { close = true } }
    assert.equal(52, curl_status(peer))
    peer:set{ default = { reset = true } }
    assert.equal(56, curl_status(peer))
    assert.equal("peer_reset", peer:connection_log()[2].ended)
    peer:set{ default = { "HTTP/1.1 200 OK\r\n", { stall = true } } }
    local answer, why = exchange(peer, GET, 0.1)
    assert.same({ "HTTP/1.1 200 OK\r\n", "timeout" }, { answer, why })
    assert.equal("client", peer:wait_until(function() return peer:connection_log()[3].ended end))
    peer:set{ default = { "bye", { half_close = true }, { stall = true } } }
    local client = dial(peer)
    client:send(GET)
    assert.equal("bye", client:receive("*a"))
    client:send("more")
    assert.equal(#GET + 4, peer:wait_until(function()
      local bytes = peer:connection_log()[4].bytes_in
      return bytes > #GET and bytes
    end))
    client:close()
  end)

  it("cuts a reply after any byte, in each way", function()
    local whole = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    local peer = peers.start{}
    for _, at in ipairs{ 0, 1, 20, #whole - 1 } do
      peer:set{ default = { { cut = at, how = "close" }, { body = "hello" } } }
      assert.equal(whole:sub(1, at), (exchange(peer, GET)))
    end
    peer:set{ default = { { cut = #whole - 1 }, { body = "hello" } } }
    assert.equal(56, curl_status(peer))
    peer:set{ default = { { cut = 3, how = "stall" }, { body = "hello" } } }
    assert.same({ "HTT", "timeout" }, { exchange(peer, GET, 0.1) })
  end)

  it("acts before any byte was read", function()
    local peer = peers.start{ default = { body = "ok" }, connect = { close = true } }
    assert.equal(52, curl_status(peer))
    peer:set{ connect = { reset = true } }
    assert.is_true(curl_status(peer) ~= 0)
    assert.equal(0, #peer:log())
    peer:set{ connect = { stall = true } }
    assert.same({ "", "timeout" }, { exchange(peer, GET, 0.1) })
    assert.equal(0, peer:connection_log()[3].bytes_in)
    peer:set{ connect = { send = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" } }
    assert.matches("^HTTP/1.1 200 OK\r\nContent%-Length: 0\r\n\r\nHTTP/1.1 200 OK", (exchange(peer, GET_CLOSE)))
    peer:set{ connect = false }
    assert.equal(0, curl_status(peer))
    assert.equal(5, peer:connections())
  end)

  it("answers early, on the head alone", function()
    local peer = peers.start{ early = true, default = { status = 413 } }
    local answer = exchange(peer, "POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\nabc")
    assert.matches("^HTTP/1.1 413 ", answer)
    assert.equal("", peer:log()[1].body)
  end)

  it("gives the n-th request the n-th reply, and changes its own state in a step", function()
    local peer = peers.start{ default = { each = { { status = 500 }, { { set = { x = 1 } }, { status = 200 } } } } }
    local function status() return curl("-o", "/dev/null", "-w", "%{http_code}", peer.url .. "/").stdout end
    assert.same({ "500", "200", "200" }, { status(), status(), status() })
    peer:set{ default = { { set = { default = { status = 204 } } }, { status = 200 } } }
    assert.same({ "200", "204" }, { status(), status() })
  end)

  it("runs scripts, whose errors are raised at the spec", function()
    local peer = peers.start{ script = [[
      return function(request, state, conn)
        if request.path == "/raise" then error("oops") end
        if request.path == "/raw" then conn:send("by hand") conn:close() end
        if request.path == "/state" then return { body = state.word } end
      end]], word = "first", default = { body = "default" } }
    assert.equal("first", curl(peer.url .. "/state").stdout)
    peer:set{ word = "second" }
    assert.equal("second", curl(peer.url .. "/state").stdout)
    assert.equal("default", curl(peer.url .. "/").stdout)
    assert.equal("by hand", (exchange(peer, "GET /raw HTTP/1.1\r\n\r\n")))
    assert.is_true(curl(peer.url .. "/raise").status ~= 0)
    assert.error_matches(function() peer:log() end, "oops")
    assert.error_matches(function() peers.start{ script = "not lua" } end, "unexpected symbol")
    assert.error_matches(function() peers.start{ default = print } end, "plain data")
  end)

  it("notices a client that leaves in the middle of an endless reply, and waits for a slow one", function()
    local peer = peers.start{ default = { "HTTP/1.1 200 OK\r\n\r\n", { repeat_send = ("x"):rep(1000) } } }
    local client = dial(peer)
    client:send(GET)
    client:receive(20000)
    local first, second
    peer:wait_until(function() -- until the socket buffers are full
      first, second = second, peer:connection_log()[1].bytes_out
      socket.sleep(0.05)
      return first == second
    end)
    assert.is_nil(peer:connection_log()[1].ended)
    client:close()
    assert.matches("^client", peer:wait_until(function() return peer:connection_log()[1].ended end))
  end)

  it("ends when whoever started it is killed", function()
    local process = shell.start{ "lua5.4", "-e", [[
      package.path = "./?.lua;" .. package.path
      print(require("spec.support.peers").start{}.pid)
      io.stdout:flush()
      require("socket").sleep(60)]] }
    local pid = process:wait_for("(%d+)%s", 5000)
    assert.is_truthy(lfs.attributes("/proc/" .. pid))
    process:signal("sigkill")
    assert.equal(9, process:wait().signal)
    local deadline = socket.gettime() + 3
    while lfs.attributes("/proc/" .. pid) and socket.gettime() < deadline do
      local stat = io.open("/proc/" .. pid .. "/stat")
      local gone = not stat or stat:read("a"):find(") Z ", 1, true)
      if stat then stat:close() end
      if gone then return end
      socket.sleep(0.01)
    end
    assert.is_nil(lfs.attributes("/proc/" .. pid))
  end)

  it("leaves no process and no descriptor behind after 200 starts and stops", function()
    peers.start{}:stop()
    local before = count_fds()
    local pids = {}
    for i = 1, 200 do
      local peer = peers.start{}
      pids[i] = peer.pid
      peer:stop()
    end
    assert.equal(before, count_fds())
    for _, pid in ipairs(pids) do
      local comm = io.open("/proc/" .. pid .. "/comm")
      local name = comm and comm:read("l")
      if comm then comm:close() end
      assert.is_true(name ~= "lua5.4")
    end
  end)
end)

describe("the central", function()
  local central
  before_each(function()
    central = peers.central{
      llms = { claude = { id = "cjld2cjxh0000" }, opus = {}, ["a/b"] = {} },
      tokens = {
        ["tok-alice"] = { view = { "claude", "a/b" }, run = { "claude" } }, ["tok-admin"] = { view = { "*" } },
      },
    }
  end)
  after_each(peers.stop_all)

  local function status(method, path, token)
    local args = { "-o", "/dev/null", "-w", "%{http_code}", central.url .. path }
    if method == "HEAD" then args[#args + 1] = "-I" end
    if token then
      args[#args + 1] = "-H"
      args[#args + 1] = "Authorization: Bearer " .. token
    end
    return tonumber(curl(table.unpack(args)).stdout)
  end

  local function infer(path, token, body)
    local r = curl("-H", "Authorization: Bearer " .. token, "-d", body, "-w", "\n%{http_code}", central.url .. path)
    local text, code = r.stdout:match("^(.*)\n(%d+)$")
    return tonumber(code), text
  end

  it("answers the probe by token and permission", function()
    assert.equal(200, status("HEAD", "/api/v1/llms/claude", "tok-alice"))
    assert.equal(200, status("GET", "/api/v1/llms/cjld2cjxh0000", "tok-alice"))
    assert.equal(200, status("HEAD", "/api/v1/llms/a%2Fb", "tok-alice"))
    assert.equal(403, status("HEAD", "/api/v1/llms/opus", "tok-alice"))
    assert.equal(200, status("HEAD", "/api/v1/llms/opus", "tok-admin"))
    assert.equal(404, status("HEAD", "/api/v1/llms/none", "tok-alice"))
    assert.equal(401, status("HEAD", "/api/v1/llms/claude", "tok-mallory"))
    assert.equal(401, status("HEAD", "/api/v1/llms/claude"))
    central:set{ probe_status = 204 }
    assert.equal(204, status("HEAD", "/api/v1/llms/claude", "tok-alice"))
    central:set{ probe = { status = 500 } }
    assert.equal(500, status("HEAD", "/api/v1/llms/claude"))
  end)

  it("changes permissions while it runs", function()
    central:revoke("tok-alice", "claude", "view")
    assert.equal(403, status("HEAD", "/api/v1/llms/claude", "tok-alice"))
    assert.equal(200, (infer("/api/v1/llms/claude/infer", "tok-alice", "{}")))
    central:revoke("tok-alice", "claude")
    assert.equal(403, (infer("/api/v1/llms/claude/infer", "tok-alice", "{}")))
    central:grant("tok-bob", "opus")
    assert.equal(200, status("HEAD", "/api/v1/llms/opus", "tok-bob"))
    assert.equal(200, (infer("/v1/completions", "tok-bob", '{"model":"opus"}')))
  end)

  it("infers in OpenAI's shapes, plain and streamed, or fails as it is told", function()
    local code, text = infer("/api/v1/llms/claude/infer", "tok-alice", '{"model":"x"}')
    assert.equal(200, code)
    assert.equal("Hello from central", cjson.decode(text).choices[1].message.content)
    code, text = infer("/v1/chat/completions", "tok-alice", '{"model":"claude","stream":true}')
    assert.equal(200, code)
    local words = {}
    for event in text:gmatch("data: (.-)\n\n") do
      if event ~= "[DONE]" then words[#words + 1] = cjson.decode(event).choices[1].delta.content end
    end
    assert.equal("Hello from central", table.concat(words))
    assert.matches("data: %[DONE%]\n\n$", text)
    assert.equal(403, (infer("/v1/chat/completions", "tok-admin", '{"model":"claude"}')))
    assert.equal(404, (infer("/v1/chat/completions", "tok-alice", '{"model":"none"}')))
    assert.equal(400, (infer("/v1/chat/completions", "tok-alice", "nonsense")))
    central:set{ inference = { status = 503, body = '{"error":{"message":"down"}}' } }
    assert.same({ 503, '{"error":{"message":"down"}}' }, { infer("/api/v1/llms/claude/infer", "tok-alice", "{}") })
    central:set{ inference = "ok" }
    assert.equal(200, (infer("/api/v1/llms/claude/infer", "tok-alice", "{}")))
  end)

  it("lists what the token may view", function()
    local r = curl("-H", "Authorization: Bearer tok-alice", central.url .. "/v1/models")
    local names = {}
    for i, model in ipairs(cjson.decode(r.stdout).data) do names[i] = model.id end
    assert.same({ "a/b", "claude" }, names)
    r = curl("-H", "Authorization: Bearer tok-admin", central.url .. "/api/v1/llms")
    assert.equal(3, #cjson.decode(r.stdout))
  end)
end)

describe("the OpenAI-compatible peer", function()
  after_each(peers.stop_all)

  it("completes, embeds and lists its models", function()
    local model = peers.openai{ models = { "qwen3", "tiny" }, reply = "local words", api_key = "k" }
    local function post(endpoint, body)
      local r = curl("-H", "Authorization: Bearer k", "-d", body, model.url .. "/v1/" .. endpoint)
      return cjson.decode(r.stdout)
    end
    assert.equal("local words", post("chat/completions", '{"model":"qwen3"}').choices[1].message.content)
    assert.equal("local words", post("completions", '{"model":"tiny"}').choices[1].text)
    assert.equal(-0.25, post("embeddings", '{"model":"tiny"}').data[1].embedding[2])
    assert.equal("model_not_found", post("chat/completions", '{"model":"gpt"}').error.code)
    local list = curl("-H", "Authorization: Bearer k", model.url .. "/v1/models").stdout
    assert.equal("tiny", cjson.decode(list).data[2].id)
    assert.equal("invalid_api_key", cjson.decode(curl(model.url .. "/v1/models").stdout).error.code)
    model:set{ steps = { reset = true } }
    assert.equal(56, curl("-H", "Authorization: Bearer k", "-d", "{}", model.url .. "/v1/completions").status)
  end)
end)

describe("ports that are not servers", function()
  after_each(peers.stop_all)

  it("count bytes without understanding them", function()
    local listener = peers.listener{}
    assert.equal(0, listener:bytes())
    local client = dial(listener)
    client:send("\0\1\2")
    assert.equal(3, listener:wait_until(function() return listener:bytes() == 3 and 3 end))
    assert.equal(1, listener:connections())
    client:close()
    listener:set{ reply = { "fixed", { close = true } } }
    assert.equal("fixed", (exchange(listener, "anything")))
  end)

  it("refuse, or never finish connecting", function()
    assert.equal(7, curl(peers.refused()).status)
    assert.equal(peers.refused(), peers.refused())
    assert.equal(28, curl("--connect-timeout", "0.2", peers.blackhole()).status)
  end)
end)

describe("a TLS peer", function()
  after_each(peers.stop_all)

  local function ask(peer, ...)
    return curl("--cacert", peers.tls_files().ca, "-H", "Authorization: Bearer tok-alice", peer.url .. "/", ...)
  end

  it("serves with a good certificate, keep-alive and byte scripts too", function()
    local peer = peers.start{ tls = "good", default = { body = "secure" } }
    assert.equal("https://127.0.0.1:" .. peer.port, peer.url)
    assert.equal("securesecure", ask(peer, peer.url .. "/again").stdout)
    assert.equal(1, peer:connections())
    assert.equal("ok", peer:connection_log()[1].tls)
    assert.is_true(peer:saw("tok-alice"))
    peer:set{ default = { { status = 200, headers = { ["Content-Length"] = "9" }, body = "half" }, { reset = true } } }
    assert.equal(56, ask(peer).status)
    peer:set{ default = { { stall = true } } }
    assert.equal(28, ask(peer, "--max-time", "0.2").status)
    local large = ("0123456789"):rep(200000)
    peer:set{ default = { body = large } }
    assert.is_true(ask(peer).stdout == large)
    local file = tmp.write(nil, "body", large)
    assert.is_true(ask(peer, "--data-binary", "@" .. file).stdout == large)
    assert.is_true(peer:log()[#peer:log()].body == large)
  end)

  it("is refused with each bad certificate, and sees no byte of HTTP", function()
    for _, kind in ipairs{ "expired", "self_signed", "wrong_host", "untrusted" } do
      local peer = peers.start{ tls = kind, default = { body = "trap" } }
      assert.equal(60, ask(peer).status, kind)
      assert.equal(1, peer:connections())
      assert.equal(0, peer:bytes())
      assert.is_false(peer:saw("tok-alice"))
      assert.equal(0, ask(peer, "-k").status)
    end
  end)

  it("notes a client that does not speak TLS", function()
    local peer = peers.start{ tls = "good" }
    exchange(peer, GET)
    assert.equal("tls", peer:wait_until(function() return peer:connection_log()[1].ended end))
  end)
end)

describe("shell", function()
  it("keeps status, stdout and stderr apart and quotes nothing", function()
    local r = shell.run{ "sh", "-c", 'printf %s "$1"; cat; echo err >&2; exit 3', "sh", "a b;$(x)'", stdin = "in\0put" }
    assert.same({ 3, "a b;$(x)'in\0put", "err\n", false }, { r.status, r.stdout, r.stderr, r.timed_out })
    assert.equal(127, shell.run{ "no-such-command-here" }.status)
  end)

  it("passes the environment and the directory", function()
    local dir = tmp.dir()
    local r = shell.run{ "sh", "-c", 'printf "%s %s" "$(pwd -P)" "$A"', cwd = dir, env = { A = "1" } }
    assert.equal(dir .. " 1", r.stdout)
    assert.equal("unset", shell.run{ "sh", "-c", "printf ${HOME-unset}", env = { HOME = false } }.stdout)
    assert.equal("unset", shell.run{ "sh", "-c", "printf ${HOME-unset}", clear_env = true }.stdout)
  end)

  it("ends what takes too long, children included, without leaking", function()
    shell.run{ "true" }
    local before = count_fds()
    local r = shell.run{ "sh", "-c", "echo $$; sleep 77 & sleep 77", timeout_ms = 100 }
    assert.is_true(r.timed_out)
    assert.is_nil(r.status)
    assert.equal(9, r.signal)
    assert.equal(before, count_fds())
  end)

  it("talks to a command in the background", function()
    local process = shell.start{ "sh", "-c", 'read line; echo "got $line"; read line; exit 5' }
    process:write("one\n")
    assert.equal("one", process:wait_for("got (%w+)"))
    assert.is_nil(process:wait(20))
    process:close_stdin()
    assert.equal(5, process:wait().status)
    process = shell.start{ "sleep", "77" }
    process:signal("sigterm")
    assert.equal(15, process:wait().signal)
  end)
end)

describe("tmp", function()
  it("makes directories that are gone at the end", function()
    local r = shell.run{ "lua5.4", "-e", [[
      package.path = "./?.lua;" .. package.path
      local tmp = require "spec.support.tmp"
      local dir = tmp.dir()
      tmp.write(dir, "a", "b")
      assert(tmp.read(dir .. "/a") == "b")
      require("lfs").mkdir(dir .. "/deep")
      io.write(dir)]] }
    assert.same({ 0, "" }, { r.status, r.stderr })
    assert.is_nil(lfs.attributes(r.stdout))
  end)
end)
