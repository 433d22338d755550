-- Runs out of memory under pcall, again and again, with the memory nearly full.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local keep = {}
  pcall(function() while true do keep[#keep + 1] = { #keep } end end)
  while true do
    pcall(function() return { table.unpack(keep, 1, 16000) } end)
  end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
