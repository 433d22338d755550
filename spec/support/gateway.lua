-- Runs `deputy serve` for a spec.
--   local gateway = require "spec.support.gateway"
--   local gw = gateway.start{ central = {...}, providers = {...}, ... }    a configuration; listens on a free port
--       a second table: dir =, env =, ulimit = open files, a soft limit unless hard = true
--   gw.address ("127.0.0.1:PORT"), gw.pid, gw.dir, gw.config (path)
--   gw:ask{ path =, json =, ... }    client.ask;  gw:chat(fields, headers)  POST /v1/chat/completions
--   gw:log()            what it has written so far; gw:wait_log(pattern [, ms]) until that is in it
--   gw:write(config)    another configuration in the file;  gw:signal("sighup")
--   gw:rss()            its memory, in KiB
--   gw:wait(ms)         until it has ended; its exit status
--   gw:stop()           SIGTERM, and the exit status
--   gateway.run(config, ...)    one that is expected not to start: { status, stderr, ... }
--   gateway.stop_all()  in after_each: each must end with 0, without a word of a sanitizer
-- gateway.launch, gateway.methods and gateway.environment are for support/central.lua.
local uv = require "luv"
local lfs = require "lfs"
local cjson = require "cjson"
local client = require "spec.support.client"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local gateway = {}
local BUILD = assert(uv.fs_realpath(os.getenv("DEPUTY_BUILD") or "build"))
local DEPUTY = BUILD .. "/deputy"
local START_MS = 20000

local running = {}
local Gateway = {}
Gateway.__index = Gateway

local function environment(dir, more)
  local lua = not lfs.attributes(BUILD .. "/../lua/deputy/config.lua") and lfs.currentdir() .. "/lua" or false
  local env = { DEPUTY_LUA = lua, XDG_CONFIG_HOME = dir, XDG_RUNTIME_DIR = dir, HOME = dir, NOTIFY_SOCKET = false }
  for name, value in pairs(more or {}) do env[name] = value end
  return env
end

local function write_config(dir, config)
  config.gateway = config.gateway or {}
  config.gateway.listen = config.gateway.listen or "127.0.0.1:0"
  local path = tmp.write(dir, "deputy.json", cjson.encode(config))
  uv.fs_chmod(path, 384) -- 0600
  return path
end

function gateway.run(config, ...)
  local dir = tmp.dir()
  local path = type(config) == "table" and write_config(dir, config) or config
  return shell.run{ env = environment(dir), cwd = dir, timeout_ms = START_MS, DEPUTY, "serve", "-c", path, ... }
end

-- Runs deputy with these arguments until it says where it listens; kind: what its methods are looked up in.
function gateway.launch(kind, dir, options, ...)
  local self = setmetatable({ dir = dir, log_path = dir .. "/log" }, kind)
  local limit = options.ulimit and ("ulimit %s %d; "):format(options.hard and "-n" or "-Sn", options.ulimit) or ""
  local command = { "sh", "-c", limit .. 'exec "$0" "$@" 2>>' .. self.log_path, DEPUTY, ... }
  command.env, command.cwd = environment(dir, options.env), dir
  self.process = shell.start(command)
  self.pid = self.process.pid
  running[self] = true
  self.address = self:wait_log("msg\"?[=:]\"?listening\"?[ ,]\"?address\"?[=:]\"?([^%s\"]+)", START_MS)
  if not self.address then error("deputy did not start: " .. self:log(), 3) end
  return self
end

function gateway.start(config, options)
  options = options or {}
  local dir = options.dir or tmp.dir()
  local path = write_config(dir, config)
  local self = gateway.launch(Gateway, dir, options, "serve", "-c", path)
  self.config = path
  return self
end

function Gateway:log()
  return lfs.attributes(self.log_path) and tmp.read(self.log_path) or ""
end

-- Sleeps in small steps until check() has a value.
function gateway.wait_until(check, ms)
  local late = uv.hrtime() + (ms or 3000) * 1000000
  local found = check()
  while not found and uv.hrtime() < late do
    uv.sleep(5)
    found = check()
  end
  return found
end

function Gateway:wait_log(pattern, ms)
  return gateway.wait_until(function() return self:log():match(pattern) end, ms)
end

function Gateway:ask(spec)
  return client.ask(self.address, spec)
end

function Gateway:chat(fields, headers)
  local json = { model = "claude", messages = { { role = "user", content = "hi" } } }
  for name, value in pairs(fields or {}) do json[name] = value end
  return self:ask{ path = "/v1/chat/completions", json = json, headers = headers }
end

function Gateway:open(timeout_ms)
  return client.open(self.address, timeout_ms)
end

function Gateway:write(config)
  write_config(self.dir, config)
end

function Gateway:signal(name)
  self.process:signal(name)
end

function Gateway:rss()
  return tonumber(tmp.read("/proc/" .. self.pid .. "/status"):match("VmRSS:%s*(%d+)"))
end

function Gateway:wait(ms)
  local ended = self.process:wait(ms or 5000)
  if ended then
    running[self] = nil
    self.ended = ended
  end
  return ended and (ended.status or "signal " .. ended.signal)
end

function Gateway:stop()
  if self.ended then return self.ended.status end
  self:signal("sigterm")
  local status = self:wait()
  if not status then
    self:signal("sigterm")
    status = self:wait()
  end
  return status
end

function gateway.stop_all()
  for self in pairs(running) do
    local status = self:stop()
    running[self] = nil
    if status == nil then self.process:stop() end
    local log = self:log()
    if status ~= 0 or log:find("Sanitizer") or log:find("runtime error") then
      error(("deputy ended with %s: %s"):format(tostring(status), log:sub(-4000)), 2)
    end
  end
end

gateway.methods, gateway.environment, gateway.DEPUTY = Gateway, environment, DEPUTY
return gateway
