-- deputy.config: what it fills in, and that it says every mistake, each with its line.
local config = require "deputy.config"
local json_map = require "deputy.json_map"

local SECRET = "tok-very-secret"

local function world(changes)
  local options = {
    dir = "/etc/deputy",
    env = function(name) return ({ HOME = "/home/ann", WHERE = "/mnt", EMPTY = "" })[name] end,
    read_file = function(path, max)
      local files = {
        ["/etc/deputy/token"] = SECRET .. "\n", ["/etc/deputy/dos"] = SECRET .. "\r\n", ["/etc/deputy/empty"] = "\n",
        ["/etc/deputy/two"] = SECRET .. "\n" .. SECRET .. "\n", ["/etc/deputy/huge"] = ("x"):rep(9000),
        ["/home/ann/key"] = "sk-key", ["/etc/deputy/ca.pem"] = "-----BEGIN CERTIFICATE-----\n",
      }
      if not files[path] then return nil, "No such file or directory" end
      return files[path]:sub(1, max)
    end,
  }
  for name, value in pairs(changes or {}) do options[name] = value end
  return options
end

local function parse(text, changes)
  return config.parse(text, world(changes))
end

-- The problems as lines "LINE KEY: MESSAGE", in order.
local function problems_of(text, changes)
  local settings, problems = parse(text, changes)
  local lines = {}
  if settings then return lines end
  for i, problem in ipairs(problems) do
    lines[i] = ("%s %s: %s"):format(problem.line or "-", problem.key, problem.message)
  end
  return lines
end

local CENTRAL = '{"central": {"url": "http://127.0.0.1:7070"},\n'

describe("the configuration's defaults", function()
  it("need nothing but central.url", function()
    local settings, warnings = parse '{"central": {"url": "http://127.0.0.1:7070"}}'
    assert.same({}, warnings)
    assert.same({
      central = {
        url = "http://127.0.0.1:7070", probe = "/api/v1/llms/{llm}", probeMethod = "HEAD",
        inference = { ["chat/completions"] = "/api/v1/llms/{llm}/infer", ["*"] = "/v1/{endpoint}" },
      },
      providers = {},
      policy = { gate = "probe", verify = "refuse", permitMs = 5000, settings = {}, settingsText = "{}" },
      timeouts = {
        connectMs = 2000, firstByteMs = 300000, firstTokenMs = 30000, idleMs = 30000, totalMs = 600000, probeMs = 2000,
      },
      gateway = {
        listen = "127.0.0.1:4141", workers = 1, apiKeys = {}, allowedHosts = {}, allowedOrigins = {},
        maxBodyBytes = 33554432, maxBufferedBytes = 1073741824, maxReplyBytes = 67108864, maxConnections = 1024,
        maxInFlight = 512, streaming = "live", drainMs = 30000,
      },
      log = { format = "logfmt", level = "info" },
    }, settings)
  end)

  it("are what config.defaults gives, but for the URL", function()
    local settings = parse '{"central": {"url": "http://127.0.0.1:7070"}}'
    settings.central.url = nil
    assert.same(settings, config.defaults(world()))
  end)

  it("have a control socket where there is a folder for it", function()
    local env = function(name) return name == "XDG_RUNTIME_DIR" and "/run/user/7" or nil end
    assert.equal("unix:/run/user/7/deputy.sock", config.defaults{ env = env }.gateway.control)
  end)

  it("give each provider its own", function()
    local settings = assert(parse(CENTRAL .. [["providers": [
      {"name": "a", "type": "managed", "command": ["serve", "~/x", "{port}"], "failoverFor": "haiku"},
      {"name": "b", "type": "vllm-managed", "model": "qwen"}, {"name": "c", "type": "echo"}]}]]))
    local shared = {
      readySeconds = 600, idleTimeoutMinutes = 15, stopGraceSeconds = 10,
      restart = { attempts = 3, backoffMs = 1000, retrySeconds = 300 }, prewarm = "on-demand",
      maxConcurrent = 16, maxQueued = 1024, healthPath = "/health",
    }
    local function with(own)
      for field, value in pairs(shared) do own[field] = value end
      return own
    end
    for _, each in ipairs(settings.providers) do each.launch = nil end -- spec/presets_spec.lua looks at these
    assert.same({
      with{ name = "a", type = "managed", command = { "serve", "~/x", "{port}" }, basePath = "/v1",
        listener = "own", failoverFor = { "haiku" } },
      with{ name = "b", type = "vllm-managed", model = "qwen" },
      { name = "c", type = "echo" },
    }, settings.providers)
  end)

  it("make whole numbers integers", function()
    assert.equal("integer", math.type(config.defaults().timeouts.idleMs))
    local settings = parse(CENTRAL .. '"timeouts": {"idleMs": 7}}')
    assert.equal("integer", math.type(settings.timeouts.idleMs))
  end)

  it("leave other routes as they are when one is given", function()
    local settings = parse '{"central": {"url": "http://c", "inference": {"embeddings": "/e/{llm}"}}}'
    assert.same({
      ["chat/completions"] = "/api/v1/llms/{llm}/infer", ["*"] = "/v1/{endpoint}", embeddings = "/e/{llm}",
    }, settings.central.inference)
  end)
