-- Reads decoded values as a schema (deputy.config_schema) has them, and notes every mistake.
--
--   local reader = config_reader.new(options)
--   local out = reader:value(spec, value, key, place)      or reader:fields(...), for what is known to be an object
--   reader.problems, reader.warnings                       arrays of { key =, line =, message = }
-- key is where it stands, in words ("providers[1].port"); place is what deputy.json_map says of it, or nil.
-- config_reader.read has one function(reader, spec, value, key, place) for each kind; it returns what the settings get,
-- or nil after a mistake. deputy.config_files and deputy.managed_keys add theirs.
local cjson = require "cjson"
local nearest = require "deputy.nearest"
local sorted_keys = require "deputy.sorted_keys"

local config_reader = {}

local MAX_NAME_BYTES = 128

-- For messages: no control bytes, not long.
function config_reader.printable(word)
  word = word:gsub("%c", "?")
  return #word > 64 and word:sub(1, 64) .. "..." or word
end

function config_reader.join(key, field)
  return key == "" and field or key .. "." .. field
end

local join, printable = config_reader.join, config_reader.printable

-- ---- the reader -----------------------------------------------------------------------------------------------------

local read = {}
config_reader.read = read

local Reader = {}
Reader.__index = Reader
config_reader.Reader = Reader

-- options as for config.parse; read_file is a must.
function config_reader.new(options)
  return setmetatable({
    problems = {}, warnings = {}, dir = options.dir or ".", env = options.env or os.getenv, home = options.home,
    read_file = options.read_file, mode = options.mode, file = options.file, here = options.here,
  }, Reader)
end

