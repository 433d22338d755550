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
local config_reader = require "deputy.config_reader"
local config_schema = require "deputy.config_schema"
local json_map = require "deputy.json_map"
local json_text = require "deputy.json_text"
local managed_keys = require "deputy.managed_keys"
local presets = require "deputy.presets"
local web_address = require "deputy.web_address"
require "deputy.config_files"

local config = { kinds = config_schema.kinds }

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
  local all = {}
  for option, value in pairs(options or {}) do all[option] = value end
  all.read_file = all.read_file or read_file
  return config_reader.new(all)
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
local function read_text(reader, schema, text)
  text = text:gsub("^\xef\xbb\xbf", "")
  reader.text = text
  local value, problem = json_text.decode(text)
  if problem then
    reader.problems[1] = problem
    return nil
  end
  local place, doubles = json_map.read(text)
  for _, double in ipairs(doubles) do
    reader:problem(config_reader.printable(double.key), double, "stands here for the second time")
  end
  return config_reader.read.object(reader, schema, value, "", place), place
end

local function answer(reader, out)
  local found = #reader.problems > 0 and reader.problems or reader.warnings
  table.sort(found, by_line)
  return #reader.problems == 0 and out or nil, found
end

function config.parse(text, options)
  local reader = new_reader(options)
  local out, place = read_text(reader, config_schema.deputy, text)
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
  local content, why = (all.read_file or read_file)(file, json_text.MAX_BYTES + 1)
  if not content then return nil, { { key = "", message = "cannot be read: " .. why } } end
  return content, all
end

function config.load(file, options)
  local content, all = with_file(file, options)
  if not content then return nil, all end
  return config.parse(content, all)
end

function config.load_as(schema, file, options)
  local content, all = with_file(file, options)
  if not content then return nil, all end
  local reader = new_reader(all)
  return answer(reader, (read_text(reader, schema, content)))
end

function config.defaults(options)
  local reader = new_reader(options)
  return finish(reader, reader:muted(function() return reader:fields(config_schema.deputy.fields, {}, "", nil) end))
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
