-- Packed strings of two gigabytes.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  while true do
    pcall(string.pack, "c2000000000", "x")
    pcall(string.pack, ("s4"):rep(500), "x")
    pcall(string.unpack, ("b"):rep(60000), ("x"):rep(60000))
    pcall(string.packsize, ("!16 j"):rep(15000))
  end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
