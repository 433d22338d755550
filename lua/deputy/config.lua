-- The configuration: reads deputy.json, checks all of it, and says every mistake at once.
--
--   local config = require "deputy.config"
--   local settings, problems = config.load("deputy.json")
--   if not settings then for _, problem in ipairs(problems) do print(config.format(problem, "deputy.json")) end end
--
-- config.parse(text, options)  the same for a text. options, all optional:
--     dir        what relative file names start from (the current directory)
--     here       the current directory, absolute, for servers that are started elsewhere
--     env        function(name) -> string or nil (os.getenv)
--     home       what ~ stands for (env "HOME")
--     read_file  function(path, max) -> at most max bytes, or nil and why
--     mode       function(path) -> its permission bits, or nil; without it nothing is said about them
--     file       the configuration's own path, for what is said about its permissions
-- Returns the settings with every default filled in and an array of warnings, or nil and an array of problems; both
-- sorted by line. Each is { key = "providers[1].port", line = 12 or nil, message = "..." }; arrays count from 0.
-- In the settings, files named by ...File have been read into what they stand for, paths are expanded, failoverFor is
-- an array, policy.settingsText is policy.settings as it stands in the text, and a provider that deputy starts has in
-- `launch` what deputy.presets makes of it.
-- config.load(path, options)   reads the file; dir and file come from path.
-- config.defaults(options)     what an empty configuration would have.
-- config.load_as(schema, path, options)   another kind of configuration; schema is made of config.kinds.
-- config.format(problem, file) "FILE:LINE: KEY: MESSAGE", without what is not known.
--
-- No message ever holds the value of a token or key, nor that of a ...File which looks like one: people put them there
-- by mistake.
local cjson = require "cjson"
local json_map = require "deputy.json_map"
local managed_keys = require "deputy.managed_keys"
local nearest = require "deputy.nearest"
local presets = require "deputy.presets"
local web_address = require "deputy.web_address"

local config = {}

local MAX_CONFIG_BYTES = 1024 * 1024
local MAX_SECRET_BYTES = 8192
local MAX_BUNDLE_BYTES = 4 * 1024 * 1024
local MAX_NAME_BYTES = 128
local DAY_MS = 86400000
local GIB = 1024 * 1024 * 1024

-- ---- the schema -----------------------------------------------------------------------------------------------------

local function kind(name)
  return function(spec)
    spec = spec or {}
    spec.kind = name
    return spec
  end
end

local text, name, names, path, url = kind "text", kind "name", kind "names", kind "path", kind "url"
local integer, choice, list = kind "integer", kind "choice", kind "list"
local template, routes, address, settings = kind "template", kind "routes", kind "address", kind "settings"
local secret = kind "secret" -- also comes as ...File
local bundle = kind "bundle" -- the path of certificates to trust
local variant = kind "variant" -- an object whose other keys depend on its "type"

local function object(fields) return { kind = "object", fields = fields } end

local function ms(default) return integer{ min = 1, max = DAY_MS, default = default } end

local provider = variant{
  common = { name = name{ required = true }, failoverFor = names() }, types = managed_keys.types(kind),
}
provider.types.openai = { url = url{ required = true }, model = text(), apiKey = secret(), caFile = bundle() }
provider.types.echo = {}

config.kinds = {
  object = object, text = text, integer = integer, choice = choice, address = address, path = path, secret = secret,
  bundle = bundle, ms = ms,
}

