-- Loopback peers: real servers on 127.0.0.1, each in a process of its own (the engine under test may block this one).
--
--   local peers = require "spec.support.peers"
--   local central = peers.central{
--     llms = { claude = {} }, tokens = { ["tok-alice"] = { view = { "claude" }, run = { "claude" } } },
--   }
--   local model = peers.openai{ models = { "qwen3" }, reply = "from the local model" }
--   local thief = peers.listener{}
--   ... run something against central.url and model.url .. "/v1" ...
--   assert.equal(1, central:count("HEAD"))
--   assert.equal(0, thief:bytes())
--   peers.stop_all()                  -- in after_each; every peer also ends when this process does
--
-- MAKING ONE. Every constructor takes a table; `name` (for messages) and `tls` are understood by all.
--   tls = "good" | "expired" | "self_signed" | "wrong_host" | "untrusted" | { cert = path, key = path }
--       serves HTTPS with that certificate; clients trust peers.tls_files().ca
-- The other fields are the peer's state, which :set changes while it runs:
--   routes  = { { "POST /v1/.*", reply }, ... }   first match wins; a Lua pattern for the whole of "METHOD target"
--             (quote magic characters: "%-"). Looked at before all that follows.
--   script  = [[ return function(request, state, conn) ... return reply end ]]   Lua text; nil goes on to the next.
--             It runs in the peer and has conn:send(bytes), conn:wait(ms), conn:close(), conn:reset(), conn:stall().
--   default = reply      what nothing else answers (404 when unset)
--   connect = steps      done on accept, before anything is read: { close = true }, { reset = true },
--                        { stall = true } (never reads), { wait_ms = 50 }, { send = "speaks first" }
--   early   = true       answers a request with a body on its head alone, then closes; the body stays unread
--
-- peers.start{ ... }     just these. Does keep-alive, pipelining, HEAD, Content-Length, chunked uploads, 100-continue.
-- peers.central{ llms =, tokens =, reply = "Hello from central", every_ms =, probe_status = 204, probe =, inference = }
--     llms   = { NAME = { id =, reply =, probe =, inference = } }    tokens = { TOKEN = { view = {...}, run = {...} } }
--     HEAD|GET /api/v1/llms[/:nameOrId]    200 or 204 when the token may view it; else 401, 403 or 404
--     POST /api/v1/llms/:nameOrId/infer, /v1/{chat/completions,completions,embeddings}   when the token may run it;
--         OpenAI's shapes, SSE when the body says "stream":true, every_ms between events
--     GET /v1/models                       what the token may view. "*" in view or run: all LLMs.
--     `probe` and `inference` (a reply; "ok" is none) answer whatever the token: inference = { status = 503 }
--     central:grant(token, llm [, "view"|"run"])    central:revoke(token, llm [, role])    role nil: both
-- peers.openai{ models = { "qwen3" }, reply = "Hello from local", api_key =, every_ms =, steps =, models_steps = }
--     POST /v1/{chat/completions,completions,embeddings}, GET /v1/models, GET /health; base URL: peer.url .. "/v1".
--     steps (a reply) answers every POST, models_steps GET /v1/models. peers.local_openai is the same function.
-- peers.listener{ reply = steps }   raw TCP, no HTTP: counts, and does `reply` (if any) when the first bytes come
-- peers.refused()      a URL whose port refuses connections
-- peers.blackhole()    a URL where connecting never finishes
-- peers.tls_files()    { ca =, good = { cert =, key = }, expired =, self_signed =, wrong_host =, untrusted = }, paths
--                      of PEM files made once per run; `untrusted` is signed by a CA that `ca` does not know
--
-- A REPLY is one of
--   "raw bytes"                                    sent as they stand
--   { status = 200, reason =, headers =, body = }  framed as it should be: Content-Length; no body on HEAD, 204, 304.
--       json = {...} instead of body. headers: { Name = "value" }, where Name = false leaves one out that would be
--       there, or { { "Name", "value" }, ... } for order and doubles. framing = "close" | "chunked" | "length".
--   { chunked = { "a", "b" }, every_ms = 10 }      chunked, with pauses; status and headers as above;
--       unfinished = true leaves out the last chunk
--   { sse = { "text", {json}, "event: x\ndata: y" }, every_ms =, done = true }    done adds "data: [DONE]"
--   { each = { first, second, last } }             the n-th use gets the n-th reply; the last one repeats
--   { step, step, ... }                            one after the other; each is any of these replies, or
--       { send = "raw" }         { wait_ms = 100 }          { drip = "bytes", every_ms = 10, size = 1 }
--       { repeat_send = "x", times = N, every_ms = }        times nil: until the client leaves; waits for a slow reader
--       { close = true } FIN     { reset = true } RST       { half_close = true } FIN, reads on (TLS: close)
--       { stall = true }         nothing more, until the client leaves
--       { cut = N, how = "reset" | "close" | "stall" }      that happens after N more bytes of the steps that follow
--       { set = { field = value } }                         changes this peer's own state then (say, tokens = {})
--
-- ASKING ONE. Everything here blocks until answered; an error in a script is raised here.
--   peer.url ("http://127.0.0.1:PORT")   peer.port   peer.pid   peer.name
--   peer:log()           the requests in order: { id, conn, n (on its connection), method, target, path, query,
--                        version, headers = { lower_case_name = value }, header_list = { { name, value } }, body,
--                        raw (exact bytes), bytes_in, t_us (head complete), done_us (body complete), unfinished }
--   peer:requests(method, pattern)   those with that method whose target matches the Lua pattern; both optional
--   peer:count(method, pattern)      how many
--   peer:connection_log()            { id, opened_us, ended_us, ended, requests, bytes_in, bytes_out,
--                        received (all bytes, decrypted), tls = "ok" | why not, error (why a request was unreadable) }
--                        ended = nil (open) | "client" (FIN) | "client_reset" | "peer" | "peer_reset" | "tls"
--   peer:connections()   how many TCP connections were accepted
--   peer:bytes()         how many bytes came over all of them (over TLS: decrypted ones)
--   peer:saw(text)       whether that appears in the bytes of any connection (a token, say)
--   peer:set{ k = v }    changes fields of the state, in force when it returns; false clears one; `each` starts again
--   peer:clear()         forgets the log; connections still open stay, counted from zero
--   peer:wait_until(predicate [, ms = 2000])    polls predicate(peer), returns its value
--   peer:stop()          ends the process; its port refuses from then on
-- peers.now_us()         the clock of all `_us` fields (monotonic, microseconds)
local uv = require "luv"
local socket = require "socket"
local wire = require "spec.support.wire"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local peers = {}
local MAIN = debug.getinfo(1, "S").source:match("^@(.*)peers%.lua$") .. "peer/main.lua"
local ANSWER_MS = 10000

