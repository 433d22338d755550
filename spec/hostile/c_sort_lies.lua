-- A table that says it has a billion elements.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local t = setmetatable({}, { __len = function() return 1 << 30 end })
  while true do
    pcall(table.sort, t)
    pcall(table.insert, t, 1, 1)
    pcall(table.remove, t, 1)
    pcall(table.concat, t)
    pcall(table.unpack, t)
  end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
