-- Runs `deputy central serve` for a spec, on a database of its own.
--   local centrals = require "spec.support.central"
--   local c = centrals.start()       SQLite in a temporary folder, initialised; a table: db =, env =, log = "debug",
--                                    config = further sections of the configuration, listen =, dir =
--   c.address, c.url, c.admin (the first admin token), c.db, and everything of support/gateway.lua's objects
--   c:deputy(...)             deputy central ... --db DB: what it prints; must succeed
--   c:llm(name, { ... })      creates an LLM; its id.  url =, model =, apiKeyEnv =, apiKeyFile =
--   c:user(name, { role or { role, llm }, ... })   creates a user with these roles, and a token, which it returns
--   c:call(method, path, token, json)      over HTTP; the token may be false
--   centrals.stop_all()       in after_each
local uv = require "luv"
local cjson = require "cjson"
local client = require "spec.support.client"
local gateway = require "spec.support.gateway"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local centrals = {}
local Central = setmetatable({}, { __index = gateway.methods })
Central.__index = Central

local function run(dir, ...)
  local r = shell.run{ env = gateway.environment(dir), cwd = dir, timeout_ms = 20000, gateway.DEPUTY, "central", ... }
  if r.status ~= 0 then
    error(("deputy central %s: %s"):format(table.concat({ ... }, " "), r.stderr .. r.stdout), 3)
  end
  return (r.stdout:gsub("%s+$", ""))
end

function centrals.start(options)
  options = options or {}
  local dir = options.dir or tmp.dir()
  local db = options.db or "sqlite:" .. dir .. "/central.db"
  local admin = options.admin or run(dir, "init", "--db", db)
  local config = { db = db, listen = options.listen or "127.0.0.1:0" }
  for name, value in pairs(options.config or {}) do config[name] = value end
  local path = tmp.write(dir, "central.json", cjson.encode(config))
  uv.fs_chmod(path, 384) -- 0600
  local self = gateway.launch(Central, dir, options, "central", "serve", "-c", path)
  self.admin, self.db, self.url = admin, db, "http://" .. self.address
  return self
end

function Central:deputy(command, ...)
  local words = {}
  for word in command:gmatch("%S+") do words[#words + 1] = word end
  table.move({ ... }, 1, select("#", ...), #words + 1, words)
  words[#words + 1], words[#words + 2] = "--db", self.db
  return run(self.dir, table.unpack(words))
end

function Central:call(method, path, token, json)
  local headers = token ~= false and { Authorization = "Bearer " .. (token or self.admin) } or {}
  return client.ask(self.address, { method = method, path = path, headers = headers, json = json })
end

function Central:llm(name, fields)
  local json = { name = name, type = "openai" }
  for field, value in pairs(fields) do json[field] = value end
  local r = self:call("POST", "/api/v1/llms", nil, json)
  assert(r.status == 201, ("POST /api/v1/llms: %s %s"):format(r.status, r.body))
  return r.json.id
end

function Central:user(name, roles)
  self:deputy("user create", name)
  for _, role in ipairs(roles or {}) do
    if type(role) == "table" then
      self:deputy("grant", "--user", name, "--role", role[1], "--llm", role[2])
    else
      self:deputy("grant", "--user", name, "--role", role)
    end
  end
  return self:deputy("token create", "--user", name)
end

centrals.stop_all = gateway.stop_all
return centrals
