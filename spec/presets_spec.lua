-- The presets: a managed provider's configuration becomes the exact command of its server, and nothing is started.
local uv = require "luv"
local cjson = require "cjson"
local commands = require "deputy.commands"
local config = require "deputy.config"
local presets = require "deputy.presets"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local BUILD = assert(uv.fs_realpath(os.getenv("DEPUTY_BUILD") or "build"))

-- What is started for a provider with these keys, as JSON text.
local function launch(keys)
  local text = '{"central": {"url": "http://c"}, "providers": [{"name": "p", ' .. keys .. "}]}"
  local settings, problems = config.parse(text, {
    dir = "/etc/deputy", env = function(name) return ({ HOME = "/home/ann", PATH = "/bin:/usr/bin" })[name] end,
  })
  if not settings then error(config.format(problems[1]), 2) end
  return settings.providers[1].launch
end

local function words(list) return table.concat(list, " ") end

describe("a managed provider", function()
  it("is the command as it stands, its words left for each start", function()
    local found = launch '"type": "managed", "command": ["serve", "-p", "{port}", "a b", "", "{model}"], "model": "m"'
    assert.same({
      command = { "serve", "-p", "{port}", "a b", "", "{model}" }, env = {}, model = "m", health_path = "/health",
      base_path = "/v1", wants_key = false,
    }, found)
  end)

  it("has its variables, sorted", function()
    local found = launch [==["type": "managed", "command": ["serve"], "env": {"B": "$HOME ~ {port}", "A": ""}]==]
    assert.same({ "A=", "B=$HOME ~ {port}" }, found.env)
  end)

  it("gets a key where it asks for one", function()
    assert.is_true(launch('"type": "managed", "command": ["serve"], "env": {"A": "x{apiKey}"}').wants_key)
    assert.is_true(launch('"type": "managed", "command": ["serve", "--key={apiKey}"]').wants_key)
  end)

  it("may be asked elsewhere", function()
    local found = launch '"type": "managed", "command": ["serve"], "healthPath": "/up", "basePath": "/openai/v1"'
    assert.same({ "/up", "/openai/v1" }, { found.health_path, found.base_path })
  end)
end)

describe("a vllm-managed provider", function()
  it("is vllm serve, on loopback, with a key in the environment", function()
    local found = launch '"type": "vllm-managed", "model": "Qwen/Qwen3-0.6B"'
    assert.same({
      command = {
        "vllm", "serve", "Qwen/Qwen3-0.6B", "--allowed-origins", "[]", "--host", "127.0.0.1", "--port", "{port}",
      },
      env = { "VLLM_API_KEY={apiKey}" }, model = "Qwen/Qwen3-0.6B", health_path = "/health", base_path = "/v1",
      wants_key = true,
    }, found)
  end)

  it("has each of its keys as an option, and what binds it last", function()
    local found = launch [["type": "vllm-managed", "model": "m", "venvPath": "~/vllm", "gpuMemoryUtilization": 0.75,
      "maxModelLen": 4096, "tensorParallelSize": 2, "extraArgs": ["--dtype", "auto", "--enforce-eager"],
      "env": {"HF_HOME": "/models"}]]
    assert.equal("/home/ann/vllm/bin/vllm serve m --allowed-origins [] --gpu-memory-utilization 0.75 "
      .. "--max-model-len 4096 --tensor-parallel-size 2 "
      .. "--dtype auto --enforce-eager --host 127.0.0.1 --port {port}", words(found.command))
    assert.same({
      "HF_HOME=/models", "PATH=/home/ann/vllm/bin:/bin:/usr/bin", "VIRTUAL_ENV=/home/ann/vllm", "VLLM_API_KEY={apiKey}",
    }, found.env)
  end)

  it("takes a folder for its model", function()
    local found = launch '"type": "vllm-managed", "model": "~/models/qwen"'
    assert.same({ "/home/ann/models/qwen", "/home/ann/models/qwen" }, { found.command[3], found.model })
  end)
end)

describe("a llama-server provider", function()
  it("is llama-server with a file, on loopback, with a key in the environment", function()
    local found = launch '"type": "llama-server", "model": "tiny.Q4_K_M.gguf"'
    assert.same({
      command = {
        "llama-server", "--model", "/etc/deputy/tiny.Q4_K_M.gguf", "--alias", "{model}", "--host", "127.0.0.1",
        "--port", "{port}",
      },
      env = { "LLAMA_API_KEY={apiKey}" }, model = "tiny.Q4_K_M", health_path = "/health", base_path = "/v1",
      wants_key = true,
    }, found)
  end)

  it("has each of its keys as an option", function()
    local found = launch [==["type": "llama-server", "model": "/m/a,b.gguf", "executable": "~/bin/llama-server",
      "contextSize": 8192, "gpuLayers": 0, "parallel": 2, "threads": 4, "extraArgs": ["--jinja", "-fa", "on"]]==]
    assert.equal("/home/ann/bin/llama-server --model /m/a,b.gguf --alias {model} --ctx-size 8192 --n-gpu-layers 0 "
      .. "--parallel 2 --threads 4 --jinja -fa on --host 127.0.0.1 --port {port}", words(found.command))
    assert.equal("a-b", found.model)
  end)
end)