-- Notes a mistake; returns nil, for the value that is not there.
function Reader:problem(key, place, message, ...)
  if select("#", ...) > 0 then message = message:format(...) end
  self.problems[#self.problems + 1] = { key = key, line = place and place.line, message = message }
end

function Reader:warn(key, place, message)
  self.warnings[#self.warnings + 1] = { key = key, line = place and place.line, message = "warning: " .. message }
end

local function describe(value, place)
  if value == cjson.null then return "null (leave the key out instead)" end
  if type(value) == "number" then return ("%.14g"):format(value) end
  if type(value) == "boolean" then return tostring(value) end
  if type(value) == "string" then return value == "" and "an empty string" or "a string" end
  return place and place.kind == "array" and "an array" or "an object"
end

function Reader:expected(key, place, what, value)
  return self:problem(key, place, "expected %s, got %s", what, describe(value, place))
end

function Reader:value(spec, value, key, place)
  if value == nil then
    if spec.required then
      local example = spec.example and (', as in "%s"'):format(spec.example) or ""
      self:problem(key, place, "missing: expected %s%s", spec.kind == "url" and "a URL" or "a value", example)
    end
    if spec.kind == "object" then return self:fields(spec.fields, {}, key, place and { line = place.line }) end
    value = spec.default
    if spec.kind == "address" then return value and self:default_address(value) end
    if spec.kind == "list" then return {} end
    if spec.kind == "routes" or spec.kind == "settings" then return read[spec.kind](self, spec, {}, key, nil) end
    if spec.kind == "restart" then return self:fields(spec.fields, {}, key, nil) end
    return value
  end
  return read[spec.kind](self, spec, value, key, place)
end

function config_reader.is_object(value, place)
  return type(value) == "table" and (not place or place.kind == "object")
end

-- Reads the fields of an object that is known to be one; owner is what to call it in the message about unknown keys.
function Reader:fields(fields, value, key, place, owner)
  local known = {}
  local out = {}
  for field, spec in pairs(fields) do
    known[#known + 1] = field
    if spec.kind == "secret" then known[#known + 1] = field .. "File" end
  end
  table.sort(known)
  local is_known = {}
  for _, field in ipairs(known) do is_known[field] = true end
  local places = place and place.fields or {}
  for _, field in ipairs(sorted_keys(value)) do
    if not is_known[field] then
      self:problem(join(key, printable(field)), places[field], "not a known key%s: %s", owner or "",
        nearest.suggest(field, known))
    end
  end
  for _, field in ipairs(sorted_keys(fields)) do
    local spec = fields[field]
    if spec.kind == "secret" then
      out[field] = self:secret_field(field, value, key, places)
    else
      out[field] = self:value(spec, value[field], join(key, field), places[field] or place)
    end
  end
  return out
end

function read.object(self, spec, value, key, place)
  if not config_reader.is_object(value, place) then
    self:expected(key == "" and "the configuration" or key, place, "an object", value)
    value, place = {}, nil
    return self:muted(function() return self:fields(spec.fields, value, key, place) end)
  end
  return self:fields(spec.fields, value, key, place)
end

-- One mistake is enough for an object that is none: what is missing in it is not said too.
function Reader:muted(body)
  local problems = self.problems
  self.problems = {}
  local result = body()
  self.problems = problems
  return result
end

function read.variant(self, spec, value, key, place)
  if not config_reader.is_object(value, place) then return self:expected(key, place, "an object", value) end
  local types = sorted_keys(spec.types)
  local kind_of = value.type
  local fields = { type = table.move(types, 1, #types, 1, { kind = "choice", required = true }) }
  for field, each in pairs(spec.common) do fields[field] = each end
  if type(kind_of) == "string" and spec.types[kind_of] then
    for field, each in pairs(spec.types[kind_of]) do fields[field] = each end
    return self:fields(fields, value, key, place, (' of a provider of type "%s"'):format(kind_of))
  end
  -- A slip in the type does not keep the other keys from being looked at; what is missing is not sure then.
  local near = type(kind_of) == "string" and nearest.suggest(kind_of, types):match('^did you mean "(.*)"%?$')
  if near then
    for field, each in pairs(spec.types[near]) do
      local optional = {}
      for word, of_it in pairs(each) do optional[word] = of_it end
      optional.required = nil
      fields[field] = optional
    end
    return self:fields(fields, value, key, place, (' of a provider of type "%s"'):format(near))
  end
  -- Which keys it may have is not known: look at those that all types share.
  local shared = {}
  for field in pairs(fields) do shared[field] = value[field] end
  return self:fields(fields, shared, key, place)
end

local function string_problem(value)
  if value == "" then return "must not be empty" end
  if value:find("%c") then return "must not hold control bytes" end
end

function read.text(self, _, value, key, place)
  if type(value) ~= "string" then return self:expected(key, place, "a string", value) end
  local wrong = string_problem(value)
  if wrong then return self:problem(key, place, wrong) end
  return value
end

function read.name(self, spec, value, key, place)
  value = read.text(self, spec, value, key, place)
  if not value then return nil end
  if #value > MAX_NAME_BYTES then
    return self:problem(key, place, "expected a name of at most %d bytes, got %d", MAX_NAME_BYTES, #value)
  end
  if value == "." or value == ".." then return self:problem(key, place, '"%s" cannot be a name', value) end
  return value
end

function read.names(self, _, value, key, place)
  if type(value) == "string" then return { read.name(self, {}, value, key, place) } end
  if type(value) ~= "table" or place.kind ~= "array" then
    return self:expected(key, place, "the name of an LLM of the central, or an array of names", value)
  end
  if #value == 0 then return self:problem(key, place, "names no LLM: name one, or leave the key out") end
  local out, seen = {}, {}
  for i, each in ipairs(value) do
    local item_key, item_place = ("%s[%d]"):format(key, i - 1), place.items[i]
    local llm = read.name(self, {}, each, item_key, item_place)
    if llm and seen[llm] then self:problem(item_key, item_place, '"%s" is named twice', printable(llm)) end
    seen[llm or ""] = true
    out[#out + 1] = llm
  end
  return out
end

local function in_range(spec, value)
  return (not spec.min or value >= spec.min) and (not spec.above or value > spec.above) and value <= spec.max
end

function read.integer(self, spec, value, key, place)
  local whole = math.type(value) and math.tointeger(value)
  if not whole or not in_range(spec, whole) then
    return self:expected(key, place, ("a whole number from %d to %d"):format(spec.min, spec.max), value)
  end
  return whole
end

function read.number(self, spec, value, key, place)
  if value == false and spec.off then return false end
  if type(value) ~= "number" or not in_range(spec, value) then
    local from = spec.above and "above " .. spec.above .. ", at most " or "from " .. spec.min .. " to "
    local off = spec.off and ", or false for " .. spec.off or ""
    return self:expected(key, place, "a number " .. from .. spec.max .. off, value)
  end
  return value
end

function read.choice(self, spec, value, key, place)
  for _, each in ipairs(spec) do
    if value == each then return value end
  end
  local known = table.move(spec, 1, #spec, 1, {})
  if type(value) ~= "string" then
    return self:expected(key, place, '"' .. table.concat(known, '" or "') .. '"', value)
  end
  return self:problem(key, place, '"%s" is not known: %s', printable(value), nearest.suggest(value, known))
end

function read.list(self, spec, value, key, place)
  if type(value) ~= "table" or place.kind ~= "array" then
    self:expected(key, place, "an array", value)
    return {}
  end
  if #value < (spec.min or 0) then self:problem(key, place, "must not be empty") end
  local out, first_at = {}, {}
  for i, each in ipairs(value) do
    local item_key, item_place = ("%s[%d]"):format(key, i - 1), place.items[i]
    local item = self:value(spec.of, each, item_key, item_place)
    local id = spec.unique and item and item[spec.unique]
    if id and first_at[id] then
      self:problem(join(item_key, spec.unique), item_place.fields[spec.unique],
        '"%s" is also the name of %s[%d]: names must differ', printable(id), key, first_at[id])
    end
    if id then first_at[id] = first_at[id] or i - 1 end
    out[#out + 1] = item
  end
  return out
end

function read.settings(self, _, value, key, place)
  if not config_reader.is_object(value, place) then
    self:expected(key, place, "an object", value)
    return {}
  end
  self.settings_text = place and self.text:sub(place.first, place.last)
  return value
end

return config_reader
