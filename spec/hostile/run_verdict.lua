-- A verdict that loops, fails and is not a word.
local M = {}
local n = 0

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  if M.verdict(run:probe()) == "allowed" then return run:complete(run:failover()) end
  return nil, failure
end

function M.should_failover() while true do end end

function M.verdict()
  n = n + 1
  if n % 4 == 1 then return setmetatable({}, { __eq = function() return true end }) end
  if n % 4 == 2 then error({}) end
  if n % 4 == 3 then return "allowed\0" end
  while true do end
end

return M