local schema = object{
  central = object{
    url = url{ required = true, example = "https://central.example" },
    bearerToken = secret(),
    caFile = bundle(),
    probe = template{ default = "/api/v1/llms/{llm}", may = { llm = true }, must = "llm" },
    probeMethod = choice{ "HEAD", "GET", default = "HEAD" },
    inference = routes{
      default = { ["chat/completions"] = "/api/v1/llms/{llm}/infer", ["*"] = "/v1/{endpoint}" },
      of = template{ may = { llm = true, endpoint = true } },
    },
  },
  providers = list{ of = provider, unique = "name" },
  policy = object{
    script = path(),
    gate = choice{ "probe", "policy", default = "probe" },
    verify = choice{ "refuse", "warn", "off", default = "refuse" },
    permitMs = integer{ min = 1, max = 60000, default = 5000 },
    settings = settings(),
  },
  timeouts = object{
    connectMs = ms(2000), firstByteMs = ms(300000), firstTokenMs = ms(30000), idleMs = ms(30000), totalMs = ms(600000),
    probeMs = ms(2000),
  },
  gateway = object{
    listen = address{ default = "127.0.0.1:4141", tcp = true },
    workers = integer{ min = 1, max = 256, default = 1 },
    apiKeys = list{ of = secret() },
    allowedHosts = list{ of = text() },
    allowedOrigins = list{ of = text() },
    maxBodyBytes = integer{ min = 1024, max = GIB, default = 33554432 },
    maxReplyBytes = integer{ min = 1024, max = GIB, default = 67108864 },
    maxConnections = integer{ min = 1, max = 1000000, default = 1024 },
    maxInFlight = integer{ min = 1, max = 1000000, default = 512 },
    streaming = choice{ "live", "whole", default = "live" },
    drainMs = integer{ min = 0, max = DAY_MS, default = 30000 },
    control = address{ default = "unix:$XDG_RUNTIME_DIR/deputy.sock" },
  },
  log = object{
    format = choice{ "logfmt", "json", default = "logfmt" },
    level = choice{ "error", "warn", "info", "debug", default = "info" },
  },
}

-- ---- words ---------------------------------------------------------------------------------------------------------