describe("an ollama provider", function()
  it("is ollama serve, told by its environment where to listen; it knows no key", function()
    local found = launch '"type": "ollama", "model": "qwen3:0.6b"'
    assert.same({
      command = { "ollama", "serve" },
      env = { "OLLAMA_HOST=127.0.0.1:{port}", "OLLAMA_KEEP_ALIVE=-1", "OLLAMA_NOPRUNE=1" },
      model = "qwen3:0.6b", health_path = "/", base_path = "/v1", wants_key = false,
    }, found)
  end)

  it("has each of its keys as a variable, and a variable of one's own goes first", function()
    local found = launch [["type": "ollama", "model": "m", "modelsPath": "~/models", "contextSize": 4096,
      "executable": "/opt/ollama", "env": {"OLLAMA_KEEP_ALIVE": "5m"}]]
    assert.equal("/opt/ollama serve", words(found.command))
    assert.equal("OLLAMA_CONTEXT_LENGTH=4096 OLLAMA_HOST=127.0.0.1:{port} OLLAMA_KEEP_ALIVE=5m "
      .. "OLLAMA_MODELS=/home/ann/models OLLAMA_NOPRUNE=1", words(found.env))
  end)
end)

describe("presets", function()
  it("mean relative paths from where deputy runs, also when the server runs elsewhere", function()
    local here = { here = "/home/ann/lab" }
    local function first(provider) return presets.launch(provider, here).command[1] end
    assert.equal("/home/ann/lab/bin/x", first{ type = "managed", command = { "bin/x" }, cwd = "/srv" })
    assert.equal("x", first{ type = "managed", command = { "x" }, cwd = "/srv" })
    assert.equal("bin/x", first{ type = "managed", command = { "bin/x" } })
    assert.equal("/home/ann/lab/v/bin/vllm", first{ type = "vllm-managed", model = "m", venvPath = "v", cwd = "/srv" })
    local command = presets.launch({ type = "llama-server", model = "m.gguf", cwd = "/srv" }, here).command
    assert.same({ "llama-server", "--model", "/home/ann/lab/m.gguf" }, table.move(command, 1, 3, 1, {}))
  end)

  it("are nothing for what deputy does not start", function()
    assert.is_nil(presets.launch{ type = "echo" })
    assert.is_nil(presets.launch{ type = "openai", url = "http://127.0.0.1:1/v1" })
  end)

  it("know a reserved flag however it is spelled, and take no other for one", function()
    for argument, flag in pairs{
      ["--host"] = "--host", ["--host=0.0.0.0"] = "--host", ["--hos"] = "--host", ["--api_key=x"] = "--api-key",
    } do
      assert.equal(flag, presets.reserved_flag("vllm-managed", argument))
    end
    for _, argument in ipairs{ "--hosts-file", "host", "-h", "--p", "0.0.0.0", "" } do
      assert.is_nil(presets.reserved_flag("vllm-managed", argument))
    end
    assert.is_nil(presets.reserved_flag("llama-server", "-mm"))
  end)
end)

