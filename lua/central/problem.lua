-- Why an operation was refused or failed: { status =, code =, message = }, and field when one of the input's fields is
-- to blame. status is that of HTTP, code a word for programs, message a sentence for people.
--
--   return nil, problem(404, "user_not_found", 'no user "%s"', name)
local Problem = {}
Problem.__index = Problem
Problem.__tostring = function(self) return self.message end

-- For messages: what a caller sent, with no control bytes and not long.
local function printable(value)
  if type(value) ~= "string" then return value end
  value = value:gsub("[%c\127]", "?")
  if not utf8.len(value) then value = value:gsub("[\128-\255]", "?") end
  return #value > 64 and value:sub(1, utf8.offset(value, 0, 65) - 1) .. "..." or value
end

local problem = {}

-- Whether a value is one.
function problem.is(value)
  return getmetatable(value) == Problem
end

local function new(_, status, code, message, ...)
  if select("#", ...) > 0 then
    local values = table.pack(...)
    for i = 1, values.n do values[i] = printable(values[i]) end
    message = message:format(table.unpack(values, 1, values.n))
  end
  return setmetatable({ status = status, code = code, message = message }, Problem)
end

return setmetatable(problem, { __call = new })
