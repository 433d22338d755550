-- The main job in three acts, with real servers: make run.
--
-- Starts a model server that stands for the one behind the central, a `deputy central` with SQLite in a temporary
-- folder, a local model server, and a `deputy serve`; asks through it with curl, as any client would, and prints what
-- came. Then all of it stays up, to be tried, until SIGINT (Ctrl-C), SIGTERM or SIGHUP; with ONCE=1 in the environment
-- it ends after the acts. When an act does not go as it should it ends at once, with exit status 1.
local uv = require "luv"
local cjson = require "cjson"

local here = arg[0]:match("^(.*)/[^/]*$") or "."
local build = os.getenv("DEPUTY_BUILD") or "build"
local deputy = assert(uv.fs_realpath(build .. "/deputy"))
local dir = assert(uv.fs_mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/deputy-run-XXXXXX"))
local db = "sqlite:" .. dir .. "/central.db"
local tty = uv.guess_handle(1) == "tty" and not os.getenv("NO_COLOR")
local START_MS, ANSWER_MS = 20000, 20000

-- ---- what is said --------------------------------------------------------------------------------------------------

local wrong = 0

local function paint(code, text) return tty and ("\27[" .. code .. "m" .. text .. "\27[0m") or text end

local function say(...)
  io.write(string.format(...), "\n")
  io.flush()
end

local function indent(text) return (text:gsub("\n+$", ""):gsub("[^\n]+", "    %0")) end

local function act(number, title, text) say("\n%s\n%s", paint("1", "Act " .. number .. ". " .. title), text) end

local function expect(true_as_it_should, text)
  say("  %s %s", true_as_it_should and paint("32", "ok ") or paint("31", "NOT"), text)
  if not true_as_it_should then wrong = wrong + 1 end
end

-- ---- processes -----------------------------------------------------------------------------------------------------

local STOPPED = {}
local stopping = false
local children = {}

-- Turns the loop until done() has a value, or for ms; looks every few milliseconds, since files are looked at too.
local function turn(ms, done)
  local till = uv.hrtime() + ms * 1000000
  local timer = uv.new_timer()
  timer:start(5, 5, function() end)
  while not done() and uv.hrtime() < till do uv.run("once") end
  timer:close()
  return done()
end

-- Raises when it takes too long, or when a signal came.
local function wait(ms, what, done)
  local found = turn(ms, function() return stopping or done() end)
  if stopping then error(STOPPED, 0) end
  return found or error(what .. " took longer than " .. ms // 1000 .. " s", 0)
end

local function read(path)
  local file = io.open(path, "rb")
  local text = file and file:read("a") or ""
  if file then file:close() end
  return text
end

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  file:close()
  assert(uv.fs_chmod(path, 384)) -- 0600
end

-- setpriv: it ends when this process does, however that happens.
local function spawn(child, args, options)
  table.move({ "--pdeathsig", "KILL", "--", table.unpack(args) }, 1, #args + 3, 1, args)
  options.args, options.cwd, options.detached = args, dir, true
  local handle, pid = uv.spawn("setpriv", options, function(code) child.ended = code end)
  child.pid = handle and pid or error("cannot start " .. args[4] .. ": " .. tostring(pid), 0)
  children[#children + 1] = child
end

-- A server: what it writes goes to a file, and it says there where it listens.
local function start(name, pattern, args)
  local self = { name = name, log = ("%s/%s.log"):format(dir, name) }
  local out, began = assert(uv.fs_open(self.log, "a", 384)), #read(self.log) + 1
  spawn(self, args, { stdio = { nil, out, out } })
  uv.fs_close(out)
  wait(START_MS, "the start of " .. name, function()
    if self.ended then error(("%s did not start:\n%s"):format(name, indent(read(self.log))), 0) end
    self.address = read(self.log):sub(began):match(pattern)
    return self.address
  end)
  return self
end

-- A command: its exit status and all that it wrote.
local function run(args)
  local out, err, parts, open = uv.new_pipe(), uv.new_pipe(), { "", "" }, 2
  local child = {}
  spawn(child, args, { stdio = { nil, out, err } })
  for i, pipe in ipairs{ out, err } do
    pipe:read_start(function(failed, bytes)
      if bytes then
        parts[i] = parts[i] .. bytes
      elseif failed or not bytes then
        pipe:close()
        open = open - 1
      end
    end)
  end
  wait(ANSWER_MS, args[4], function() return child.ended and open == 0 end)
  return child.ended, parts[1], parts[2]
end

local function quoted(words)
  local shown = {}
  for i, word in ipairs(words) do shown[i] = word:find("[^%w_./:=-]") and '"' .. word .. '"' or word end
  return table.concat(shown, " ")
end

-- deputy central ... on our database; what it prints.
local function central(...)
  say("  %s", paint("36", "$ deputy central " .. quoted{ ... }))
  local args = { deputy, "central", ... }
  args[#args + 1], args[#args + 2] = "--db", db
  local status, out, err = run(args)
  if status ~= 0 then error(err, 0) end
  return (out:gsub("%s+$", ""))
end

local function stop_children(ms)
  for _, child in ipairs(children) do
    if not child.ended then uv.kill(child.pid, "sigterm") end
  end
  return turn(ms, function()
    for _, child in ipairs(children) do if not child.ended then return false end end
    return true
  end)
end

local function remove_folder()
  local scan = uv.fs_scandir(dir)
  for name in function() return scan and uv.fs_scandir_next(scan) end do uv.fs_unlink(dir .. "/" .. name) end
  uv.fs_rmdir(dir)
end

local function finish(status)
  -- The second one ends what would wait for its callers.
  if not stop_children(3000) and not stop_children(3000) then
    for _, child in ipairs(children) do
      if not child.ended then uv.kill(child.pid, "sigkill") end
    end
  end
  remove_folder()
  os.exit(status)
end

-- ---- the world -----------------------------------------------------------------------------------------------------

-- The usual port when nobody has it: then the address below is the one of every example.
local function usual(port)
  local tcp = uv.new_tcp()
  local free = tcp:bind("127.0.0.1", port) and tcp:listen(1, function() end)
  tcp:close()
  uv.run("nowait")
  return free and port or 0
end

local LISTENING = "listening on ([%d.]+:%d+)"
local LOGGED = "msg=listening address=([%d.]+:%d+)"

local function start_model(name, words, address)
  return start(name, LISTENING, { "lua5.4", uv.fs_realpath(here .. "/model.lua"), address or "127.0.0.1:0", words })
end

local function start_upstream(address)
  return start_model("upstream", "Hello, this is the model behind the central.", address)
end

local function start_all()
  local w = { upstream = start_upstream(), model = start_model("model", "Hello, this is your own machine.") }
  say("deputy stands between a program and its central LLM. When the model behind the central cannot answer, one on\n"
    .. "this machine may answer in its place, but only while the central still says that this user may see that LLM.\n"
    .. "Three acts show it, with real servers, all of them on 127.0.0.1.\n")
  say("A central, with an LLM called claude, and a user called alice who may see and use it:")
  central("init")
  central("llm", "create", "claude", "--url", "http://" .. w.upstream.address .. "/v1", "--model", "large")
  central("user", "create", "alice")
  central("grant", "--user", "alice", "--role", "view", "--role", "run", "--llm", "claude")
  w.token = central("token", "create", "--user", "alice")
  -- Probes that are allowed are logged for who looks closely.
  write(dir .. "/central.json", '{ "listen": "127.0.0.1:0", "db": "sqlite:central.db", "log": { "level": "debug" } }\n')
  w.central = start("central", LOGGED, { deputy, "central", "serve", "-c", dir .. "/central.json" })
  w.config = ('{ "central":   { "url": "http://%s" },\n'
    .. '  "providers": [ { "name": "mine", "type": "openai", "url": "http://%s/v1", "model": "qwen3",\n'
    .. '                   "failoverFor": "claude" } ] }'):format(w.central.address, w.model.address)
  write(dir .. "/deputy.json", w.config .. "\n")
  w.serve = start("serve", LOGGED, { deputy, "serve", "-c", dir .. "/deputy.json", "--listen",
    "127.0.0.1:" .. usual(4141) })
  say("\nA deputy at %s, for which a model server on this machine may stand in for claude, so says its\n"
    .. "deputy.json:\n\n%s", w.serve.address, indent(w.config))
  return w
end

-- ---- asking --------------------------------------------------------------------------------------------------------

local QUESTION = '{"model":"claude","messages":[{"role":"user","content":"Who are you?"}]}'

local function words_of(body)
  local ok, json = pcall(cjson.decode, body)
  if not ok or type(json) ~= "table" then return body end
  if json.choices then return json.choices[1].message.content, nil end
  return nil, json.error and json.error.message or body, json.error and json.error.code
end

-- As alice; what came.
local function ask(w)
  local url = "http://" .. w.serve.address .. "/v1/chat/completions"
  say("\n  %s", paint("36", ("$ curl %s \\\n      -H \"Authorization: Bearer $TOKEN\" --json '%s'"):format(url,
    QUESTION)))
  -- Not as an argument: those can be seen by everybody on the machine.
  write(dir .. "/curl", ('header = "Authorization: Bearer %s"\n'):format(w.token))
  local status, out, err = run{ "curl", "-sS", "-i", "--max-time", "15", "-K", dir .. "/curl", "--json", QUESTION, url }
  if status ~= 0 then error(err, 0) end
  local head, body = out:match("^(.-\r\n)\r\n(.*)$")
  local answer = { status = tonumber(head:match("^HTTP/%S+ (%d+)")) }
  answer.failover = head:lower():match("\r\nx%-deputy%-failover: (%a+)")
  answer.via = head:match("\r\n[xX]%-[dD]eputy%-[vV]ia: ([^\r]+)")
  answer.words, answer.message, answer.code = words_of(body)
  say("    %d  x-deputy-failover: %s%s\n    %s", answer.status, answer.failover, answer.via and "  x-deputy-via: "
    .. answer.via or "", answer.words or answer.message)
  return answer
end

local function bytes_at(server)
  local sum = 0
  for n in read(server.log):gmatch("(%d+) bytes\n") do sum = sum + tonumber(n) end
  return sum
end

local function probes(w)
  return select(2, read(w.central.log):gsub("method=HEAD[^\n]*route=/api/v1/llms/:", ""))
end

-- What a server logs may come a moment after its reply.
local function settle()
  local till = uv.hrtime() + 120000000
  wait(5000, "a pause", function() return uv.hrtime() > till end)
end

-- ---- three acts ----------------------------------------------------------------------------------------------------

local function first(w)
  act(1, "The central answers", "deputy passes the answer on. Nobody is asked whether a stand-in would be allowed.")
  local answer = ask(w)
  settle()
  expect(answer.words == "Hello, this is the model behind the central.", "the answer is the central's")
  expect(answer.failover == "false" and probes(w) == 0, "the central was not asked for a permission")
  expect(bytes_at(w.model) == 0, "not one byte went to the local server")
end

local function second(w)
  act(2, "The model behind the central is down, and alice may see claude",
    "The central's inference fails, its control plane does not. It still says who may see what: the stand-in answers.")
  uv.kill(w.upstream.pid, "sigterm")
  wait(START_MS, "the end of the upstream", function() return w.upstream.ended end)
  local answer = ask(w)
  settle()
  expect(answer.words == "Hello, this is your own machine.", "the answer is the local one")
  expect(answer.failover == "true" and answer.via == "mine", "the reply says so")
  expect(probes(w) == 1, "the central was asked once whether alice may see claude")
  expect(not read(w.model.log):find(w.token, 1, true), "alice's token was not shown to the local server")
end

local function third(w)
  act(3, "The permission is revoked", "Same request, same machine, same local model.")
  central("revoke", "--user", "alice", "--role", "view", "--llm", "claude")
  local before = bytes_at(w.model)
  local answer = ask(w)
  settle()
  expect(answer.status >= 500 and answer.failover == "false", "there is no answer; the error is the central's own")
  expect(probes(w) == 2, "the central was asked, and said no")
  expect(bytes_at(w.model) == before, "not one byte went to the local server")
end

local function stay(w)
  w.upstream = start_upstream(w.upstream.address)
  central("grant", "--user", "alice", "--role", "view", "--llm", "claude")
  local base = "http://" .. w.serve.address
  say("\n%s Point a client at it:\n", paint("1", "The central's model is up again, and alice may see claude."))
  say("  base URL  %s/v1\n  API key   %s\n  model     claude\n", base, w.token)
  say("  curl %s/v1/chat/completions \\\n    -H 'Authorization: Bearer %s' \\\n    --json '%s'\n", base, w.token,
    QUESTION)
  say("What happens is shown at %s/ - the acts can be played again:\n", base)
  say("  export DEPUTY_CENTRAL_DB=%s\n  %s/deputy central llm pause claude      (and resume)\n"
    .. "  %s/deputy central revoke --user alice --role view --llm claude      (and grant)\n", db, build, build)
  say("It stays up until it is stopped: Ctrl-C, or SIGTERM to process %d.", uv.os_getpid())
  while not stopping do uv.run("once") end
end

local function play()
  local w = start_all()
  for _, each in ipairs{ first, second, third } do each(w) end
  say("\n%s", wrong == 0 and "All three acts went as they should."
    or paint("31", wrong .. " of these did not go as they should: see NOT above."))
  if wrong == 0 and os.getenv("ONCE") ~= "1" then stay(w) end
end

for _, name in ipairs{ "sigterm", "sigint", "sighup" } do
  uv.new_signal():start(name, function() stopping = true end)
end
local ok, failure = pcall(play)
if not ok and failure ~= STOPPED then
  io.stderr:write(paint("31", tostring(failure)), "\n")
  finish(1)
end
finish(wrong == 0 and 0 or 1)
