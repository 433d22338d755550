-- What a script accepts in policy.settings, and words for what it does not.
--
--   local options = require("deputy.settings").read(settings, {
--     retries = { default = 1, from = 0, to = 3 },                      -- a whole number
--     failoverOn = { default = "unavailable", one_of = { "unavailable", "any" } },
--     currency = { type = "string" },                                   -- "string", "boolean" or "number"
--     breaker = { fields = { failures = { default = 5, from = 1, to = 100 } }, off = true },  -- or false
--   })
--
-- read(given, declared) gives a table with every default filled in, or raises one sentence that names each mistake.
-- problems(given, declared) gives the sentences instead, sorted by key; none: an empty array.
local M = {}

local function distance(a, b)
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local corner = row[0]
    row[0] = i
    for j = 1, #b do
      local above = row[j]
      local same = a:byte(i) == b:byte(j)
      row[j] = math.min(above + 1, row[j - 1] + 1, corner + (same and 0 or 1))
      corner = above
    end
  end
  return row[#b]
end

local function sorted(t)
  local names = {}
  for name in pairs(t) do names[#names + 1] = name end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  return names
end

local function nearest(name, known)
  local best, least = nil, #name // 2 + 1
  for _, candidate in ipairs(sorted(known)) do
    local d = distance(name:lower(), candidate:lower())
    if d < least then best, least = candidate, d end
  end
  return best
end

local function show(value)
  if type(value) == "string" then return ("%q"):format(#value > 40 and value:sub(1, 40) .. "..." or value) end
  if type(value) == "number" then return ("%.14g"):format(value) end -- what JSON decodes is 9.0, what was written is 9
  if type(value) == "boolean" then return tostring(value) end
  if type(value) == "table" then return #value > 0 and "an array" or "an object" end
  return value == nil and "nothing" or "null"
end

local function quoted(words)
  local out = {}
  for i, word in ipairs(words) do out[i] = show(word) end
  return table.concat(out, " or ")
end

local function expectation(rule)
  local what
  if rule.fields then
    what = "an object"
  elseif rule.one_of then
    what = quoted(rule.one_of)
  elseif rule.type then
    what = "a " .. rule.type
  else
    what = ("a whole number from %d to %d"):format(rule.from, rule.to)
  end
  return rule.off and what .. ", or false" or what
end

local function fits(value, rule)
  if rule.fields then return type(value) == "table" and #value == 0 end
  if rule.one_of then
    for _, word in ipairs(rule.one_of) do
      if word == value then return true end
    end
    return false
  end
  if rule.type then return type(value) == rule.type end
  return math.type(value) ~= nil and value == math.floor(value) and value >= rule.from and value <= rule.to
end

local check

local function check_value(value, rule, where, said)
  if value == nil then
    if not rule.fields then return rule.default end
    value = rule.default == nil and {} or rule.default
  end
  if rule.off and value == false then return false end
  if rule.off and rule.fields and value == true then value = {} end
  if not fits(value, rule) then
    said[#said + 1] = ("%s: expected %s, got %s"):format(where, expectation(rule), show(value))
    return nil
  end
  if rule.fields then return check(value, rule.fields, where, said) end
  return rule.one_of == nil and rule.type == nil and math.tointeger(value) or value
end

check = function(given, declared, where, said)
  local out = {}
  for _, name in ipairs(sorted(given)) do
    if declared[name] == nil then
      local near = type(name) == "string" and nearest(name, declared)
      said[#said + 1] = ("%s.%s: unknown; %s"):format(where, tostring(name),
        near and ("did you mean %q?"):format(near) or "known are " .. table.concat(sorted(declared), ", "))
    end
  end
  for _, name in ipairs(sorted(declared)) do
    out[name] = check_value(given[name], declared[name], where .. "." .. name, said)
  end
  return out
end

--- The sentences about every mistake, and what could be read.
function M.problems(given, declared)
  local said = {}
  if type(given) ~= "table" then
    return { ("policy.settings: expected an object, got %s"):format(show(given)) }, {}
  end
  local out = check(given, declared, "policy.settings", said)
  return said, out
end

--- The settings with every default filled in; raises when something in them is not what the script accepts.
function M.read(given, declared)
  local said, out = M.problems(given, declared)
  if #said > 0 then error(table.concat(said, "; "), 0) end
  return out
end

return M
