-- Waits where it cannot: in a coroutine, in sort, in gsub, in __close, in a metamethod, in load.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  pcall(coroutine.wrap(function() run:complete(run:failover()) end))
  pcall(table.sort, { 1, 2, 3 }, function() run:probe() end)
  pcall(string.gsub, "x", "x", function() run:probe() end)
  pcall(load, function() run:probe() end)
  pcall(function() return setmetatable({}, { __index = function() run:probe() end }).x end)
  do local x <close> = setmetatable({}, { __close = function() run:probe() end }) end
  pcall(function()
    local x <close> = setmetatable({}, { __close = function() run:probe() end })
    error("x")
  end)
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
