-- What a managed provider runs: the exact command and environment of its model server, from its configuration.
--
--   local presets = require "deputy.presets"
--   local launch = presets.launch(provider, { path = os.getenv "PATH", here = "/current/directory" })
--
-- provider is an entry of `providers` as deputy.config reads it. Returns nil for a type that deputy does not start;
-- for the others
--   { command = { "llama-server", ... }, env = { "NAME=value", ... },   sorted; over deputy's own environment
--     model = what the server calls its model, or nil,   health_path =, base_path =, wants_key = true|false }
-- Three words are left for whoever starts it: {port}, {model} and {apiKey}. wants_key says whether {apiKey} occurs.
--
-- Pure: nothing is looked up, opened or started. Every server listens on 127.0.0.1 alone, and those that can check a
-- key get one that nobody else knows, because the way to them leads through deputy. It is in the environment, not among
-- the arguments, which every user of the machine can read.
--
-- presets.reserved[type].flags, .env   what deputy sets itself, so that a configuration must not
-- presets.health_path[type]            the default of healthPath
-- presets.words                        the words above
local presets = {}

presets.words = { "apiKey", "model", "port" }

presets.health_path = {
  managed = "/health", ["vllm-managed"] = "/health", ["llama-server"] = "/health", ollama = "/",
}

-- A flag also counts when it is shortened, or spelled with _ for -.
presets.reserved = {
  managed = { flags = {}, env = {} },
  ["vllm-managed"] = {
    flags = { "--host", "--port", "--uds", "--api-key", "--served-model-name", "--root-path", "--ssl-keyfile",
      "--ssl-certfile", "--headless" },
    env = { "VLLM_API_KEY" },
  },
  ["llama-server"] = {
    flags = { "--host", "--port", "--api-key", "--api-key-file", "--api-prefix", "--alias", "-a", "--model", "-m",
      "--ssl-key-file", "--ssl-cert-file" },
    env = { "LLAMA_API_KEY", "LLAMA_ARG_API_KEY_FILE", "LLAMA_ARG_API_PREFIX", "LLAMA_ARG_HOST", "LLAMA_ARG_PORT" },
  },
  ollama = { flags = {}, env = { "OLLAMA_HOST" } },
}

local function number(value) return ("%.14g"):format(value) end

-- Appends flag and value when there is a value.
local function option(command, flag, value)
  if value == nil then return end
  command[#command + 1] = flag
  command[#command + 1] = type(value) == "number" and number(value) or value
end

local function append(command, more)
  return table.move(more or {}, 1, #(more or {}), #command + 1, command)
end

-- Last, so that they hold whatever stands before them.
local function bind(command)
  return append(command, { "--host", "127.0.0.1", "--port", "{port}" })
end

-- A relative path is meant from where deputy runs, also when the server runs elsewhere. A name without a slash is
-- looked up in PATH, unless it is known to be a file.
local function anchor(provider, options, path, is_file)
  if not path or not provider.cwd or not options.here or path:sub(1, 1) == "/" then return path end
  if not is_file and not path:find("/", 1, true) then return path end
  return options.here .. "/" .. path
end

local makers = {}

function makers.managed(provider, options)
  local command = append({}, provider.command)
  command[1] = anchor(provider, options, command[1])
  return { command = command, env = {}, model = provider.model, base_path = provider.basePath }
end

-- Run through the environment's own folder, so that what vLLM starts (ninja, for one) is found as if it were activated.
local function venv_env(venv, path)
  if not venv then return {} end
  return { VIRTUAL_ENV = venv, PATH = venv .. "/bin" .. (path and path ~= "" and ":" .. path or "") }
end

-- It asks for the key under some paths only: /v1 is one of them, /invocations is not. So at least no page in a browser
-- may ask it anything.
makers["vllm-managed"] = function(provider, options)
  local venv = anchor(provider, options, provider.venvPath, true)
  local model = provider.model:find("^%.") and anchor(provider, options, provider.model, true) or provider.model
  local command = { venv and venv .. "/bin/vllm" or "vllm", "serve", model, "--allowed-origins", "[]" }
  option(command, "--gpu-memory-utilization", provider.gpuMemoryUtilization)
  option(command, "--max-model-len", provider.maxModelLen)
  option(command, "--tensor-parallel-size", provider.tensorParallelSize)
  append(command, provider.extraArgs)
  local env = venv_env(venv, options.path)
  env.VLLM_API_KEY = "{apiKey}"
  return { command = bind(command), env = env, model = model }
end

-- What callers see as the model's name: the file's, without the folders, which are nobody's business. To llama-server a
-- comma ends a name.
local function alias_of(file)
  local stem = file:match("([^/]+)/*$"):gsub("%.gguf$", ""):gsub(",", "-")
  return stem ~= "" and stem or "model"
end

makers["llama-server"] = function(provider, options)
  local alias = alias_of(provider.model)
  local command = {
    anchor(provider, options, provider.executable) or "llama-server",
    "--model", anchor(provider, options, provider.model, true), "--alias", "{model}",
  }
  option(command, "--ctx-size", provider.contextSize)
  option(command, "--n-gpu-layers", provider.gpuLayers)
  option(command, "--parallel", provider.parallel)
  option(command, "--threads", provider.threads)
  append(command, provider.extraArgs)
  return { command = bind(command), env = { LLAMA_API_KEY = "{apiKey}" }, model = alias }
end

-- Knows no key. It keeps its model for as long as deputy keeps it, and it tidies nothing up in a folder that another
-- Ollama may be using.
function makers.ollama(provider, options)
  return {
    command = { anchor(provider, options, provider.executable) or "ollama", "serve" }, model = provider.model,
    env = {
      OLLAMA_HOST = "127.0.0.1:{port}", OLLAMA_KEEP_ALIVE = "-1", OLLAMA_NOPRUNE = "1",
      OLLAMA_MODELS = anchor(provider, options, provider.modelsPath, true),
      OLLAMA_CONTEXT_LENGTH = provider.contextSize and number(provider.contextSize),
    },
  }
end

local function has_word(list, word)
  for _, each in ipairs(list) do
    if each:find(word, 1, true) then return true end
  end
  return false
end

function presets.launch(provider, options)
  local make = makers[provider.type]
  if not make then return nil end
  local launch = make(provider, options or {})
  local env = launch.env
  for name, value in pairs(provider.env or {}) do env[name] = value end
  launch.env = {}
  for name, value in pairs(env) do launch.env[#launch.env + 1] = name .. "=" .. value end
  table.sort(launch.env)
  launch.health_path = provider.healthPath or presets.health_path[provider.type]
  launch.base_path = launch.base_path or "/v1"
  launch.wants_key = has_word(launch.command, "{apiKey}") or has_word(launch.env, "{apiKey}")
  return launch
end

local function matches(argument, flag)
  if not flag:find("^%-%-") then return argument == flag end
  -- Four characters, so that "--p" is not taken for "--port": too short to be one of them alone.
  return #argument >= 4 and flag:sub(1, #argument) == argument
end

-- The reserved flag that an argument spells, or nil.
function presets.reserved_flag(type_, argument)
  local name = argument:match("^[^=]*"):gsub("_", "-")
  for _, flag in ipairs(presets.reserved[type_].flags) do
    if matches(name, flag) then return flag end
  end
end

return presets
