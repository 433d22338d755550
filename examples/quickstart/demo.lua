-- The main job in three acts, against servers on this machine: make run.
--
-- A central and a local model server are started (the specs' own stand-ins, on 127.0.0.1), a deputy.json is written
-- into a temporary directory, and the command line is called as a person would call it. What is printed is what came;
-- when an act does not go as it should, the exit status is 1.
package.path = "./?.lua;" .. package.path
local peers = require "spec.support.peers"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local deputy = assert(io.popen("realpath " .. (os.getenv("DEPUTY_BUILD") or "build") .. "/deputy")):read("l")
local tty = require("luv").guess_handle(1) == "tty" and not os.getenv("NO_COLOR")
local dir = tmp.dir()
local wrong = 0

local function paint(code, text)
  return tty and ("\27[" .. code .. "m" .. text .. "\27[0m") or text
end

local function say(...)
  io.write(string.format(...), "\n")
  io.flush()
end

local function indent(text)
  return (text:gsub("\n+$", ""):gsub("[^\n]+", "    %0"))
end

local function act(number, title, text)
  say("\n%s\n%s", paint("1", "Act " .. number .. ". " .. title), text)
end

local function run(...)
  local shown = {}
  for i, word in ipairs{ ... } do shown[i] = word:find("[^%w_./-]") and '"' .. word .. '"' or word end
  say("\n  %s", paint("36", "$ deputy " .. table.concat(shown, " ")))
  local r = shell.run{ deputy, cwd = dir, timeout_ms = 20000, ... }
  if r.stdout ~= "" then say("%s", indent(r.stdout)) end
  if r.stderr ~= "" then say("%s", paint("33", indent(r.stderr))) end
  say("    %s", paint("2", "exit status " .. tostring(r.status)))
  return r
end

local function expect(true_as_it_should, text)
  say("  %s %s", true_as_it_should and paint("32", "ok ") or paint("31", "NOT"), text)
  if not true_as_it_should then wrong = wrong + 1 end
end

local central = peers.central{
  llms = { claude = {} },
  tokens = { ["token-of-alice"] = { view = { "claude" }, run = { "claude" } } },
  reply = "Hello, this is Claude at the central.",
}
local model = peers.openai{ models = { "qwen3" }, reply = "Hello, this is your own machine." }

local config = string.format([[
{
  "central":   { "url": "%s", "bearerToken": "token-of-alice" },
  "providers": [ { "name": "vllm-local", "type": "openai", "url": "%s/v1",
                   "model": "qwen3", "failoverFor": "claude" } ]
}]], central.url, model.url)
tmp.write(dir, "deputy.json", config .. "\n")

say("A central (%s) has an LLM called claude. A local model server (%s)\n"
  .. "may stand in for it, so says deputy.json:\n\n%s", central.url, model.url, indent(config))

act(1, "The central answers", "deputy passes the answer on. Nobody is asked whether a stand-in would be allowed.")
local r = run("ask", "claude", "Who are you?")
expect(r.status == 0 and r.stdout == "Hello, this is Claude at the central.\n", "the answer is the central's")
expect(central:count("HEAD") == 0, "the central was asked for the answer alone, not for a permission")
expect(model:bytes() == 0, "not one byte went to the local server")

act(2, "The central is down, and alice may see claude",
  "Its inference answers 503. The control plane still says who may see what: the stand-in answers.")
central:set{ inference = { status = 503, json = { error = { message = "The central is down for repairs." } } } }
central:clear()
r = run("ask", "claude", "Who are you?")
expect(r.status == 0 and r.stdout == "Hello, this is your own machine.\n", "the answer is the local one")
expect(central:count("HEAD") == 1, "the central was asked once whether alice may see claude")
expect(not model:saw("token-of-alice"), "alice's token was not shown to the local server")
r = run("probe", "claude")
expect(r.status == 0 and r.stdout == "allowed\n", "the verdict is allowed")

act(3, "The permission is revoked",
  "Same command, same machine, same local model. But now the central says 403 to alice.")
central:revoke("token-of-alice", "claude")
model:clear()
r = run("ask", "claude", "Who are you?")
expect(r.status == 1 and r.stdout == "", "there is no answer")
expect(r.stderr:find("The central is down for repairs.", 1, true), "the error is the central's own, as in act 2")
expect(model:bytes() == 0, "not one byte went to the local server")
r = run("probe", "claude")
expect(r.status == 3 and r.stdout == "forbidden\n", "the verdict is forbidden")

peers.stop_all()
tmp.remove(dir)
say("\n%s", wrong == 0 and "All three acts went as they should."
  or paint("31", wrong .. " of these did not go as they should: see NOT above."))
os.exit(wrong == 0, true)
