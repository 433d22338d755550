-- gsub whose pattern fails slowly at each place.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  return ("a"):rep(60000):gsub("a*a*a*b", "")
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
