-- The main job with real servers: make run, and the same by hand as examples/quickstart/README.md says.
local uv = require "luv"
local lfs = require "lfs"
local cjson = require "cjson"
local socket = require "socket"
local client = require "spec.support.client"
local gateway = require "spec.support.gateway"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local BUILD = assert(uv.fs_realpath(os.getenv("DEPUTY_BUILD") or "build"))
local FOLDER = "examples/quickstart"

local function environment(dir, more)
  local env = gateway.environment(dir, { TMPDIR = dir, DEPUTY_BUILD = BUILD, PATH = BUILD .. ":" .. os.getenv("PATH") })
  for name, value in pairs(more or {}) do env[name] = value end
  return env
end

local function entries(dir)
  local found = {}
  for name in lfs.dir(dir) do
    if not name:find("^%.") then found[#found + 1] = name end
  end
  return found
end

-- Processes whose command line or folder is in dir.
local function processes_in(dir)
  local found = {}
  for pid in lfs.dir("/proc") do
    local file = pid:find("^%d+$") and io.open("/proc/" .. pid .. "/cmdline", "rb")
    local text = file and file:read("a") or ""
    if file then file:close() end
    local cwd = pid:find("^%d+$") and uv.fs_readlink("/proc/" .. pid .. "/cwd") or ""
    if text:find(dir, 1, true) or cwd:find(dir, 1, true) then found[#found + 1] = text end
  end
  return found
end

-- By env: Lua itself would be started with a sanitizer's library, which then everything has that the demo starts.
local function start(dir, more)
  return shell.start{ "env", "lua5.4", FOLDER .. "/demo.lua", env = environment(dir, more) }
end

describe("make run", function()
  local dir, process

  before_each(function() dir = tmp.dir() end)
  after_each(function() if process then process:stop() end end)

  it("plays three acts, which go as they should, and with ONCE=1 ends", function()
    process = start(dir, { ONCE = "1" })
    local r = process:wait(60000)
    assert.equal(0, r.status, r.stdout .. r.stderr)
    assert.equal("", r.stderr)
    assert.is_nil(r.stdout:find("NOT", 1, true))
    assert.equal(10, select(2, r.stdout:gsub("\n  ok  ", "")))
    for _, text in ipairs{
      "x-deputy-failover: false\n    Hello, this is the model behind the central.",
      "x-deputy-failover: true  x-deputy-via: mine\n    Hello, this is your own machine.",
      "    502  x-deputy-failover: false\n", "All three acts went as they should.",
    } do
      assert.matches(text, r.stdout, 1, true)
    end
    assert.same({}, entries(dir))
    assert.same({}, processes_in(dir))
  end)

  it("stays up afterwards, for any client, until it is stopped", function()
    process = start(dir)
    local pid = process:wait_for("SIGTERM to process (%d+)", 60000)
    assert.is_not_nil(pid, process.stdout .. process.stderr)
    assert.equal(process.pid, tonumber(pid))
    local base, token = process.stdout:match("base URL  http://(%S+)/v1\n  API key   (%S+)\n  model     claude\n")
    local r = client.ask(base, {
      path = "/v1/chat/completions", headers = { Authorization = "Bearer " .. token },
      json = { model = "claude", messages = {} },
    })
    assert.equal("Hello, this is the model behind the central.", r.json.choices[1].message.content)

    local command = process.stdout:match("  (curl %S+ \\\n[^\n]+\n[^\n]+)\n")
    assert.matches("behind the central", shell.run{ "sh", "-c", command .. " -s" }.stdout, 1, true)
    local db, pause = process.stdout:match("  export (DEPUTY_CENTRAL_DB=%S+)\n  (%S+ central llm pause claude) ")
    assert.equal(0, shell.run{ "sh", "-c", "export " .. db .. "; " .. pause, env = environment(dir) }.status)
    assert.matches("your own machine", shell.run{ "sh", "-c", command .. " -s" }.stdout, 1, true)

    process:signal("sigterm")
    local ended = process:wait(20000)
    assert.equal(0, ended and ended.status)
    assert.same({}, entries(dir))
    assert.same({}, processes_in(dir))
  end)

  it("can be stopped at any moment", function()
    for _, text in ipairs{ "user create", "Act 1", "Act 3" } do
      process = start(dir)
      assert.is_not_nil(process:wait_for(text, 60000), process.stdout .. process.stderr)
      process:signal("sigint")
      local ended = process:wait(20000)
      assert.equal(0, ended and ended.status, text)
      assert.same({}, entries(dir))
      assert.same({}, processes_in(dir))
    end
  end)

  it("leaves nothing running when it is killed", function()
    process = start(dir)
    assert.is_not_nil(process:wait_for("Act 2", 60000))
    process:signal("sigkill")
    process:wait(5000)
    assert.is_truthy(gateway.wait_until(function() return #processes_in(dir) == 0 end, 5000))
  end)
end)

describe(FOLDER .. "/README.md", function()
  local PORTS = { "7070", "4141", "8000", "8100" }

  -- Ports that nobody has now, in place of those in the text.
  local function free_ports()
    local held, ports = {}, {}
    for i, port in ipairs(PORTS) do
      held[i] = assert(socket.bind("127.0.0.1", 0))
      ports[port] = select(2, held[i]:getsockname())
    end
    for _, each in ipairs(held) do each:close() end
    return ports
  end

  it("is one screen of commands that go like that", function()
    local dir, ports = tmp.dir(), free_ports()
    local function moved(text)
      return (text:gsub("127%.0%.0%.1:(%d+)", function(port) return "127.0.0.1:" .. (ports[port] or port) end))
    end
    for _, name in ipairs{ "model.lua", "central.json", "deputy.json" } do
      tmp.write(dir, name, moved(tmp.read(FOLDER .. "/" .. name)))
    end
    local readme = tmp.read(FOLDER .. "/README.md")
    assert.is_true(select(2, readme:gsub("\n", "")) <= 50)
    local script, expected = { "set -eu" }, {}
    local function wait_for(log)
      script[#script + 1] = ('for i in $(seq 400); do grep -q listening %s && break; sleep 0.05; done'):format(log)
    end
    for block in moved(readme):gmatch("\n```sh\n(.-)```") do
      script[#script + 1] = block
      for log in block:gmatch("> (%S+%.log) &") do wait_for(log) end
    end
    for command, output in moved(readme):match("\n```console\n(.-)```"):gmatch("%$ ([^\n]+)\n([^$]*)") do
      script[#script + 1] = ("echo '@%d'\n%s || true"):format(#expected + 1, command)
      expected[#expected + 1] = { command, output }
    end
    script[#script + 1] = "wc -l < model.log > lines\n" .. readme:match("`(kill [%%%d ]+)`") .. "\nwait\n"
    local r = shell.run{
      "bash", tmp.write(dir, "script", table.concat(script, "\n")), cwd = dir, env = environment(dir),
      timeout_ms = 60000,
    }
    assert.equal(0, r.status, r.stdout .. r.stderr)
    assert.equal(7, #expected)
    for i, each in ipairs(expected) do
      local said = r.stdout:match("@" .. i .. "\n(.-)@" .. i + 1 .. "\n") or r.stdout:match("@" .. i .. "\n(.*)$")
      assert.equal(each[2], said, each[1] .. "\n" .. r.stderr)
    end
    -- One line says where it listens, and two each of the two requests; the one after the revocation left none.
    assert.equal("5\n", tmp.read(dir .. "/lines"))
    assert.same({}, processes_in(dir))
  end)

  it("has configurations without a mistake", function()
    local config = require "deputy.config"
    local settings = config.parse(tmp.read(FOLDER .. "/deputy.json"), { read_file = function() return "token" end })
    assert.equal("mine", settings.providers[1].name)
    assert.equal("sqlite:central.db", cjson.decode(tmp.read(FOLDER .. "/central.json")).db)
  end)
end)