end)

describe("the configuration", function()
  it("accepts all of the documented keys", function()
    local settings, problems = parse([[
{
  "central":  { "url": "http://127.0.0.1:7070", "bearerToken": "abc", "caFile": "ca.pem", "probe": "/api/v1/llms/{llm}",
                "inference": { "chat/completions": "/api/v1/llms/{llm}/infer", "*": "/v1/{endpoint}" } },
  "providers": [
    { "name": "vllm-local", "type": "openai", "url": "http://127.0.0.1:8000/v1", "model": "qwen3",
      "apiKeyFile": "token", "failoverFor": "claude" },
    { "name": "qwen",  "type": "vllm-managed", "model": "Qwen/Qwen3-0.6B", "venvPath": "~/vllm", "port": 8001,
      "gpuMemoryUtilization": 0.75, "idleTimeoutMinutes": 15, "failoverFor": ["opus", "sonnet"] },
    { "name": "tiny",  "type": "managed", "command": ["llama-server", "-m", "tiny.gguf", "--port", "{port}"],
      "healthPath": "/health", "failoverFor": "haiku" },
    { "name": "own", "type": "managed", "command": ["bin/serve", "--port", "{port}"], "env": { "KEY": "{apiKey}" },
      "cwd": "~/models", "port": 8002, "model": "m", "apiKeyFile": "token", "healthPath": "/ready", "basePath": "/api",
      "readySeconds": 60, "idleTimeoutMinutes": false, "stopGraceSeconds": 0.5, "prewarm": "on-failure",
      "restart": { "attempts": 5, "backoffMs": 200, "retrySeconds": 60 }, "maxConcurrent": 4,
      "maxQueued": 100, "listener": "any" },
    { "name": "gguf", "type": "llama-server", "model": "$WHERE/tiny.gguf", "executable": "~/llama/llama-server",
      "contextSize": 8192, "gpuLayers": 0, "parallel": 2, "threads": 4, "extraArgs": ["--jinja"], "restart": false },
    { "name": "pulled", "type": "ollama", "model": "qwen3:0.6b", "modelsPath": "~/.ollama/models",
      "contextSize": 4096, "executable": "ollama" },
    { "name": "large", "type": "vllm-managed", "model": "~/models/qwen", "maxModelLen": 4096,
      "tensorParallelSize": 2, "extraArgs": ["--dtype", "auto"] }
  ],
  "policy":   { "script": "lua/router.lua", "gate": "probe", "verify": "refuse", "permitMs": 5000,
                "settings": { "failoverOn": "unavailable", "retries": 1, "breaker": { "failures": 5 } } },
  "timeouts": { "connectMs": 2000, "firstByteMs": 300000, "firstTokenMs": 30000, "idleMs": 30000, "totalMs": 600000,
                "probeMs": 2000 },
  "gateway":  { "listen": "127.0.0.1:4141", "workers": 1, "apiKeys": [], "allowedHosts": [], "allowedOrigins": [],
                "maxBodyBytes": 33554432, "maxBufferedBytes": 1073741824, "maxReplyBytes": 67108864,
                "maxConnections": 1024, "maxInFlight": 512,
                "streaming": "live", "drainMs": 30000, "control": "unix:$WHERE/deputy.sock" },
  "log":      { "format": "logfmt", "level": "info" }
}]])
    assert.same({}, problems)
    assert.equal("/etc/deputy/ca.pem", settings.central.caFile)
    assert.equal("/etc/deputy/lua/router.lua", settings.policy.script)
    assert.equal("/home/ann/vllm", settings.providers[2].venvPath)
    assert.same({ "opus", "sonnet" }, settings.providers[2].failoverFor)
    local own, gguf, pulled, large = table.unpack(settings.providers, 4)
    assert.same({ "/etc/deputy/bin/serve", "--port", "{port}" }, own.command)
    assert.same({ "/home/ann/models", SECRET, false }, { own.cwd, own.apiKey, own.idleTimeoutMinutes })
    assert.same({ attempts = 5, backoffMs = 200, retrySeconds = 60 }, own.restart)
    assert.equal("any", own.listener)
    assert.same({ "/mnt/tiny.gguf", "/home/ann/llama/llama-server" }, { gguf.model, gguf.executable })
    assert.same({ attempts = 1, backoffMs = 1000, retrySeconds = 300 }, gguf.restart)
    assert.same({ "/home/ann/.ollama/models", "ollama" }, { pulled.modelsPath, pulled.executable })
    assert.equal("/", pulled.healthPath)
    assert.equal("/home/ann/models/qwen", large.model)
    assert.equal(SECRET, settings.providers[1].apiKey)
    assert.is_nil(settings.providers[1].apiKeyFile)
    assert.equal("unix:/mnt/deputy.sock", settings.gateway.control)
  end)

  it("hands the policy's settings on as they stand", function()
    local settings = parse(CENTRAL .. '"policy": {"settings": {"a": [], "n": 12345678901234567890,\n "b": {} } }}')
    assert.equal('{"a": [], "n": 12345678901234567890,\n "b": {} }', settings.policy.settingsText)
  end)

  it("reads secrets from files, without the line break at their end", function()
    for _, file in ipairs{ "token", "dos", "$HOME/../../etc/deputy/token" } do
      local where = file:find("%$") and { read_file = function() return SECRET .. "\n" end } or nil
      local settings = assert(parse(('{"central": {"url": "http://c", "bearerTokenFile": "%s"}}'):format(file), where))
      assert.equal(SECRET, settings.central.bearerToken)
    end
    local settings = parse '{"central": {"url": "http://c", "bearerTokenFile": "~/key"}}'
    assert.equal("sk-key", settings.central.bearerToken)
  end)

  it("expands ~ and $NAME in paths and nowhere else", function()
    local settings = parse(CENTRAL .. [["policy": {"script": "$WHERE/${WHERE}x$/~/r.lua"},
      "providers": [{"name": "$WHERE", "type": "echo", "failoverFor": "~"}]}]])
    assert.equal("/mnt//mntx$/~/r.lua", settings.policy.script)
    assert.equal("$WHERE", settings.providers[1].name)
    assert.same({ "~" }, settings.providers[1].failoverFor)
  end)

  it("takes file names from the current directory when it does not know its own", function()
    local settings = config.parse('{"central": {"url": "http://c", "caFile": "ca.pem"}}',
      { read_file = function() return "-----BEGIN CERTIFICATE-----" end })
    assert.equal("ca.pem", settings.central.caFile)
  end)

  it("wants certificates that can be read where it is told to trust some", function()
    assert.same({
      "1 central.caFile: cannot read /etc/deputy/none.pem: " ..
        "No such file or directory",
      "2 providers[0].caFile: expected certificates in PEM form, and there are none in the file that it names",
    }, problems_of('{"central": {"url": "https://c", "caFile": "none.pem"},\n"providers": [{"name": "a", ' ..
      '"type": "openai", "url": "https://p/v1", "caFile": "token"}]}'))
  end)

  it("does not mind a byte order mark", function()
    assert.is_table(parse '\xef\xbb\xbf{"central": {"url": "http://c"}}')
  end)

  it("is read from a file, whose folder its names start from", function()
    local tmp = require "spec.support.tmp"
    local dir = tmp.dir()
    tmp.write(dir, "token", SECRET .. "\n")
    local path = tmp.write(dir, "d.json", '{"central": {"url": "http://c", "bearerTokenFile": "token"}}')
    assert.equal(SECRET, assert(config.load(path)).central.bearerToken)
    local settings, problems = config.load(dir .. "/none.json")
    assert.is_nil(settings)
    assert.equal("F: cannot be read: No such file or directory", config.format(problems[1], "F"))
    settings, problems = config.load(dir)
    assert.is_nil(settings)
    assert.matches("cannot be read: ", problems[1].message)
  end)
