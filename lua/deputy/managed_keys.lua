-- The keys of a provider whose server deputy starts itself: which there are, and how what only they have is read
-- (arguments, environments and the like: added to deputy.config_reader).
--
--   managed_keys.types(kind)               the keys of each such type; kind as in deputy.config_schema
--   managed_keys.check_ports(reader, providers, place)
local config_reader = require "deputy.config_reader"
local nearest = require "deputy.nearest"
local presets = require "deputy.presets"
local sorted_keys = require "deputy.sorted_keys"

local managed_keys = {}

local MAX_ARGUMENTS = 1024
local MAX_ARGUMENT_BYTES = 128 * 1024 - 1 -- what Linux takes: MAX_ARG_STRLEN, with the NUL

local read = config_reader.read

-- ---- which there are ------------------------------------------------------------------------------------------------

local function shared_keys(kind, type_)
  local integer, number = kind "integer", kind "number"
  return {
    port = integer{ min = 1, max = 65535 }, cwd = kind "path"(), apiKey = kind "secret"(),
    env = kind "environment"{ type = type_ }, healthPath = kind "template"{ default = presets.health_path[type_] },
    readySeconds = integer{ min = 1, max = 86400, default = 600 },
    idleTimeoutMinutes = number{ above = 0, max = 10080, off = "never", default = 15 },
    stopGraceSeconds = number{ above = 0, max = 600, default = 10 },
    restart = kind "restart"{
      fields = {
        attempts = integer{ min = 1, max = 1000, default = 3 },
        backoffMs = integer{ min = 1, max = 60000, default = 1000 },
        retrySeconds = integer{ min = 1, max = 604800, default = 300 },
      },
    },
    prewarm = kind "choice"{ "on-demand", "on-failure", "at-start", default = "on-demand" },
    maxConcurrent = integer{ min = 1, max = 100000, default = 16 },
    maxQueued = integer{ min = 1, max = 1000000, default = 1024 },
  }
end

local function own_keys(kind)
  local text, path, integer, arguments = kind "text", kind "path", kind "integer", kind "arguments"
  local executable = kind "executable"
  local function count(max) return integer{ min = 1, max = max } end
  return {
    managed = {
      command = arguments{ required = true, command = true, type = "managed" }, model = text(),
      basePath = kind "template"{ default = "/v1" }, listener = kind "choice"{ "own", "any", default = "own" },
    },
    ["vllm-managed"] = {
      model = kind "model_or_path"{ required = true }, venvPath = path(),
      gpuMemoryUtilization = kind "number"{ above = 0, max = 1 }, maxModelLen = count(100000000),
      tensorParallelSize = count(1024), extraArgs = arguments{ type = "vllm-managed" },
    },
    ["llama-server"] = {
      model = path{ required = true }, executable = executable(), contextSize = count(100000000),
      gpuLayers = integer{ min = 0, max = 100000 }, parallel = count(1024), threads = count(4096),
      extraArgs = arguments{ type = "llama-server" },
    },
    ollama = {
      model = text{ required = true }, executable = executable(), modelsPath = path(), contextSize = count(100000000),
    },
  }
end

function managed_keys.types(kind)
  local types = {}
  for type_, own in pairs(own_keys(kind)) do
    types[type_] = shared_keys(kind, type_)
    for field, spec in pairs(own) do types[type_][field] = spec end
  end
  return types
end

-- ---- how they are read ----------------------------------------------------------------------------------------------

-- A name is looked up in PATH; what has a slash in it is a path like any other.
function read.executable(reader, spec, value, key, place)
  local is_name = type(value) == "string" and not value:find("[/~$]")
  return read[is_name and "text" or "path"](reader, spec, value, key, place)
end

-- "Qwen/Qwen3-0.6B" is a model's name, "~/models/qwen" and "./qwen" are paths.
function read.model_or_path(reader, spec, value, key, place)
  if type(value) ~= "string" or value:find("^[./~$]") then return read.path(reader, spec, value, key, place) end
  if value:sub(1, 1) == "-" then return reader:problem(key, place, 'a model\'s name cannot begin with "-"') end
  return read.text(reader, spec, value, key, place)
