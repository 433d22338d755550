-- Changes the libraries, the metatable of strings and that of its own globals.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  string.format = error
  string.find = error
  table.concat = error
  JSON.encode, JSON.decode = nil, function() while true do end end
  setmetatable(_G, { __index = function() error("gone") end, __newindex = function() error("gone") end })
  local mt = getmetatable("")
  assert(type(mt) ~= "table" or not pcall(function() mt.__index = nil end))
  getmetatable = nil
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
