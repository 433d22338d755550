-- What a request says: its path as segments, its query, its body. Mistakes come back as problems (problem.lua).
local cjson = require "cjson"
local problem = require "central.problem"

local requests = {}

requests.MAX_BODY = 65536

local MAX_QUERY = 4096

local decoder = cjson.new()
decoder.decode_max_depth(8)
decoder.decode_invalid_numbers(false)

-- Percent-decodes once; nil when an escape is none.
local function decode(text)
  if not text:find("%", 1, true) then return text end
  if text:gsub("%%%x%x", ""):find("%", 1, true) then return nil end
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end
requests.decode = decode

-- The path and the query of a target.
function requests.split(target)
  local at = target:find("?", 1, true)
  if not at then return target, nil end
  return target:sub(1, at - 1), target:sub(at + 1)
end

-- The query's fields; numbers for limit. A problem instead when it cannot be read.
function requests.query(text)
  local values = {}
  if not text or text == "" then return values end
  if #text > MAX_QUERY then return problem(400, "invalid_request", "the query is longer than %d bytes", MAX_QUERY) end
  for part in text:gmatch("[^&]+") do
    local key, value = part:match("^([^=]+)=?(.*)$")
    key = key and decode((key:gsub("+", " ")))
    value = key and decode((value:gsub("+", " ")))
    if not value then return problem(400, "invalid_request", "the query holds an escape that is none") end
    if values[key] ~= nil then return problem(400, "invalid_request", "%s: stands twice in the query", key) end
    values[key] = value
  end
  if values.limit and values.limit:find("^%d%d?%d?%d?%d?%d?$") then
    values.limit = math.tointeger(tonumber(values.limit))
  end
  return values
end

local function is_json(content_type)
  return (content_type or ""):lower():match("^%s*([^;]-)%s*%f[;%z]") == "application/json"
end

-- Whether an object has a name twice: which one counts is anybody's guess, and what looked at the request before may
-- have gone by the other. Objects in objects are no field's, and are not looked into.
local function has_doubles(body, object)
  local names = 0
  for _, value in pairs(object) do
    if type(value) == "table" then return false end
    names = names + 1
  end
  local _, colons = body:gsub("\\.", ""):gsub('"[^"]*"', ""):gsub(":", "")
  return colons ~= names
end

-- The body's object. A problem instead when it cannot be read.
function requests.body(request)
  local body = request.body
  if not body or body == "" then
    return problem(400, "invalid_request", "expected an object in JSON, the body is empty")
  end
  if #body > requests.MAX_BODY then
    return problem(413, "body_too_large", "a body here may have %d bytes", requests.MAX_BODY)
  end
  if not is_json(request.content_type) then
    return problem(415, "unsupported_media_type", "expected Content-Type: application/json")
  end
  local ok, value = pcall(decoder.decode, body)
  if not ok then
    local why = problem(400, "invalid_json", "")
    why.message = "not JSON: " .. tostring(value):gsub("^.-: ", ""):gsub("[%c\127-\255]", "?"):sub(1, 200)
    return why
  end
  if type(value) ~= "table" or body:find("^%s*%[") then
    return problem(400, "invalid_request", "expected an object in JSON")
  end
  if has_doubles(body, value) then return problem(400, "invalid_request", "a name stands twice in the body") end
  return value
end

return requests
