-- The drivers of spec/clients, which run what `make clients` has installed.
--   local npm = require "spec.support.npm"
--   if npm.skip(pending) then return end     first in a test: not there means skipped in words, and in CI an error
--   local r = npm.run("openai", arguments...)         the driver to its end: shell.run's table; r.lines, its JSON lines
--   local d = npm.start("aimock", arguments...)       in the background; d.first is its first JSON line
--   d:ask("journal")                                  one line in, one JSON line out
--   npm.stop_all()                                    in after_each
local lfs = require "lfs"
local cjson = require "cjson"
local shell = require "spec.support.shell"

local npm = {}
local RUN_MS = 90000
local ANSWER_MS = 20000

local running = {}
local Driver = {}
Driver.__index = Driver

-- What is missing, in words, or nil.
function npm.missing()
  if shell.run{ "node", "--version" }.status ~= 0 then return "node is not there: make clients says why" end
  if not lfs.attributes("spec/clients/node_modules/.package-lock.json") then
    return "the npm packages are not there: make clients says why"
  end
end

function npm.skip(pending, why)
  why = why or npm.missing()
  if why and os.getenv("CI") then error(why, 2) end
  if why then pending(why) end
  return why ~= nil
end

local function command(name, ...)
  return { "node", "spec/clients/" .. name .. ".mjs", ... }
end

function npm.run(name, ...)
  local spec = command(name, ...)
  spec.timeout_ms = RUN_MS
  local result = shell.run(spec)
  result.lines = {}
  for line in result.stdout:gmatch("[^\n]+") do
    local ok, json = pcall(cjson.decode, line)
    result.lines[#result.lines + 1] = ok and json or nil
  end
  return result
end

function Driver:read()
  local line = self.process:wait_for("([^\n]+)\n", ANSWER_MS)
  if not line then error("the driver said nothing: " .. self.process.stderr, 3) end
  self.process.stdout = self.process.stdout:sub(#line + 2)
  return cjson.decode(line)
end

function npm.start(name, ...)
  local self = setmetatable({ process = shell.start(command(name, ...)) }, Driver)
  running[self] = true
  self.first = self:read()
  return self
end

function Driver:ask(line)
  self.process:write(line .. "\n")
  return self:read()
end

function Driver:stop()
  if not running[self] then return end
  running[self] = nil
  self.process:close_stdin()
  if not self.process:wait(3000) then self.process:stop() end
end

function npm.stop_all()
  for self in pairs(running) do self:stop() end
end

return npm
