-- Model servers that are installed on this machine, and what each has to serve.
--   local installed = require "spec.support.installed"
--   installed.names                  { "llama-server", "vllm", "ollama" }
--   installed.model(name)            its model; or nil and, in words, what is missing
-- DEPUTY_GGUF names a model for llama-server (else the first *.gguf in ~/models or /usr/share/models),
-- DEPUTY_VLLM_MODEL a folder with one for vLLM.
local shell = require "spec.support.shell"

local installed = { names = { "llama-server", "vllm", "ollama" } }

local function first_line(...)
  local r = shell.run{ "sh", "-c", ... }
  return r.status == 0 and r.stdout:match("[^\n]+") or nil
end

local models = {
  ["llama-server"] = function()
    return os.getenv("DEPUTY_GGUF") or first_line("ls ~/models/*.gguf /usr/share/models/*.gguf 2>/dev/null"),
      "DEPUTY_GGUF names none, and there is no *.gguf in ~/models or /usr/share/models"
  end,
  vllm = function() return os.getenv("DEPUTY_VLLM_MODEL"), "DEPUTY_VLLM_MODEL names none" end,
  ollama = function()
    return first_line("ollama list 2>/dev/null | awk 'NR > 1 { print $1; exit }'"), "`ollama list` shows none"
  end,
}

function installed.model(name)
  if not first_line('command -v "$0"', name) then return nil, name .. " is not installed" end
  local model, problem = models[name]()
  if not model then return nil, name .. " is installed, but it has no model: " .. problem end
  return model
end

return installed
