-- What a configuration may hold: the kinds of values, and the keys of deputy.json with their defaults.
--
--   config_schema.deputy     an object of kinds, as deputy.config_reader reads it
--   config_schema.kinds      what a schema is made of: kinds.integer{ min = 1, max = 10, default = 3 }; each makes a
--                            table with kind, whose reader (read.KIND) says what else may be in it. All but object and
--                            ms may have `required`
local managed_keys = require "deputy.managed_keys"

local config_schema = {}

local DAY_MS = 86400000
local GIB = 1024 * 1024 * 1024

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
local host, origin = kind "host", kind "origin"
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

config_schema.kinds = {
  object = object, text = text, integer = integer, choice = choice, address = address, path = path, secret = secret,
  bundle = bundle, ms = ms,
}

config_schema.deputy = object{
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
    allowedHosts = list{ of = host() },
    allowedOrigins = list{ of = origin() },
    maxBodyBytes = integer{ min = 1024, max = GIB, default = 33554432 },
    maxBufferedBytes = integer{ min = 1024, max = 1024 * GIB, default = GIB },
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

return config_schema
