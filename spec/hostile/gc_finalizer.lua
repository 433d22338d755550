-- A finalizer runs with hooks switched off: set before, set later, set through a copy.
local M = {}

function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  local function loop() while true do end end
  pcall(setmetatable, {}, { __gc = loop })
  local mt = { __gc = true }
  pcall(setmetatable, {}, mt)
  mt = {}
  for _ = 1, 1000 do
    local t = setmetatable({}, mt)
    mt.__gc = loop
    t = setmetatable({}, getmetatable(t) or {})
    mt.__gc = nil
  end
  return nil, failure
end

function M.should_failover() return true end

function M.verdict() return "allowed" end

return M
