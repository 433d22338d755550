-- What comes in: the fields of an object, each checked by its kind; the first mistake is told. An input that could not
-- even be read comes as the problem it had: it is told here, after whoever sent it turned out to be somebody who may.
--
--   local values, why = fields.read({ name = { kind = "name", required = true }, ... }, input)
-- values holds what was given; an optional field that is given as null (cjson.null) is fields.NONE: "take it away".
-- Kinds: name (of an LLM, a user, ...), text (max), url, flag, word (of), integer (min, max), time, path, variable.
--   fields.name_problem(text)    what is wrong with it as a name that is looked up: what may stand in one segment of a
--                                path; nil when nothing is
local cjson = require "cjson"
local clocks = require "central.clock"
local ids = require "central.ids"
local nearest = require "deputy.nearest"
local problem = require "central.problem"
local sorted_keys = require "deputy.sorted_keys"
local web_address = require "deputy.web_address"

local fields = {}
fields.NONE = cjson.null

local MAX_NAME = 128
local MAX_URL = 2048
local MAX_PATH = 1024

function fields.name_problem(text)
  if text == "" then return "must not be empty" end
  if #text > MAX_NAME then return ("must not be longer than %d bytes"):format(MAX_NAME) end
  if text == "." or text == ".." then return 'must not be "." or ".."' end
  if text:find("[%c\127]") then return "must not hold control bytes" end
  if not utf8.len(text) then return "must be UTF-8" end
end

local read = {}

function read.name(text)
  if type(text) ~= "string" then return nil, "expected a string" end
  local wrong = fields.name_problem(text)
  if wrong then return nil, wrong end
  if ids.is_id(text) then return nil, "looks like an id (24 characters from a-z and 0-9): choose another name" end
  if text:find("^%s") or text:find("%s$") then return nil, "must not begin or end with a space" end
  if text == "*" then return nil, "* stands for all of them: choose another name" end
  return text
end

function read.text(text, spec)
  if type(text) ~= "string" then return nil, "expected a string" end
  if #text > spec.max then return nil, ("must not be longer than %d bytes"):format(spec.max) end
  if text == "" and spec.required then return nil, "must not be empty" end
  if text:find("%z") or (not spec.lines and text:find("%c")) then return nil, "must not hold control bytes" end
  if not utf8.len(text) then return nil, "must be UTF-8" end
  return text
end

function read.key(text)
  if type(text) ~= "string" then return nil, "expected a name or an id" end
  local wrong = fields.name_problem(text)
  if wrong then return nil, wrong end
  return text
end

function read.url(text)
  if type(text) ~= "string" then return nil, "expected a string" end
  if #text > MAX_URL then return nil, ("must not be longer than %d bytes"):format(MAX_URL) end
  local wrong = web_address.problem(text)
  if wrong then return nil, wrong end
  return text
end

function read.flag(value)
  if type(value) ~= "boolean" then return nil, "expected true or false" end
  return value
end

function read.word(text, spec)
  for _, word in ipairs(spec.of) do
    if text == word then return text end
  end
  local given = type(text) == "string" and nearest.suggest(text:sub(1, 64), spec.of)
    or "known here: " .. table.concat(spec.of, ", ")
  return nil, "not a known word: " .. given
end

function read.integer(value, spec)
  local whole = type(value) == "number" and math.tointeger(value)
  if not whole or whole < spec.min or whole > spec.max then
    return nil, ("expected a whole number from %d to %d"):format(spec.min, spec.max)
  end
  return whole
end

function read.time(text)
  local seconds = type(text) == "string" and clocks.parse(text)
  if not seconds then return nil, 'expected a time in UTC, as in "2026-01-31T12:00:00Z"' end
  return clocks.text(seconds)
end

function read.path(text)
  if type(text) ~= "string" or text:sub(1, 1) ~= "/" then return nil, "expected a path that begins with /" end
  return read.text(text, { max = MAX_PATH })
end

function read.variable(text)
  if type(text) ~= "string" or not text:find("^[%a_][%w_]*$") or #text > MAX_NAME then
    return nil, "expected the name of an environment variable (the key itself is never kept here)"
  end
  -- Those hold the central's own secrets: its database's password, an admin's token.
  if text:find("^DEPUTY_") then return nil, "DEPUTY_... is for the central itself: choose another variable" end
  return text
end

local function bad(field, message)
  local why = problem(400, "invalid_request", "%s", "")
  why.field, why.message = field, field and field .. ": " .. message or message
  return nil, why
end

local function printable(word)
  word = word:gsub("[%c\127]", "?"):sub(1, 64)
  return utf8.len(word) and word or "?"
end

local function one(spec, given)
  if given == cjson.null and not spec.required then return fields.NONE end
  local value, wrong = read[spec.kind](given, spec)
  if wrong then return nil, wrong end
  return value
end

function fields.read(shape, input)
  if problem.is(input) then return nil, input end
  if type(input) ~= "table" or (#input > 0 and next(shape) ~= nil) then return bad(nil, "expected an object") end
  for _, field in ipairs(sorted_keys(input)) do
    if not shape[field] then
      return bad(printable(field), "not a known key: " .. nearest.suggest(field:sub(1, 64), sorted_keys(shape)))
    end
  end
  local values = {}
  for _, field in ipairs(sorted_keys(shape)) do
    local spec, given = shape[field], input[field]
    if given == nil and spec.required then return bad(field, "missing") end
    if given ~= nil then
      local value, wrong = one(spec, given)
      if wrong then return bad(field, wrong) end
      values[field] = value
    end
  end
  return values
end

return fields
