-- Whoever reads the log may stop reading: nobody who is served waits for that.
local uv = require "luv"
local cjson = require "cjson"
local client = require "spec.support.client"
local gateway = require "spec.support.gateway"
local tmp = require "spec.support.tmp"

local BUILD = assert(uv.fs_realpath(os.getenv("DEPUTY_BUILD") or "build"))
local LUA = assert(uv.fs_realpath("lua"))
local NAME = ("x"):rep(120) -- long lines fill sooner what may wait
local REQUESTS = 5000 -- of half a KiB and more, where a MiB may wait
local AT_ONCE = 65536

-- What stderr is: the end that the program gets, and ours.
local KINDS = {
  pipe = function(dir)
    assert(os.execute("mkfifo " .. dir .. "/log"))
    local fd = assert(uv.fs_open(dir .. "/log", "r+", 384))
    return fd, fd
  end,
  socket = function()
    local pair = assert(uv.socketpair("stream", nil))
    return pair[2], pair[1]
  end,
}

describe("a log that nobody reads", function()
  local running = {}

  after_each(function()
    for _, process in ipairs(running) do
      if not process.status then uv.kill(process.pid, "sigkill") end
      process.handle:close()
    end
    running = {}
    uv.run("nowait")
  end)

  local function start(kind)
    local dir = tmp.dir()
    local stderr, log = KINDS[kind](dir)
    local config = tmp.write(dir, "deputy.json", cjson.encode{
      central = { url = "http://127.0.0.1:1" }, log = { format = "json" },
      policy = { settings = { retries = 0, breaker = false } },
      gateway = { listen = "unix:" .. dir .. "/socket", drainMs = 2000 },
    })
    assert(uv.fs_chmod(config, 384))
    local process = { log = log }
    process.handle, process.pid = assert(uv.spawn(BUILD .. "/deputy", {
      args = { "serve", "-c", config }, stdio = { nil, nil, stderr },
      env = { "DEPUTY_LUA=" .. LUA, "XDG_RUNTIME_DIR=" .. dir, "HOME=" .. dir },
    }, function(status, signal) process.status, process.signal = status, signal end))
    running[#running + 1] = process
    assert(gateway.wait_until(function() return uv.fs_stat(dir .. "/socket") end, 10000))
    process.caller = client.open("unix:" .. dir .. "/socket")
    return process
  end

  local function ask(process)
    process.caller:send(client.request{ path = "/v1/chat/completions", headers = { Authorization = "Bearer tok" },
      json = { model = NAME, messages = {} } })
    return assert(process.caller:read_reply()).status
  end

  local function read_until(process, word)
    local text = ""
    repeat text = text .. assert(uv.fs_read(process.log, AT_ONCE)) until text:find(word, 1, true)
    return text
  end

  for kind in pairs(KINDS) do
    it("keeps nobody waiting, and says how many lines were lost, on a " .. kind, function()
      local process = start(kind)
      for _ = 1, REQUESTS do assert.equal(502, ask(process)) end
      local text = ""
      repeat -- each reply writes what fits by now
        ask(process)
        text = text .. assert(uv.fs_read(process.log, AT_ONCE))
      until text:find('"lines of this log were lost"', 1, true)
      uv.kill(process.pid, "sigterm")
      text = text .. read_until(process, '"draining"')
      local runs, lost = 0, nil
      for line in text:gmatch("[^\n]+\n") do
        local fields = cjson.decode(line) -- no half line
        if fields.llm == NAME then runs = runs + 1 end
        lost = lost or fields.lines
      end
      assert.is_true(lost > 0 and runs > 1000 and lost + runs >= REQUESTS, ("%d and %s lost"):format(runs, lost))
    end)

    it("keeps nobody from ending it, on a " .. kind, function()
      local process = start(kind)
      for _ = 1, REQUESTS // 10 do assert.equal(502, ask(process)) end
      process.caller:close()
      uv.kill(process.pid, "sigterm")
      assert(gateway.wait_until(function()
        uv.run("nowait")
        return process.status
      end, 5000))
      assert.same({ 0, 0 }, { process.status, process.signal })
    end)
  end
end)