end)

-- Each: the text; then every line that is expected, with %-patterns left out.
local mistakes = {
  ["nothing"] = { "", "1 : not JSON: column 1: expected value but found the end of the file" },
  ["an array"] = { "[]", "1 the configuration: expected an object, got an array" },
  ["a missing central"] = { "{\n}", '1 central.url: missing: expected a URL, as in "https://central.example"' },
  ["a missing central.url"] = {
    '{\n\n"central": {}}', '3 central.url: missing: expected a URL, as in "https://central.example"',
  },
  ["a comma too many"] = {
    '{"central": {\n  "url": "http://c",\n  }}',
    '3 : not JSON: column 3: expected object key string but found "}" (there is a comma too many before it)',
  },
  ["a missing comma"] = {
    '{"central": {"url": "http://c"}\n "log": {}}',
    '2 : not JSON: column 2: expected comma or object end but found a string',
  },
  ["a comment"] = {
    '{\n // here\n}',
    "2 : not JSON: column 2: expected object key string but found invalid token (JSON has no comments)",
  },
  ["single quotes"] = {
    "{'a': 1}", '1 : not JSON: column 2: expected object key string but found invalid token (JSON strings stand in ")',
  },
  ["an open end"] = { '{"central"', "1 : not JSON: column 11: expected colon but found the end of the file" },
  ["a number that is none"] = {
    '{"central": 0x1}', "1 : not JSON: column 13: expected value but found invalid number",
  },
  ["a control byte"] = { '{\n"\1": 1}', "2 : a control byte stands here" },
  ["bytes that are not UTF-8"] = { '{\n"\xff": 1}', "2 : not UTF-8" },
  ["deep nesting"] = {
    ("["):rep(70), "1 : not JSON: column 65: found too many nested data structures (65)",
  },
  ["too large a file"] = { (" "):rep(1048577), "- : larger than 1048576 bytes" },
  ["an unknown key at the top"] = {
    CENTRAL .. '"timeuots": {}}', '2 timeuots: not a known key: did you mean "timeouts"?',
  },
  ["an unknown key below"] = {
    '{"central": {"url": "http://c",\n "bearer_token": "' .. SECRET .. '"}}',
    '2 central.bearer_token: not a known key: did you mean "bearerToken"?',
  },
  ["an unknown key like nothing"] = {
    CENTRAL .. '"log": {"verbosity": 3}}', "2 log.verbosity: not a known key: known here: format, level",
  },
  ["a key of another type of provider"] = {
    CENTRAL .. '"providers": [{"name": "a", "type": "echo",\n"port": 1}]}',
    '3 providers[0].port: not a known key of a provider of type "echo": known here: failoverFor, name, type',
  },
  ["an unknown type of provider"] = {
    CENTRAL .. '"providers": [{"name": "a", "type": "vllm_manged", "port": 1}]}',
    '2 providers[0].type: "vllm_manged" is not known: did you mean "vllm-managed"?',
  },
  ["a provider without type and name"] = {
    CENTRAL .. '"providers": [{}]}', "2 providers[0].name: missing: expected a value",
    "2 providers[0].type: missing: expected a value",
  },
  ["two providers of one name"] = {
    CENTRAL .. '"providers": [{"name": "a", "type": "echo"},\n{"name": "a", "type": "echo"}]}',
    '3 providers[1].name: "a" is also the name of providers[0]: names must differ',
  },
  ["things that are no providers"] = {
    CENTRAL .. '"providers": [null,\n7, []]}',
    "2 providers[0]: expected an object, got null (leave the key out instead)",
    "3 providers[1]: expected an object, got 7", "3 providers[2]: expected an object, got an array",
  },
  ["providers that are no array"] = { CENTRAL .. '"providers": {}}', "2 providers: expected an array, got an object" },
  ["failoverFor naming nothing"] = {
    CENTRAL .. '"providers": [{"name": "a", "type": "echo", "failoverFor": []},\n'
      .. '{"name": "b", "type": "echo", "failoverFor": ""}]}',
    "2 providers[0].failoverFor: names no LLM: name one, or leave the key out",
    "3 providers[1].failoverFor: must not be empty",
  },
  ["failoverFor that is no name"] = {
    CENTRAL .. '"providers": [{"name": "a", "type": "echo", "failoverFor": {}},\n'
      .. '{"name": "b", "type": "echo", "failoverFor": ["x", 1, "x", ".."]}]}',
    "2 providers[0].failoverFor: expected the name of an LLM of the central, or an array of names, got an object",
    "3 providers[1].failoverFor[1]: expected a string, got 1",
    '3 providers[1].failoverFor[2]: "x" is named twice', '3 providers[1].failoverFor[3]: ".." cannot be a name',
  },
  ["a name that is too long"] = {
    CENTRAL .. ('"providers": [{"name": "%s", "type": "echo"}]}'):format(("n"):rep(129)),
    "2 providers[0].name: expected a name of at most 128 bytes, got 129",
  },
  ["an empty command"] = {
    CENTRAL .. '"providers": [{"name": "a", "type": "managed", "command": []}]}',
    "2 providers[0].command: must not be empty",
  },
  ["numbers out of range"] = {
    CENTRAL .. '"timeouts": {"idleMs": 0,\n"totalMs": 1e400,\n"probeMs": 1.5,\n"connectMs": "5"},\n'
      .. '"gateway": {"workers": 257, "drainMs": -1}}',
    "2 timeouts.idleMs: expected a whole number from 1 to 86400000, got 0",
    "3 timeouts.totalMs: expected a whole number from 1 to 86400000, got inf",
    "4 timeouts.probeMs: expected a whole number from 1 to 86400000, got 1.5",
    "5 timeouts.connectMs: expected a whole number from 1 to 86400000, got a string",
    "6 gateway.drainMs: expected a whole number from 0 to 86400000, got -1",
    "6 gateway.workers: expected a whole number from 1 to 256, got 257",
  },
  ["commands that are none"] = {
    CENTRAL .. '"providers": [{"name": "a", "type": "managed", "command": "serve --port 1"},\n'
      .. '{"name": "b", "type": "managed", "command": ["", 7, "a\\u0000b", "{prot}"]}]}',
    "2 providers[0].command: expected an array of strings: the program and its arguments, as without a shell, "
      .. "got a string",
    "3 providers[1].command[0]: must not be empty", "3 providers[1].command[1]: expected a string, got 7",
    "3 providers[1].command[2]: must not hold a NUL byte",
    '3 providers[1].command[3]: "{prot}" is not known: did you mean "{port}"?',
  },
  ["an endless command"] = {
    CENTRAL .. '"providers": [{"name": "a", "type": "managed", "command": ["a"' .. (', "b"'):rep(1024) .. "]},\n"
      .. '{"name": "b", "type": "managed", "command": ["a", "' .. ("b"):rep(131072) .. '"]}]}',
    "2 providers[0].command: expected at most 1024 arguments, got 1025",
    "3 providers[1].command[1]: must not be longer than 131071 bytes",
  },
  ["what deputy sets itself"] = {
    CENTRAL .. '"providers": [{"name": "a", "type": "vllm-managed", "model": "m",\n'
      .. '"extraArgs": ["--host", "0.0.0.0", "--por=1", "--api_key", "--dtype"], "env": {"VLLM_API_KEY": "x"}},\n'
      .. '{"name": "b", "type": "llama-server", "model": "m", "extraArgs": ["-m", "--alias=x", "-ngl"],\n'
      .. '"env": {"LLAMA_API_KEY": "x"}}, {"name": "c", "type": "ollama", "model": "m", "env": {"OLLAMA_HOST": "0"}}]}',
    "3 providers[0].env.VLLM_API_KEY: deputy sets it itself: leave it out",
    "3 providers[0].extraArgs[0]: deputy sets --host itself: leave it out",
    "3 providers[0].extraArgs[2]: deputy sets --port itself: leave it out",
    "3 providers[0].extraArgs[3]: deputy sets --api-key itself: leave it out",
    "4 providers[1].extraArgs[0]: deputy sets -m itself: leave it out",
    "4 providers[1].extraArgs[1]: deputy sets --alias itself: leave it out",
    "5 providers[1].env.LLAMA_API_KEY: deputy sets it itself: leave it out",
    "5 providers[2].env.OLLAMA_HOST: deputy sets it itself: leave it out",
  },
  ["environments that are none"] = {
    CENTRAL .. '"providers": [{"name": "a", "type": "managed", "command": ["a"], "env": ["A=b"]},\n'
      .. '{"name": "b", "type": "managed", "command": ["a"], "env": {"A-B": "x", "C": true, "D=": "x"}}]}',
    "2 providers[0].env: expected an object from names of variables to strings, got an array",
    "3 providers[1].env.A-B: expected the name of a variable: letters, digits and _",
    "3 providers[1].env.C: expected a string, got true",
    "3 providers[1].env.D=: expected the name of a variable: letters, digits and _",
  },
  ["a life cycle that cannot be"] = {
    CENTRAL .. '"providers": [{"name": "a", "type": "managed", "command": ["a"],\n"restart": true,\n'
      .. '"prewarm": "atstart",\n"idleTimeoutMinutes": 0,\n"stopGraceSeconds": -1,\n"readySeconds": 0,\n'
      .. '"maxConcurrent": 0, "maxQueued": 0,\n"restarts": 1},\n'
      .. '{"name": "b", "type": "managed", "command": ["a"], "restart": {"attempts": 0, "backOffMs": 1}}]}',
    "3 providers[0].restart: expected an object, or false for no second start, got true",
    '4 providers[0].prewarm: "atstart" is not known: did you mean "at-start"?',
    "5 providers[0].idleTimeoutMinutes: expected a number above 0, at most 10080, or false for never, got 0",
    "6 providers[0].stopGraceSeconds: expected a number above 0, at most 600, got -1",
    "7 providers[0].readySeconds: expected a whole number from 1 to 86400, got 0",
    "8 providers[0].maxConcurrent: expected a whole number from 1 to 100000, got 0",
    "8 providers[0].maxQueued: expected a whole number from 1 to 1000000, got 0",
    '9 providers[0].restarts: not a known key of a provider of type "managed": did you mean "restart"?',
    "10 providers[1].restart.attempts: expected a whole number from 1 to 1000, got 0",
    '10 providers[1].restart.backOffMs: not a known key: did you mean "backoffMs"?',
  },
  ["keys of one preset in another"] = {
    CENTRAL .. '"providers": [{"name": "a", "type": "llama-server", "model": "m", "contextSzie": 1},\n'
      .. '{"name": "b", "type": "ollama", "modle": "m"}, {"name": "c", "type": "vllm-managed", "model": "-x"}]}',
    '2 providers[0].contextSzie: not a known key of a provider of type "llama-server": did you mean "contextSize"?',
    "3 providers[1].model: missing: expected a value",
    '3 providers[1].modle: not a known key of a provider of type "ollama": did you mean "model"?',
    '3 providers[2].model: a model\'s name cannot begin with "-"',
  },
  ["two servers on one port"] = {
    CENTRAL .. '"providers": [{"name": "a", "type": "vllm-managed", "model": "m", "port": 8001},\n'
      .. '{"name": "b", "type": "echo"}, {"name": "c", "type": "ollama", "model": "m",\n"port": 8001}]}',
    "4 providers[2].port: 8001 is also the port of providers[0]: leave both out, and free ones are picked",
  },
  ["ports out of range"] = {
    CENTRAL .. '"providers": [{"name": "a", "type": "vllm-managed", "model": "m", "port": 65536,\n'
      .. '"gpuMemoryUtilization": 0}]}',
    "2 providers[0].port: expected a whole number from 1 to 65535, got 65536",
    "3 providers[0].gpuMemoryUtilization: expected a number above 0, at most 1, got 0",
  },
  ["words that are not known"] = {
    CENTRAL .. '"policy": {"gate": "porbe",\n"verify": "maybe"},\n"log": {"level": 3}}',
    '2 policy.gate: "porbe" is not known: did you mean "probe"?',
    '3 policy.verify: "maybe" is not known: known here: refuse, warn, off',
    '4 log.level: expected "error" or "warn" or "info" or "debug", got 3',
  },
  ["both a token and its file"] = {
    '{"central": {"url": "http://c", "bearerToken": "' .. SECRET .. '",\n"bearerTokenFile": "token"}}',
    "2 central.bearerTokenFile: central.bearerToken is given too: keep one of them",
  },
  ["tokens that cannot be"] = {
    '{"central": {"url": "http://c", "bearerToken": "' .. SECRET .. ' x"},\n"gateway": {"apiKeys": ["", 3]}}',
    "1 central.bearerToken: must not hold spaces, line breaks or bytes that are not ASCII",
    "2 gateway.apiKeys[0]: must not be empty", "2 gateway.apiKeys[1]: expected a string",
  },
  ["secret files that cannot be"] = {
    (CENTRAL:gsub("}", ', "bearerTokenFile": "none"}')) .. '"providers": [\n'
      .. '{"name": "a", "type": "openai", "url": "http://l", "apiKeyFile": "empty"},\n'
      .. '{"name": "b", "type": "openai", "url": "http://l", "apiKeyFile": "two"},\n'
      .. '{"name": "c", "type": "openai", "url": "http://l", "apiKeyFile": "huge"}]}',
    "1 central.bearerTokenFile: cannot read /etc/deputy/none: "
      .. "No such file or directory",
    "3 providers[0].apiKeyFile: what the file holds must not be empty",
    "4 providers[1].apiKeyFile: what the file holds must not hold spaces, line breaks or bytes that are not ASCII",
    "5 providers[2].apiKeyFile: what the file holds must not be longer than 8192 bytes",
  },
  ["a token where its file's name belongs"] = {
    '{"central": {"url": "http://c", "bearerTokenFile": "' .. SECRET .. "0123456789" .. '"}}',
    "1 central.bearerTokenFile: cannot read the file that it names (relative names start in /etc/deputy; its own is "
      .. "not shown, since it looks like a token: that belongs into a file): No such file or directory",
  },
  ["a file that is not there"] = {
    '{"central": {"url": "http://c", "bearerTokenFile": "secrets/the-token-of-the-central"}}',
    "1 central.bearerTokenFile: cannot read /etc/deputy/secrets/the-token-of-the-central: No such file or directory",
  },
  ["the other keys of a provider whose type has a slip in it"] = {
    CENTRAL .. '"providers": [\n{"name": "a", "type": "opnai", "url": 9,\n"modle": "x"}]}',
    '3 providers[0].type: "opnai" is not known: did you mean "openai"?',
    "3 providers[0].url: expected a string, got 9",
    '4 providers[0].modle: not a known key of a provider of type "openai": did you mean "model"?',
  },
  ["variables that are not set"] = {
    '{"central": {"url": "http://c", "caFile": "$NOPE/ca.pem"},\n"policy": {"script": "$EMPTY/r.lua"},\n'
      .. '"gateway": {"control": "unix:$NOPE/s"}}',
    "1 central.caFile: $NOPE is not set", "2 policy.script: $EMPTY is not set", "3 gateway.control: $NOPE is not set",
  },
  ["addresses that are none"] = {
    CENTRAL .. '"gateway": {"listen": "4141",\n"control": "127.0.0.1:1"}}',
    '2 gateway.listen: expected "HOST:PORT" or "unix:PATH", got "4141"',
    '3 gateway.control: expected "unix:PATH", got "127.0.0.1:1"',
  },
  ["hosts and origins that no header can equal"] = {
    CENTRAL .. '"gateway": {"allowedHosts": ["deputy.example", "[::1]:4141", "*.example",\n"http://d.example"],\n'
      .. '"allowedOrigins": ["https://app.example:8443", "null", "app://obsidian.md", "https://app.example/",\n'
      .. '"https://App.example",\n"*"]}}',
    '2 gateway.allowedHosts[2]: expected a host as in "deputy.example" or "deputy.example:4141", got "*.example"',
    '3 gateway.allowedHosts[3]: expected a host as in "deputy.example" or "deputy.example:4141", '
      .. 'got "http://d.example"',
    '4 gateway.allowedOrigins[3]: expected an origin as browsers send it, in small letters and without a path, as in '
      .. '"https://app.example", got "https://app.example/"',
    '5 gateway.allowedOrigins[4]: expected an origin as browsers send it, in small letters and without a path, as in '
      .. '"https://app.example", got "https://App.example"',
    '6 gateway.allowedOrigins[5]: expected an origin as browsers send it, in small letters and without a path, as in '
      .. '"https://app.example", got "*"',
  },
  ["paths that are none"] = {
    '{"central": {"url": "http://c",\n"probe": "/all",\n"inference": {"*": "v1",\n"a b": "/x", "x": "/{endpiont}"}}}',
    "2 central.probe: expected {llm} in the path: else one answer would hold for all LLMs",
    '3 central.inference.*: expected a path that begins with "/"',
    '4 central.inference.a b: expected an endpoint as in "chat/completions" (what follows /v1/), or "*"',
    '4 central.inference.x: "{endpiont}" is not known in a path here: known are {endpoint} and {llm}',
  },
  ["a probe that asks for the endpoint"] = {
    '{"central": {"url": "http://c", "probe": "/{llm}/{endpoint}"}}',
    '1 central.probe: "{endpoint}" is not known in a path here: known are {llm}',
  },
  ["keys given twice"] = {
    '{"central": {"url": "http://c",\n"url": "http://d"}, "policy": {"settings": {"a": 1,\n"\\u0061": 2}}}',
    "2 central.url: stands here for the second time", "3 policy.settings.a: stands here for the second time",
  },
  ["settings that are no object"] = {
    CENTRAL .. '"policy": {"settings": []}}', "2 policy.settings: expected an object, got an array",
  },
  ["sections that are none"] = { '{"central": 3,\n"log": "info"}',
    "1 central: expected an object, got 3", "2 log: expected an object, got a string" },
  ["a NUL in a text"] = {
    '{"central": {"url": "http://c\\u0000d"}}', "1 central.url: must not hold control bytes",
  },
}

