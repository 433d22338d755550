-- What the checks of a contract have in common: asking the central, remembering what came, and writing down the result.
--   local run = contract_run.new{ base =, llm =, probe =, inference =, tokens = { allowed =, denied = }, ... }
--   run:ask(who, name, fields)     asks the probe's path about a name; who is "allowed", "denied", "none", "bad" or
--                                  another token; fields may set method ("HEAD"), raw (the path's last part as it is)
--   run:holds(id, text)  run:fails(id, problems)  run:note(id, text)
-- run.results = { { id =, result = "ok"|"FAIL"|"note", text = }, ... }
-- run.seen = { { what =, reply = }, ... }, of every reply to a probe
local client = require "central.client"
local socket = require "socket"

local contract_run = {}
local Run = {}
Run.__index = Run

local MAX_BODY = 1 << 20
local LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"

local function random_bytes(n)
  local file = assert(io.open("/dev/urandom", "rb"))
  local bytes = file:read(n)
  file:close()
  return bytes
end

-- Letters and digits; the first is a letter.
function contract_run.random_name(n)
  local name = random_bytes(n):gsub(".", function(c)
    local i = c:byte() % #LETTERS + 1
    return LETTERS:sub(i, i)
  end)
  return "z" .. name:sub(2)
end

-- Another character in the middle, where it counts in every encoding.
local function altered(token)
  local at = #token // 2 + 1
  local c = token:sub(at, at)
  return token:sub(1, at - 1) .. (c == "x" and "y" or "x") .. token:sub(at + 1)
end

function contract_run.new(spec)
  spec.results, spec.seen, spec.slowest = {}, {}, 0
  spec.tokens.bad = contract_run.random_name(math.max(#spec.tokens.allowed, 16))
  spec.tokens.altered = altered(spec.tokens.allowed)
  spec.tokens.shortened = spec.tokens.allowed:sub(1, -2)
  return setmetatable(spec, Run)
end

contract_run.callers = {
  allowed = "the allowed token", denied = "the denied token", none = "no token", bad = "a token that is none",
  altered = "the allowed token with one character changed", shortened = "the allowed token without its last character",
}

-- ---- asking ---------------------------------------------------------------------------------------------------------

function Run:target(name, raw, template)
  local path = (template or self.probe):gsub("{llm}", function() return raw or client.escape(name) end)
  return path
end

function Run:request(who, name, fields)
  fields = fields or {}
  return {
    method = fields.method or "HEAD", target = self:target(name, fields.raw), token = self.tokens[who],
    timeout = self.timeout, ca_file = self.ca_file, max_body = MAX_BODY,
  }
end

function Run:remember(what, reply)
  self.seen[#self.seen + 1] = { what = what, reply = reply }
  self.slowest = math.max(self.slowest, reply.us)
end

function Run:ask(who, name, fields)
  local request = self:request(who, name, fields)
  local reply, failure = client.ask(self.base, request)
  if reply then
    self:remember(("%s %s with %s"):format(request.method, request.target, contract_run.callers[who]), reply)
  end
  return reply, failure
end

function Run:open()
  return client.open(self.base, { timeout = self.timeout, ca_file = self.ca_file })
end

function Run.now() return socket.gettime() end

-- "403", or why there is no answer.
function contract_run.show(reply, failure)
  return reply and tostring(reply.status) or failure.kind .. ": " .. failure.message
end

-- ---- writing down ---------------------------------------------------------------------------------------------------

local function clean(text)
  return (text:gsub("[%c]", " "))
end

function Run:write(id, result, text)
  for _, token in pairs(self.tokens) do
    local from, to = text:find(token, 1, true)
    if from then text = text:sub(1, from - 1) .. "[token]" .. text:sub(to + 1) end
  end
  local entry = { id = id, result = result, text = clean(text) }
  self.results[#self.results + 1] = entry
  if self.on_result then self.on_result(entry) end
end

function Run:note(id, text) self:write(id, "note", text) end

-- It holds when there are no problems.
function Run:conclude(id, problems, text)
  if #problems == 0 then return self:write(id, "ok", text) end
  local shown = table.concat(problems, "; ", 1, math.min(#problems, 3))
  if #problems > 3 then shown = shown .. ("; and %d more"):format(#problems - 3) end
  self:write(id, "FAIL", shown)
end

return contract_run