local function sorted_keys(map)
  local keys = {}
  for key in pairs(map) do keys[#keys + 1] = key end
  table.sort(keys)
  return keys
end

-- For messages: no control bytes, not long.
local function printable(word)
  word = word:gsub("%c", "?")
  return #word > 64 and word:sub(1, 64) .. "..." or word
end

local function join(key, field)
  return key == "" and field or key .. "." .. field
end

-- ---- reading --------------------------------------------------------------------------------------------------------

local Reader = {}
Reader.__index = Reader

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

local read = {}

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

local function is_object(value, place)
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
  if not is_object(value, place) then
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
  if not is_object(value, place) then return self:expected(key, place, "an object", value) end
  local types = sorted_keys(spec.types)
  local kind_of = value.type
  local fields = { type = choice(types) }
  fields.type.required = true
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
  if not is_object(value, place) then
    self:expected(key, place, "an object", value)
    return {}
  end
  self.settings_text = place and self.text:sub(place.first, place.last)
  return value
end

-- ---- URLs, paths and addresses --------------------------------------------------------------------------------------

function read.url(self, spec, value, key, place)
  value = read.text(self, spec, value, key, place)
  if not value then return nil end
  local wrong = web_address.problem(value)
  if wrong then return self:problem(key, place, wrong) end
  return value
end

function read.template(self, spec, value, key, place)
  value = read.text(self, spec, value, key, place)
  if not value then return nil end
  if value:sub(1, 1) ~= "/" then return self:problem(key, place, 'expected a path that begins with "/"') end
  if value:find("[ #]") then return self:problem(key, place, "a path must not have spaces or # in it") end
  local may = spec.may or {}
  local stray = value:gsub("{(%a+)}", function(word) return may[word] and "" end):match("[{}][^/}]*}?")
  if stray then
    local known = {}
    for _, word in ipairs(sorted_keys(may)) do known[#known + 1] = "{" .. word .. "}" end
    return self:problem(key, place, '"%s" is not known in a path here: %s', printable(stray),
      #known > 0 and "known are " .. table.concat(known, " and ") or "braces are not")
  end
  if spec.must and not value:find("{" .. spec.must .. "}", 1, true) then
    return self:problem(key, place, "expected {%s} in the path: else one answer would hold for all LLMs", spec.must)
  end
  return value
end

function read.routes(self, spec, value, key, place)
  local out = {}
  for endpoint, target in pairs(spec.default) do out[endpoint] = target end
  if not is_object(value, place) then
    self:expected(key, place, "an object from endpoints to paths", value)
    return out
  end
  for _, endpoint in ipairs(sorted_keys(value)) do
    local field_key, field_place = join(key, printable(endpoint)), place.fields[endpoint]
    if endpoint ~= "*" and not endpoint:find("^[%w._~-][%w._~/-]*$") then
      self:problem(field_key, field_place, 'expected an endpoint as in "chat/completions" (what follows /v1/), or "*"')
    end
    out[endpoint] = read.template(self, spec.of, value[endpoint], field_key, field_place)
  end
  return out
end

-- The path with ~ and $NAME filled in, relative to the configuration; nil and why when something is not set.
function Reader:expand(value)
  local unset
  local function get(variable)
    local found = self.env(variable)
    if not found or found == "" then unset = unset or variable end
    return found
  end
  local expanded = value:gsub("%$({?)([%a_][%w_]*)(}?)", function(open, variable, close)
    if open == "{" and close == "" then return nil end
    return (get(variable) or "") .. (open == "" and close or "")
  end)
  if value == "~" or value:sub(1, 2) == "~/" then expanded = (self.home or get("HOME") or "") .. expanded:sub(2) end
  if unset then return nil, ("$%s is not set"):format(unset) end
  if expanded:sub(1, 1) == "/" or self.dir == "." then return expanded end
  return self.dir .. "/" .. expanded
end

function read.path(self, spec, value, key, place)
  value = read.text(self, spec, value, key, place)
  if not value then return nil end
  local expanded, why = self:expand(value)
  if not expanded then return self:problem(key, place, why) end
  return expanded
end

-- Names of files are shorter, or have folders.
local function looks_like_token(value)
  return not value:find("/", 1, true) and #value > 20 or value:find("[+=%s]") or value:find("^sk%-")
    or value:find("^dpt_")
end

-- value: what stands in the configuration for that file.
function Reader:named_file(key, place, file, max, value)
  local content, why = self.read_file(file, max)
  if content then return content end
  if looks_like_token(value) then
    return self:problem(key, place, "cannot read the file that it names (relative names start in %s; its own is not "
      .. "shown, since it looks like a token: that belongs into a file): %s", self.dir, why)
  end
  -- What a variable holds is not the configuration's to show.
  local shown = value:find("$", 1, true) and value or file
  return self:problem(key, place, "cannot read %s: %s", shown, why)
end

-- Without certificates no server can be trusted, so what is wrong with them is found before anybody asks one.
function read.bundle(self, spec, value, key, place)
  local file = read.path(self, spec, value, key, place)
  if not file then return nil end
  local content = self:named_file(key, place, file, MAX_BUNDLE_BYTES, value)
  if not content then return nil end
  if not content:find("-----BEGIN ", 1, true) then
    return self:problem(key, place, "expected certificates in PEM form, and there are none in the file that it names")
  end
  return file
end

function Reader:default_address(value)
  local path_ = value:match("^unix:(.*)$")
  if not path_ then return value end
  local expanded = self:expand(path_)
  return expanded and "unix:" .. expanded
end

function read.address(self, spec, value, key, place)
  value = read.text(self, spec, value, key, place)
  if not value then return nil end
  local socket = value:match("^unix:(.+)$")
  if socket then
    local expanded, why = self:expand(socket)
    if not expanded then return self:problem(key, place, why) end
    return "unix:" .. expanded
  end
  local host, port = web_address.split_host(value)
  if spec.tcp and host and port and web_address.port_ok(port, 0) then return value end
  return self:problem(key, place, 'expected %s"unix:PATH", got "%s"', spec.tcp and '"HOST:PORT" or ' or "",
    printable(value))
end

-- ---- secrets --------------------------------------------------------------------------------------------------------

local function secret_problem(value)
  if value == "" then return "must not be empty" end
  if #value > MAX_SECRET_BYTES then return ("must not be longer than %d bytes"):format(MAX_SECRET_BYTES) end
  if value:find("[^\x21-\x7e]") then return "must not hold spaces, line breaks or bytes that are not ASCII" end
end

-- As an element of an array.
function read.secret(self, _, value, key, place)
  if type(value) ~= "string" then return self:problem(key, place, "expected a string") end
  local wrong = secret_problem(value)
  if wrong then return self:problem(key, place, wrong) end
  self:warn_readable(key, place, self.file)
  return value
end

function Reader:warn_readable(key, place, file)
  local mode = file and self.mode and self.mode(file)
  if mode and mode & 4 ~= 0 then
    self:warn(key, place, ("every user of this machine can read it: chmod 600 %s"):format(file))
  end
end

function Reader:secret_file(key, place, value)
  local file = read.path(self, {}, value, key, place)
  if not file then return nil end
  local content = self:named_file(key, place, file, MAX_SECRET_BYTES + 3, value)
  if not content then return nil end
  content = content:gsub("\r?\n$", "")
  local wrong = secret_problem(content)
  if wrong then return self:problem(key, place, "what the file holds %s", wrong) end
  self:warn_readable(key, place, file)
  return content
end

function Reader:secret_field(field, value, key, places)
  local inline, file = value[field], value[field .. "File"]
  local inline_key, file_key = join(key, field), join(key, field .. "File")
  if inline ~= nil and file ~= nil then
    return self:problem(file_key, places[field .. "File"], "%s is given too: keep one of them", inline_key)
  end
  if inline ~= nil then return read.secret(self, nil, inline, inline_key, places[field]) end
  if file ~= nil then return self:secret_file(file_key, places[field .. "File"], file) end
end

managed_keys.install(read, {
  sorted_keys = sorted_keys, printable = printable, join = join, is_object = is_object,
})

-- ---- the whole ------------------------------------------------------------------------------------------------------

local decoder = cjson.new()
decoder.decode_invalid_numbers(false)
decoder.decode_max_depth(64)

local TOKENS = {
  T_OBJ_BEGIN = '"{"', T_OBJ_END = '"}"', T_ARR_BEGIN = '"["', T_ARR_END = '"]"', T_STRING = "a string",
  T_NUMBER = "a number", T_BOOLEAN = "true or false", T_NULL = "null", T_COLON = '":"', T_COMMA = '","',
  T_END = "the end of the file",
}

local function line_and_column(text_, offset)
  local before = text_:sub(1, offset - 1)
  local _, breaks = before:gsub("\n", "")
  return breaks + 1, #before:match("[^\n]*$") + 1
end

local function syntax_hint(text_, offset)
  local before = text_:sub(1, offset - 1):match("(%S)%s*$")
  local at = text_:sub(offset, offset)
  if before == "," and at:find("[]}]") then return " (there is a comma too many before it)" end
  if at == "/" or at == "#" then return " (JSON has no comments)" end
  if at == "'" then return ' (JSON strings stand in ")' end
  return ""
end

local function syntax_problem(text_, message)
  local what, offset = tostring(message):match("^(.*) at character (%d+)$")
  if not what then return { key = "", message = "not JSON: " .. tostring(message) } end
  offset = math.min(math.tointeger(tonumber(offset)), #text_ + 1)
  local line, column = line_and_column(text_, offset)
  what = what:gsub("T_[A-Z_]+", TOKENS):gsub("^%u", string.lower)
  return {
    key = "", line = line, message = ("not JSON: column %d: %s%s"):format(column, what, syntax_hint(text_, offset)),
  }
end

-- The decoded text, or nil and a problem.
local function decode(text_)
  if #text_ > MAX_CONFIG_BYTES then
    return nil, { key = "", message = ("larger than %d bytes"):format(MAX_CONFIG_BYTES) }
  end
  local bad = text_:find("[\0-\8\11\12\14-\31]")
  if bad then return nil, { key = "", line = (line_and_column(text_, bad)), message = "a control byte stands here" } end
  local length, invalid = utf8.len(text_)
  if not length then
    return nil, { key = "", line = (line_and_column(text_, invalid)), message = "not UTF-8" }
  end
  local ok, value = pcall(decoder.decode, text_)
  if not ok then return nil, syntax_problem(text_, value) end
  return value
end

local function by_line(a, b)
  local la, lb = a.line or 0, b.line or 0
  if la ~= lb then return la < lb end
  return a.key < b.key
end

local function read_file(file, max)
  local handle, why = io.open(file, "rb")
  if not handle then return nil, (why:gsub("^.*: ", "")) end
  local content
  content, why = handle:read(max)
  handle:close()
  if not content and why then return nil, (why:gsub("^.*: ", "")) end
  return content or ""
end

local function new_reader(options)
  return setmetatable({
    problems = {}, warnings = {}, dir = options.dir or ".", env = options.env or os.getenv, home = options.home,
    read_file = options.read_file or read_file, mode = options.mode, file = options.file, here = options.here,
  }, Reader)
end

local function is_loopback(central_url)
  local host = web_address.split_host(central_url:match("^%a+://([^/]*)") or "")
  return host and (host == "localhost" or host == "[::1]" or host:find("^127%.") ~= nil)
end

local function warn_of_risks(reader, out, place)
  local central, policy = place.fields.central, place.fields.policy
  if out.policy.gate == "policy" then
    reader:warn("policy.gate", policy.fields.gate,
      "the script alone decides who may use a local provider: a mistake in it can let in a caller whose permission was "
      .. 'revoked; with "probe" it cannot')
  end
  if out.central.bearerToken and out.central.url:lower():find("^http:") and not is_loopback(out.central.url) then
    reader:warn("central.url", central.fields.url, "the token travels unencrypted: use https")
  end
end

local function finish(reader, out)
  out.policy.settingsText = reader.settings_text or "{}"
  local options = { path = reader.env("PATH"), here = reader.here }
  for _, each in ipairs(out.providers) do each.launch = presets.launch(each, options) end
  return out
end

-- The settings as far as they can be read, and where they stand; each mistake is the reader's.
local function read_text(reader, schema_, text_)
  text_ = text_:gsub("^\xef\xbb\xbf", "")
  reader.text = text_
  local value, problem = decode(text_)
  if problem then
    reader.problems[1] = problem
    return nil
  end
  local place, doubles = json_map.read(text_)
  for _, double in ipairs(doubles) do
    reader:problem(printable(double.key), double, "stands here for the second time")
  end
  return read.object(reader, schema_, value, "", place), place
end

local function answer(reader, out)
  local found = #reader.problems > 0 and reader.problems or reader.warnings
  table.sort(found, by_line)
  return #reader.problems == 0 and out or nil, found
end

function config.parse(text_, options)
  local reader = new_reader(options or {})
  local out, place = read_text(reader, schema, text_)
  if #reader.problems == 0 then managed_keys.check_ports(reader, out.providers, place.fields.providers) end
  if #reader.problems == 0 then
    warn_of_risks(reader, out, place)
    finish(reader, out)
  end
  return answer(reader, out)
end

local function with_file(file, options)
  local all = {}
  for option, value in pairs(options or {}) do all[option] = value end
  all.file = file
  all.dir = all.dir or file:match("^(.*)/[^/]*$") or "."
  if all.dir == "" then all.dir = "/" end
  local content, why = (all.read_file or read_file)(file, MAX_CONFIG_BYTES + 1)
  if not content then return nil, { { key = "", message = "cannot be read: " .. why } } end
  return content, all
end

function config.load(file, options)
  local content, all = with_file(file, options)
  if not content then return nil, all end
  return config.parse(content, all)
end

function config.load_as(schema_, file, options)
  local content, all = with_file(file, options)
  if not content then return nil, all end
  local reader = new_reader(all)
  return answer(reader, (read_text(reader, schema_, content)))
end

function config.defaults(options)
  local reader = new_reader(options or {})
  return finish(reader, reader:muted(function() return reader:fields(schema.fields, {}, "", nil) end))
end

function config.format(problem, file)
  local parts = {}
  if file then parts[1] = problem.line and ("%s:%d"):format(file, problem.line) or file end
  if not file and problem.line then parts[1] = ("line %d"):format(problem.line) end
  if problem.key ~= "" then parts[#parts + 1] = problem.key end
  parts[#parts + 1] = problem.message
  return table.concat(parts, ": ")
end

return config
