-- The JSON of a configuration, decoded; a mistake is said with its line and column, in words for people.
--
--   local value, problem = json_text.decode(text)      problem: { key = "", line = or nil, message = }
local cjson = require "cjson"

local json_text = {}

json_text.MAX_BYTES = 1024 * 1024

local decoder = cjson.new()
decoder.decode_invalid_numbers(false)
decoder.decode_max_depth(64)

local TOKENS = {
  T_OBJ_BEGIN = '"{"', T_OBJ_END = '"}"', T_ARR_BEGIN = '"["', T_ARR_END = '"]"', T_STRING = "a string",
  T_NUMBER = "a number", T_BOOLEAN = "true or false", T_NULL = "null", T_COLON = '":"', T_COMMA = '","',
  T_END = "the end of the file",
}

local function line_and_column(text, offset)
  local before = text:sub(1, offset - 1)
  local _, breaks = before:gsub("\n", "")
  return breaks + 1, #before:match("[^\n]*$") + 1
end

local function syntax_hint(text, offset)
  local before = text:sub(1, offset - 1):match("(%S)%s*$")
  local at = text:sub(offset, offset)
  if before == "," and at:find("[]}]") then return " (there is a comma too many before it)" end
  if at == "/" or at == "#" then return " (JSON has no comments)" end
  if at == "'" then return ' (JSON strings stand in ")' end
  return ""
end

local function syntax_problem(text, message)
  local what, offset = tostring(message):match("^(.*) at character (%d+)$")
  if not what then return { key = "", message = "not JSON: " .. tostring(message) } end
  offset = math.min(math.tointeger(tonumber(offset)), #text + 1)
  local line, column = line_and_column(text, offset)
  what = what:gsub("T_[A-Z_]+", TOKENS):gsub("^%u", string.lower)
  return {
    key = "", line = line, message = ("not JSON: column %d: %s%s"):format(column, what, syntax_hint(text, offset)),
  }
end

function json_text.decode(text)
  if #text > json_text.MAX_BYTES then
    return nil, { key = "", message = ("larger than %d bytes"):format(json_text.MAX_BYTES) }
  end
  local bad = text:find("[\0-\8\11\12\14-\31]")
  if bad then return nil, { key = "", line = (line_and_column(text, bad)), message = "a control byte stands here" } end
  local length, invalid = utf8.len(text)
  if not length then
    return nil, { key = "", line = (line_and_column(text, invalid)), message = "not UTF-8" }
  end
  local ok, value = pcall(decoder.decode, text)
  if not ok then return nil, syntax_problem(text, value) end
  return value
end

return json_text