local running = {}

local Peer = {}
Peer.__index = Peer

local function ask(self, op, value)
  if self.exited then error("peer " .. self.name .. " is not running", 3) end
  self.answer = nil
  self.input:write(wire.encode{ op = op, value = value } .. "\n")
  shell.turn(function() return self.answer or self.exited end, ANSWER_MS)
  if not self.answer then error("peer " .. self.name .. " did not answer " .. op, 3) end
  local answer = wire.decode(self.answer)
  if answer.failure then error("peer " .. self.name .. ": " .. answer.failure, 3) end
  return answer.result
end

local function listen_to(self, output)
  local parts = {}
  output:read_start(function(err, chunk)
    if err or not chunk then return output:close() end
    parts[#parts + 1] = chunk
    if chunk:find("\n", 1, true) then
      self.answer = table.concat(parts)
      parts = {}
    end
  end)
end

local function spawn(name)
  local self = setmetatable({ name = name, input = uv.new_pipe(), output = uv.new_pipe() }, Peer)
  local failed
  self.process, failed = uv.spawn("lua5.4", { args = { MAIN }, stdio = { self.input, self.output, 2 } }, function()
    self.exited = true
  end)
  if not self.process then error("cannot start peer " .. name .. ": " .. tostring(failed), 3) end
  self.pid = failed
  running[self] = true
  listen_to(self, self.output)
  return self
end

local function certificate(tls)
  if type(tls) ~= "string" then return tls end
  return peers.tls_files()[tls] or error("no such certificate: " .. tls, 3)
end

local function start(kind, spec, defaults)
  local state = {}
  for field, value in pairs(defaults or {}) do state[field] = value end
  for field, value in pairs(spec or {}) do state[field] = value end
  local name, tls = state.name or kind, certificate(state.tls)
  state.name, state.tls = nil, nil
  local self = spawn(name)
  self.port = ask(self, "start", { kind = kind, tls = tls, state = state }).port
  self.url = ("%s://127.0.0.1:%d"):format(tls and "https" or "http", self.port)
  return self
end

function peers.start(spec) return start("peer", spec) end

function peers.listener(spec) return start("listener", spec) end

function peers.central(spec)
  return start("central", spec, { llms = {}, tokens = {}, reply = "Hello from central" })
end

function peers.openai(spec)
  return start("openai", spec, { models = { "qwen3" }, reply = "Hello from local" })
end
peers.local_openai = peers.openai

function Peer:set(changes) ask(self, "set", changes) end

local ROLES = { "view", "run" }

local function permit(self, token, llm, role, allowed)
  local tokens = ask(self, "state").tokens
  local user = tokens[token] or {}
  tokens[token] = user
  for _, each in ipairs(role and { role } or ROLES) do
    local names = {}
    for _, name in ipairs(user[each] or {}) do
      if name ~= llm then names[#names + 1] = name end
    end
    if allowed then names[#names + 1] = llm end
    user[each] = names
  end
  ask(self, "set", { tokens = tokens })
end

function Peer:grant(token, llm, role) permit(self, token, llm, role, true) end

function Peer:revoke(token, llm, role) permit(self, token, llm, role, false) end

function Peer:log() return ask(self, "requests", {}) end

function Peer:connection_log() return ask(self, "connections") end

function Peer:requests(method, pattern)
  return ask(self, "requests", { method = method, pattern = pattern })
end

function Peer:count(method, pattern)
  return ask(self, "count", { method = method, pattern = pattern })
end

function Peer:connections() return ask(self, "totals").connections end

function Peer:bytes() return ask(self, "totals").bytes end

function Peer:saw(text) return ask(self, "saw", text) end

function Peer:clear() ask(self, "clear") end

function Peer:wait_until(predicate, ms)
  local deadline = peers.now_us() + (ms or 2000) * 1000
  repeat
    local value = predicate(self)
    if value then return value end
    uv.sleep(3)
  until peers.now_us() > deadline
  return predicate(self)
end

function Peer:stop()
  if not running[self] then return end
  running[self] = nil
  self.input:close()
  if not shell.turn(function() return self.exited end, 1000) then
    self.process:kill("sigkill")
    shell.turn(function() return self.exited end, 1000)
  end
  self.process:close()
  if not self.output:is_closing() then self.output:close() end
  uv.run("nowait")
end

function peers.stop_all()
  for peer in pairs(running) do peer:stop() end
end

function peers.now_us() return math.tointeger(uv.hrtime() // 1000) end

-- These sockets are kept for the life of the process, so that nobody else gets their ports.
local held = {}

local function url_of(tcp)
  local _, port = tcp:getsockname()
  return ("http://127.0.0.1:%d"):format(port)
end

function peers.refused()
  if not held.refused then
    held.refused = assert(socket.tcp4())
    assert(held.refused:bind("127.0.0.1", 0)) -- bound but not listening: the kernel answers RST
  end
  return url_of(held.refused)
end

function peers.blackhole()
  if not held.blackhole then
    held.blackhole = assert(socket.tcp4())
    assert(held.blackhole:bind("127.0.0.1", 0))
    assert(held.blackhole:listen(0))
    local _, port = held.blackhole:getsockname()
    held.fillers = {} -- a full queue that nobody accepts from: further SYNs are dropped
    for i = 1, 4 do
      held.fillers[i] = socket.tcp4()
      held.fillers[i]:settimeout(0)
      held.fillers[i]:connect("127.0.0.1", port)
    end
  end
  return url_of(held.blackhole)
end

local certificates

local function make_certificates()
  local dir = tmp.dir()
  local function path(name) return dir .. "/" .. name end
  local function openssl(...)
    local r = shell.run{ "openssl", ... }
    if r.status ~= 0 then error("openssl " .. table.concat({ ... }, " ") .. ": " .. r.stderr, 0) end
  end
  local function pair(name) return { cert = path(name .. ".pem"), key = path(name .. ".key") } end
  local function self_sign(name, subject, ...)
    local files = pair(name)
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
      "-keyout", files.key, "-out", files.cert, "-subj", "/CN=" .. subject, ...)
    return files
  end
  local function issue(name, authority, host, starts, ends)
    local files, request, config = pair(name), path(name .. ".csr"), path(name .. ".cnf")
    openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
      "-keyout", files.key, "-out", request, "-subj", "/CN=" .. name)
    -- `openssl ca` is the one subcommand that takes both ends of the validity, so also an expired one.
    tmp.write(dir, name .. ".db", "")
    tmp.write(dir, name .. ".cnf", table.concat({
      "[ca]", "default_ca = this", "[this]", "database = " .. path(name .. ".db"), "new_certs_dir = " .. dir,
      "rand_serial = yes", "default_md = sha256", "policy = any", "x509_extensions = leaf",
      "certificate = " .. authority.cert, "private_key = " .. authority.key,
      "[any]", "commonName = supplied", "[leaf]", "basicConstraints = CA:FALSE", "subjectAltName = " .. host, "",
    }, "\n"))
    openssl("ca", "-batch", "-notext", "-config", config, "-in", request, "-out", files.cert,
      "-startdate", starts, "-enddate", ends)
    return files
  end
  local function day(offset) return os.date("!%Y%m%d%H%M%SZ", os.time() + offset * 86400) end
  local here = "IP:127.0.0.1,DNS:localhost"
  local authority, stranger = self_sign("ca", "deputy spec CA"), self_sign("stranger", "unknown CA")
  return {
    dir = dir, ca = authority.cert,
    good = issue("good", authority, here, day(-1), day(2)),
    expired = issue("expired", authority, here, day(-3), day(-1)),
    wrong_host = issue("wrong_host", authority, "DNS:elsewhere.example", day(-1), day(2)),
    untrusted = issue("untrusted", stranger, here, day(-1), day(2)),
    self_signed = self_sign("self_signed", "localhost", "-addext", "subjectAltName=" .. here),
  }
end

function peers.tls_files()
  certificates = certificates or make_certificates()
  return certificates
end

return peers
