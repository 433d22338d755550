-- Formats that are long, wide and many.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  pcall(string.format, ("%99.99f"):rep(1000), table.unpack({}, 1, 1000))
  local many = {}
  for i = 1, 800 do many[i] = 1e308 end
  while true do
    pcall(string.format, ("%.99f"):rep(800), table.unpack(many))
    pcall(string.format, "%s", setmetatable({}, { __tostring = function() while true do end end }))
  end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