describe("deputy providers --commands", function()
  local SECRET = "hf_very_secret"

  local function run(providers, ...)
    local dir = tmp.dir()
    tmp.write(dir, "deputy.json", '{"central": {"url": "http://127.0.0.1:1"}, "providers": ' .. providers .. "}")
    local env = { DEPUTY_LUA = uv.cwd() .. "/lua", HOME = "/home/ann", PATH = "/usr/bin:/bin" }
    return shell.run{ BUILD .. "/deputy", "providers", "--commands", cwd = dir, env = env, ... }, dir
  end

  local all = [==[ [
    {"name": "qwen", "type": "vllm-managed", "model": "Qwen/Qwen3-0.6B", "venvPath": "~/vllm", "port": 8001,
     "gpuMemoryUtilization": 0.75, "env": {"HF_TOKEN": "]==] .. SECRET .. [==["}, "cwd": "/srv"},
    {"name": "tiny", "type": "llama-server", "model": "it's.gguf", "extraArgs": ["--hf-token", "]==] .. SECRET .. [==[",
     "--max-tokens", "5", "--x-key=]==] .. SECRET .. [==[", "{a,b}", "x\ny", ""]},
    {"name": "pulled", "type": "ollama", "model": "m"}, {"name": "e", "type": "echo"},
    {"name": "own", "type": "managed", "command": ["/bin/touch", "started", "{port}"],
     "apiKey": "]==] .. SECRET .. [==["}
  ] ]==]

  it("prints what would be started, one line for a shell each, without a secret", function()
    local r, dir = run(all)
    assert.equal("", r.stderr)
    assert.equal(table.concat({
      "# qwen (vllm-managed), in /srv",
      "HF_TOKEN='[key]' PATH=/home/ann/vllm/bin:/usr/bin:/bin VIRTUAL_ENV=/home/ann/vllm VLLM_API_KEY='[key]' "
        .. "/home/ann/vllm/bin/vllm serve Qwen/Qwen3-0.6B --allowed-origins '[]' --gpu-memory-utilization 0.75 "
        .. "--host 127.0.0.1 --port 8001",
      "# tiny (llama-server)",
      "LLAMA_API_KEY='[key]' llama-server --model 'it'\\''s.gguf' --alias 'it'\\''s' --hf-token '[key]' "
        .. "--max-tokens 5 '--x-key=[key]' '{a,b}' $'x\\x0ay' '' --host 127.0.0.1 --port {port}",
      "# pulled (ollama)",
      "OLLAMA_HOST=127.0.0.1:{port} OLLAMA_KEEP_ALIVE=-1 OLLAMA_NOPRUNE=1 ollama serve",
      "# own (managed)", "/bin/touch started {port}", "",
    }, "\n"), r.stdout)
    assert.is_nil(uv.fs_stat(dir .. "/started"))
  end)

  it("knows a secret by each word of its name, and takes no other word for one", function()
    local shown = commands.shown{ launch = {
      command = { "x", "--db-pass", SECRET, "--passphrase=" .. SECRET, "--max-tokens", "5", "--pass-through", "yes" },
      env = {
        "API_KEY_2=" .. SECRET, "AWS_ACCESS_KEY_ID=" .. SECRET, "DB_PASS=" .. SECRET, "Token_old=" .. SECRET,
        "BYPASS=1", "KEYBOARD=de", "MAX_TOKENS=5", "TOKENIZERS_PARALLELISM=false",
      },
    } }
    assert.same({ "x", "--db-pass", "[key]", "--passphrase=[key]", "--max-tokens", "5", "--pass-through", "yes" },
      shown.command)
    assert.same({
      "API_KEY_2=[key]", "AWS_ACCESS_KEY_ID=[key]", "DB_PASS=[key]", "Token_old=[key]", "BYPASS=1", "KEYBOARD=de",
      "MAX_TOKENS=5", "TOKENIZERS_PARALLELISM=false",
    }, shown.env)
  end)

  it("prints lines that a shell takes apart into exactly these words", function()
    local arguments = {
      "--plain", "a b", "it's", "", "$HOME", "`x`", "{a,b}", "{1..3}", "~", "*", "a\\b", "\1\n\t'\\", "ü",
    }
    local command = { "printf", "%s\\0", table.unpack(arguments) }
    local line = commands.line{ env = {}, command = command }
    local r = shell.run{ "bash", "-c", line:gsub("%%s\\\\0", "%%s\\0"), env = { HOME = "/nowhere" } }
    assert.same(arguments, (function()
      local words_ = {}
      for word in r.stdout:gmatch("([^\0]*)\0") do words_[#words_ + 1] = word end
      return words_
    end)(), line)
  end)

  it("prints one JSON array with --json", function()
    local r = run(all, "--json")
    assert.is_nil(r.stdout:find(SECRET, 1, true))
    local found = cjson.decode(r.stdout)
    assert.equal(4, #found)
    assert.same({
      name = "own", type = "managed", command = { "/bin/touch", "started", "{port}" }, env = {}, cwd = cjson.null,
    }, found[4])
    assert.same({ "HF_TOKEN=[key]", "/srv" }, { found[1].env[1], found[1].cwd })
  end)

  it("prints nothing where deputy starts nothing", function()
    assert.equal("", run('[{"name": "e", "type": "echo"}]').stdout)
    assert.equal("[]\n", run('[{"name": "e", "type": "echo"}]', "--json").stdout)
  end)

  it("says the mistakes of the configuration instead", function()
    local r = run '[{"name": "a", "type": "ollama"}]'
    assert.equal(1, r.status)
    assert.matches("providers%[0%]%.model: missing", r.stderr)
    assert.equal(2, shell.run{ BUILD .. "/deputy", "providers", "discover", "--commands" }.status)
  end)
end)