end

function read.restart(reader, spec, value, key, place)
  if value == false then
    return { attempts = 1, backoffMs = spec.fields.backoffMs.default, retrySeconds = spec.fields.retrySeconds.default }
  end
  if not config_reader.is_object(value, place) then
    return reader:expected(key, place, "an object, or false for no second start", value)
  end
  return reader:fields(spec.fields, value, key, place)
end

-- Arguments are full of braces that mean something to others: only what is nearly one of our words is a mistake.
local function misspelled_word(value)
  for word in value:gmatch("{(%a+)}") do
    for _, known in ipairs(presets.words) do
      if word ~= known and nearest.distance(word, known) <= 1 then return word, known end
    end
  end
end

-- As an argument or the value of a variable: any bytes but NUL.
local function read_word(reader, value, key, place)
  if type(value) ~= "string" then return reader:expected(key, place, "a string", value) end
  if value:find("\0", 1, true) then return reader:problem(key, place, "must not hold a NUL byte") end
  if #value > MAX_ARGUMENT_BYTES then
    return reader:problem(key, place, "must not be longer than %d bytes", MAX_ARGUMENT_BYTES)
  end
  local word, known = misspelled_word(value)
  if word then
    return reader:problem(key, place, '"{%s}" is not known: did you mean "{%s}"?', config_reader.printable(word), known)
  end
  return value
end

local function read_argument(reader, spec, value, key, place)
  value = read_word(reader, value, key, place)
  local flag = value and presets.reserved_flag(spec.type, value)
  if flag then return reader:problem(key, place, "deputy sets %s itself: leave it out", flag) end
  if value and value:find("{apiKey}", 1, true) then
    reader:warn(key, place,
      "every user of this machine can read arguments: put {apiKey} into env if the program takes it there")
  end
  return value
end

function read.arguments(reader, spec, value, key, place)
  if type(value) ~= "table" or place.kind ~= "array" then
    return reader:expected(key, place, "an array of strings: the program and its arguments, as without a shell", value)
  end
  if spec.command and #value == 0 then return reader:problem(key, place, "must not be empty") end
  if #value > MAX_ARGUMENTS then
    return reader:problem(key, place, "expected at most %d arguments, got %d", MAX_ARGUMENTS, #value)
  end
  local out = {}
  for i, each in ipairs(value) do
    local is_program = spec.command and i == 1
    out[i] = (is_program and read.executable or read_argument)(reader, spec, each, ("%s[%d]"):format(key, i - 1),
      place.items[i])
  end
  return out
end

function read.environment(reader, spec, value, key, place)
  if not config_reader.is_object(value, place) then
    return reader:expected(key, place, "an object from names of variables to strings", value)
  end
  local reserved, out = {}, {}
  for _, variable in ipairs(presets.reserved[spec.type].env) do reserved[variable] = true end
  for _, variable in ipairs(sorted_keys(value)) do
    local field_key, field_place = config_reader.join(key, config_reader.printable(variable)), place.fields[variable]
    if not variable:find("^[%a_][%w_]*$") then
      reader:problem(field_key, field_place, "expected the name of a variable: letters, digits and _")
    elseif reserved[variable] then
      reader:problem(field_key, field_place, "deputy sets it itself: leave it out")
    end
    out[variable] = read_word(reader, value[variable], field_key, field_place)
  end
  return out
end

-- Two servers cannot have one port. place: of `providers`.
function managed_keys.check_ports(reader, providers, place)
  local first = {}
  for i, each in ipairs(providers) do
    local taken = each.port and first[each.port]
    if taken then
      reader:problem(("providers[%d].port"):format(i - 1), place.items[i].fields.port,
        "%d is also the port of providers[%d]: leave both out, and free ones are picked", each.port, taken - 1)
    end
    if each.port then first[each.port] = taken or i end
  end
end

return managed_keys