describe("a mistake is said, with its line and nothing else:", function()
  for name, case in pairs(mistakes) do
    it(name, function()
      local expected = table.move(case, 2, #case, 1, {})
      local found = problems_of(case[1])
      assert.same(expected, found)
      assert.is_nil(table.concat(found):find(SECRET, 1, true))
    end)
  end

  local urls = {
    ["ftp://c"] = "expected an absolute URL, http:// or https://",
    ["c:7070"] = "expected an absolute URL, http:// or https://",
    [""] = "must not be empty",
    ["http://"] = "the URL has no valid host in it",
    ["http:///x"] = "the URL has no valid host in it",
    ["http://a b"] = "the URL has no valid host in it",
    ["http://[::1"] = "the URL has no valid host in it",
    ["http://c:0"] = "the URL's port must be a number from 1 to 65535",
    ["http://c:65536"] = "the URL's port must be a number from 1 to 65535",
    ["http://c:x"] = "the URL's port must be a number from 1 to 65535",
    ["http://c?a=" .. SECRET] = "the URL must not have a query or a fragment",
    ["http://c/#x"] = "the URL must not have a query or a fragment",
    ["http://ann:" .. SECRET .. "@c"] =
      "a URL must not carry a user or a password: use the key for the token instead",
  }
  for url, message in pairs(urls) do
    it("URL " .. url:gsub(SECRET, "..."), function()
      assert.same({ "1 central.url: " .. message }, problems_of(('{"central": {"url": "%s"}}'):format(url)))
    end)
  end

  it("none for URLs that are good", function()
    for _, url in ipairs{ "http://c", "HTTPS://c.example:443/a/b", "http://[::1]:80/", "http://a_b-c.d" } do
      assert.same({}, problems_of(('{"central": {"url": "%s"}}'):format(url)))
    end
  end)

  it("all mistakes come at once, by line", function()
    local found = problems_of('{"central": {"ulr": 1},\n"log": {"level": "x"},\n"polcy": {},\n'
      .. '"timeouts": {"idleMs": 0}}')
    local lines = {}
    for i, each in ipairs(found) do lines[i] = each:match("^%S+ %S+:") end
    assert.same({ "1 central.ulr:", "1 central.url:", "2 log.level:", "3 polcy:", "4 timeouts.idleMs:" }, lines)
  end)

  it("is formatted as FILE:LINE: KEY: MESSAGE", function()
    assert.equal("f:3: a.b: m", config.format({ key = "a.b", line = 3, message = "m" }, "f"))
    assert.equal("f: m", config.format({ key = "", message = "m" }, "f"))
    assert.equal("line 3: m", config.format{ key = "", line = 3, message = "m" })
  end)
end)

describe("a warning", function()
  local function warnings_of(text, changes)
    local settings, warnings = parse(text, changes)
    assert.is_table(settings)
    local lines = {}
    for i, warning in ipairs(warnings) do lines[i] = config.format(warning) end
    return lines
  end

  it("is given when the script alone decides", function()
    local found = warnings_of(CENTRAL .. '"policy": {"gate": "policy"}}')
    assert.equal(1, #found)
    assert.matches("^line 2: policy.gate: warning: the script alone decides", found[1])
  end)

  it("is given when a key would stand among the arguments", function()
    local found = warnings_of(CENTRAL .. '"providers": [{"name": "a", "type": "managed",\n'
      .. '"command": ["serve", "--key", "{apiKey}"]}]}')
    assert.equal(1, #found)
    assert.matches("^line 3: providers%[0%]%.command%[2%]: warning: every user of this machine can read", found[1])
  end)

  it("is given when others can read a token", function()
    local modes = { ["deputy.json"] = 420, ["/etc/deputy/token"] = 384 } -- 0644, 0600
    local options = { file = "deputy.json", mode = function(path) return modes[path] end }
    local inline = '{"central": {"url": "https://c",\n"bearerToken": "abc"}}'
    local file = '{"central": {"url": "https://c",\n"bearerTokenFile": "token"}}'
    assert.same({
      "line 2: central.bearerToken: warning: every user of this machine can read it: chmod 600 deputy.json",
    }, warnings_of(inline, options))
    assert.same({}, warnings_of(file, options))
    modes["/etc/deputy/token"] = 388 -- 0604
    assert.equal(1, #warnings_of(file, options))
  end)

  it("is given when a token would travel in the clear", function()
    local text = '{"central": {"url": "http://%s", "bearerToken": "abc"}}'
    assert.equal(1, #warnings_of(text:format("central.example")))
    for _, host in ipairs{ "127.0.0.1:7070", "localhost", "[::1]:1/x" } do
      assert.same({}, warnings_of(text:format(host)))
    end
    assert.same({}, warnings_of '{"central": {"url": "http://central.example"}}')
  end)
end)

describe("json_map", function()
  it("knows line, kind and bytes of every value", function()
    local text = ' {"a": [1, {"b\\"]": "x\\\\"},\n[]],\n\n "c" :\n {}, "": -1.5e3 , "t":true}\n'
    local place, doubles = json_map.read(text)
    assert.same({}, doubles)
    local function slice(p) return text:sub(p.first, p.last) end
    assert.equal("object", place.kind)
    assert.equal(text:match("^%s*(.-)%s*$"), slice(place))
    local a = place.fields.a
    assert.same({ "array", 1, 3 }, { a.kind, a.line, #a.items })
    assert.equal('"x\\\\"', slice(a.items[2].fields['b"]']))
    assert.same({ "array", 2, "[]" }, { a.items[3].kind, a.items[3].line, slice(a.items[3]) })
    assert.same({ "object", 4, "{}" }, { place.fields.c.kind, place.fields.c.line, slice(place.fields.c) })
    assert.equal("-1.5e3", slice(place.fields[""]))
    assert.same({ "scalar", 5, "true" }, { place.fields.t.kind, place.fields.t.line, slice(place.fields.t) })
  end)

  it("finds names that stand twice, escaped or not", function()
    local _, doubles = json_map.read '{"a": {"x": 1, "y": 2,\n"x": 3}, "b": [{"k": 1, "\\u006b": 2}]}'
    assert.same({ { key = "a.x", line = 2 }, { key = "b[0].k", line = 2 } }, doubles)
  end)

  it("reads a megabyte in well under a second", function()
    for _, text in ipairs{
      "[" .. ("1,"):rep(500000) .. "1]", "{" .. ('"a":0,'):rep(150000) .. '"b":1}', '"' .. ("\\n"):rep(500000) .. '"',
    } do
      local began = os.clock()
      json_map.read(text)
      assert.is_true(os.clock() - began < 3)
    end
  end)
end)
