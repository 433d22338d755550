-- Compiles in a loop, from text, from functions, and what is not text.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  pcall(load, string.rep("x = ", 10000) .. "1")
  local n = 0
  pcall(load, function() n = n + 1 return "goto a " end)
  pcall(load, function() return " " end)
  assert(not load("\27Lua"))
  assert(not load("\27Lua", "x", "b"))
  local text = "local a " .. ("if a then elseif a then end "):rep(1000)
  while true do load(text) load("return " .. ("a and "):rep(5000) .. "a") end
  local provider = run:failover()
  local answer = provider and run:complete(provider)
  if answer then return answer end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
