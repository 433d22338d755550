-- What README.md says works: its blocks are taken out and run, against real peers where it names a central or a server.
local cjson = require "cjson"
local deputy = require "deputy"
local peers = require "spec.support.peers"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local root = require("lfs").currentdir()
local readme = tmp.read("README.md")

-- The blocks with this info string, in order.
local function blocks(info)
  local found = {}
  for head, text in readme:gmatch("\n```([^\n]*)\n(.-)```") do
    if head == info then found[#found + 1] = text end
  end
  assert(#found > 0, "README.md has no block " .. info)
  return found
end

local function block(info) return blocks(info)[1] end

describe("README.md", function()
  local central, model

  before_each(function()
    central = peers.central{
      llms = { claude = {} }, tokens = { tok = { view = { "claude" }, run = { "claude" } } },
      inference = { status = 503 },
    }
    model = peers.openai{ models = { "qwen3" } }
  end)

  after_each(peers.stop_all)

  -- The README's addresses become those of the peers.
  local function real(text)
    return (text:gsub("http://127%.0%.0%.1:7070", central.url):gsub("http://127%.0%.0%.1:8000", model.url))
  end

  it("names only targets that make has", function()
    local database = shell.run{ "make", "-npq", "BUILD=" .. tmp.dir(), "nothing", timeout_ms = 30000 }.stdout
    local count = 0
    for target in readme:gmatch("make (%l+)") do
      if target ~= "and" then
        assert.matches("\n" .. target .. ":", database, 1, true)
        count = count + 1
      end
    end
    assert.is_true(count >= 4)
  end)

  it("names only files that are there, and so do the other READMEs", function()
    local all = shell.run{ "git", "ls-files", "*README.md" }.stdout
    for page in (all ~= "" and all or "README.md\n"):gmatch("[^\n]+") do
      local folder = page:match("^(.*/)") or ""
      for path in tmp.read(page):gmatch("%]%(([^)#:]+)%)") do
        assert.is_not_nil(io.open(folder .. path), page .. " names " .. path)
      end
    end
  end)

  it("has a configuration and a session of the command line that go like that", function()
    local dir = tmp.dir()
    tmp.write(dir, "deputy.json", real(block "json"))
    tmp.write(dir, "token", "tok\n")
    shell.run{ "chmod", "600", dir .. "/token" }
    local program = shell.run{ "realpath", (os.getenv("DEPUTY_BUILD") or "build") .. "/deputy" }.stdout:match("%S+")
    local count = 0
    for command, expected in block("console"):gmatch("%$ deputy ([^\n]+)\n([^$]*)") do
      local r = shell.run{ "sh", "-c", 'exec "$0" ' .. command, program, cwd = dir }
      assert.equal(expected, r.stdout, command .. "\n" .. r.stderr)
      assert.equal(0, r.status)
      count = count + 1
    end
    assert.equal(3, count)
  end)

  it("shows the C host as it stands in the example", function()
    local example = tmp.read("examples/embed_sync.c")
    for _, text in ipairs(blocks "c") do
      assert.is_truthy(example:find(text, 1, true), "not in examples/embed_sync.c:\n" .. text)
    end
  end)

  it("has a Lua host that works", function()
    local cpath = (os.getenv("DEPUTY_BUILD") or "build") .. "/?.so;;"
    if cpath:sub(1, 1) ~= "/" then cpath = root .. "/" .. cpath end
    local r = shell.run{
      "lua5.4", tmp.write(nil, "host.lua", real(block "lua")), cwd = root,
      env = { DEPUTY_TOKEN = "tok", LUA_CPATH = cpath },
    }
    assert.equal(0, r.status, r.stderr)
    assert.equal("vllm-local\nanswered by vllm-local\ttrue\n", r.stdout)
  end)

  describe("has a policy", function()
    local registry, other

    before_each(function()
      other = peers.openai{ models = { "qwen3" }, reply = "Hello from the other" }
      registry = deputy.registry()
      registry:register(deputy.openai{ name = "first", url = model.url .. "/v1", model = "qwen3" })
      registry:register(deputy.openai{ name = "second", url = other.url .. "/v1", model = "qwen3" })
      registry:register_failover("claude", "first")
      registry:register_failover("claude", "second")
    end)

    local function ask()
      local router = deputy.router(registry, {
        central_url = central.url, bearer_token = "tok", policy = tmp.write(nil, "mine.lua", block "lua policy"),
      })
      return router:complete{ llm = "claude", body = { model = "claude", messages = {} } }
    end

    it("that stands in when the central says 503", function()
      assert.equal("first", ask().via)
    end)

    it("that does not when it says 400, nor when it resets the connection", function()
      central:set{ inference = { status = 400, body = "{}" } }
      local reply, failure = ask()
      assert.is_nil(reply)
      assert.equal(400, failure.status)
      central:set{ inference = { { reset = true } } }
      reply, failure = ask()
      assert.is_nil(reply)
      assert.equal("connect", failure.kind)
      assert.equal(0, model:bytes())
    end)

    it("that asks the next one, after another probe, when one fails", function()
      model:set{ steps = { status = 500 } }
      local reply = ask()
      assert.equal("second", reply.via)
      assert.equal("Hello from the other", cjson.decode(reply.body).choices[1].message.content)
      assert.equal(2, central:count("HEAD"))
    end)

    it("that obeys a central that forbids", function()
      central:revoke("tok", "claude", "view")
      local reply, failure = ask()
      assert.is_nil(reply)
      assert.equal(503, failure.status)
      assert.equal(0, model:bytes() + other:bytes())
    end)
  end)

  it("has a policy that is fail-closed, and a session of deputy verify that goes like that", function()
    local dir = tmp.dir()
    tmp.write(dir, "mine.lua", block "lua policy")
    local folder = shell.run{ "realpath", os.getenv("DEPUTY_BUILD") or "build" }.stdout:match("%S+")
    -- How many worlds there are, and how fast, is not what is promised.
    local function plain(line) return line:match("^bounded: ") and line:gsub("%d[%d,.]*", "N") or line end
    local statuses, count = {}, 0
    for command, expected in block("console verify"):gmatch("%$ ([^\n]+)\n([^$]*)") do
      local r = shell.run{ "sh", "-c", command, cwd = dir, timeout_ms = 60000,
        env = { PATH = folder .. ":" .. os.getenv("PATH"), DEPUTY_LUA = root .. "/lua", HOME = dir } }
      local rest = r.stdout:gmatch("[^\n]+")
      for line in expected:gmatch("[^\n]+") do
        if line ~= "..." then
          local found
          repeat found = rest() until not found or plain(found) == plain(line)
          assert.is_not_nil(found, line .. "\nis not where it should be in\n" .. r.stdout .. r.stderr)
          count = count + 1
        end
      end
      statuses[#statuses + 1] = r.status
    end
    assert.same({ 0, 0, 1 }, statuses)
    assert.is_true(count >= 10)
  end)

  it("names every header of its own that deputy serve takes or gives", function()
    local seen, count = {}, 0
    for name in shell.run{ "grep", "-rhoE", "x-deputy-[a-z]+", "src/gateway", "--include=*.c" }.stdout:gmatch("%S+") do
      if not seen[name] then
        seen[name], count = true, count + 1
        assert.is_truthy(readme:find("`" .. name, 1, true), name)
      end
    end
    assert.is_true(count >= 4)
  end)

  it("names every finding of deputy verify", function()
    local count = 0
    for name in tmp.read("lua/deputy/verify_report.lua"):match("local TITLES = {(.-)\n}"):gmatch("\n  ([%l_]+) =") do
      assert.matches("`" .. name .. "`", readme, 1, true)
      count = count + 1
    end
    assert.is_true(count >= 10)
  end)

  it("names every example of a policy", function()
    for name in require("lfs").dir("examples/policies") do
      if name:match("%.lua$") then assert.matches("](examples/policies/" .. name .. ")", readme, 1, true) end
    end
  end)

  it("names what a script finds, as meta.lua does", function()
    local stubs = tmp.read("lua/deputy/meta.lua")
    for method in stubs:gmatch("\nfunction Run:(%a+)%(") do assert.matches("run:" .. method, readme, 1, true) end
    for field in stubs:match("%-%-%-@class deputy.Run\n(.-)\nlocal Run"):gmatch("@field (%a+)") do
      assert.matches("run." .. field, readme, 1, true)
    end
    for name in stubs:match("%-%- Part 2.*"):gmatch("\nfunction (%a+)%(") do
      if name ~= "print" and name ~= "require" then assert.matches("`" .. name .. "(", readme, 1, true) end
    end
    for name in stubs:match("A module that travels[^\n]*"):gmatch("deputy%.%a+") do
      assert.matches("| `" .. name .. "` |", readme, 1, true)
    end
  end)

  it("names the limits as they are in the header", function()
    local header, limits = tmp.read("include/deputy.h"), readme:match("\n## Limits\n(.-)\n#"):gsub("%s+", " ")
    for name, words in pairs{
      max_runs = "%d runs at once", max_body_bytes = "%d MiB for a request",
      max_reply_bytes = "%d MiB for a reply that is held whole", max_header_bytes = "%d KiB for headers",
      policy_instructions = "%d million instructions", policy_run_bytes = "instructions, %d MiB",
      policy_ms = "%d ms of computing", policy_bytes = "%d MiB for a policy with all its runs",
    } do
      local value = tonumber(header:match("%s" .. name .. ";%s*/%* %[(%d+)%]"))
      local unit = words:find("MiB") and 1 << 20 or words:find("KiB") and 1 << 10 or words:find("million") and 1000000
      assert.matches(words:format(value // (unit or 1)), limits, 1, true)
    end
  end)

  it("names the configuration's defaults as they are", function()
    local defaults = require("deputy.config").defaults{}
    local function has(row, ...)
      local line = readme:match("\n(| [^\n]*" .. row:gsub("%.", "%%.") .. "[^\n]*)")
      assert.is_not_nil(line, row)
      for _, value in ipairs{ ... } do assert.matches(tostring(value), line, 1, true) end
    end
    has("policy.permitMs", defaults.policy.permitMs)
    has("timeouts.connectMs", defaults.timeouts.connectMs, defaults.timeouts.probeMs)
    has("timeouts.firstByteMs", defaults.timeouts.firstByteMs, defaults.timeouts.firstTokenMs)
    has("timeouts.idleMs", defaults.timeouts.idleMs, defaults.timeouts.totalMs)
    has("central.probe", defaults.central.probe)
    has("policy.gate", defaults.policy.gate)
    has("policy.verify", defaults.policy.verify)
    has("gateway.listen", defaults.gateway.listen)
    has("gateway.workers", defaults.gateway.workers)
    has("gateway.maxConnections", defaults.gateway.maxConnections, defaults.gateway.maxInFlight)
    has("gateway.maxBodyBytes", defaults.gateway.maxBodyBytes, defaults.gateway.maxReplyBytes)
    has("gateway.maxBufferedBytes", defaults.gateway.maxBufferedBytes)
    has("gateway.streaming", defaults.gateway.streaming)
    has("gateway.drainMs", defaults.gateway.drainMs)
    has("log.format", defaults.log.format, defaults.log.level)
  end)
end)
