-- deputy providers discover: model servers that already run are found, told apart, and turned into configuration.
-- The peers answer as the real servers do where that matters: at the addresses by which they are known.
local uv = require "luv"
local cjson = require "cjson"
local config = require "deputy.config"
local discover = require "deputy.discover"
local peers = require "spec.support.peers"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local BUILD = assert(uv.fs_realpath(os.getenv("DEPUTY_BUILD") or "build"))

local function models(owner, ...)
  local data = {}
  for i, id in ipairs{ ... } do data[i] = { id = id, object = "model", owned_by = owner } end
  return { json = { object = "list", data = data } }
end

local function server(routes, spec)
  spec = spec or {}
  spec.routes = {}
  for path, reply in pairs(routes) do
    spec.routes[#spec.routes + 1] = { path == "all" and "GET .*" or "GET " .. path:gsub("[%-.]", "%%%0"), reply }
  end
  return peers.start(spec)
end

local NOT_FOUND = { status = 404, json = { detail = "Not Found" } }

local known = {
  vllm = { "vLLM 0.11.0", { "Qwen/Qwen3-0.6B" }, {
    ["/v1/models"] = models("vllm", "Qwen/Qwen3-0.6B"), ["/version"] = { json = { version = "0.11.0" } },
  } },
  ["llama-server"] = { "llama-server b6123-abc", { "tiny" }, {
    ["/v1/models"] = models("llamacpp", "tiny"),
    ["/props"] = { json = { default_generation_settings = { n_ctx = 4096 }, build_info = "b6123-abc" } },
  } },
  ollama = { "Ollama 0.12.3", { "llama3.1:8b", "qwen3:0.6b" }, {
    ["/v1/models"] = models("library", "llama3.1:8b", "qwen3:0.6b"),
    ["/api/version"] = { json = { version = "0.12.3" } },
  } },
  ["lm-studio"] = { "LM Studio", { "loaded", "other" }, {
    ["/v1/models"] = models("organization_owner", "embed", "other", "loaded"),
    ["/api/v0/models"] = { json = { object = "list", data = {
      { id = "embed", type = "embeddings", state = "not-loaded", compatibility_type = "gguf" },
      { id = "other", type = "llm", state = "not-loaded", compatibility_type = "gguf" },
      { id = "loaded", type = "vlm", state = "loaded", compatibility_type = "mlx" },
    } } },
  }, { json = { error = "Unexpected endpoint or method." } } }, -- to all else it says this with status 200
  localai = { "LocalAI v3.1.0", { "gpt-4" }, {
    ["/v1/models"] = models(nil, "gpt-4"), ["/version"] = { json = { version = "v3.1.0 (abc)" } },
    ["/.well-known/localai.json"] = { json = {
      version = "v3.1.0", endpoints = { chat_completions = "/v1/chat/completions" },
    } },
  } },
  sglang = { "SGLang", { "Qwen/Qwen3-0.6B" }, {
    ["/v1/models"] = models("sglang", "Qwen/Qwen3-0.6B"),
    ["/get_model_info"] = { json = { model_path = "Qwen/Qwen3-0.6B", is_generation = true } },
  } },
  openai = { "OpenAI-compatible server", { "m" }, { ["/v1/models"] = models("someone", "m") } },
}

local function run(ports, ...)
  local r = shell.run{
    BUILD .. "/deputy", "providers", "discover", "--ports", table.concat(ports, ","), timeout_ms = 15000,
    env = { DEPUTY_LUA = uv.cwd() .. "/lua", http_proxy = "http://127.0.0.1:1", XDG_CONFIG_HOME = "/nonexistent" }, ...,
  }
  return r
end

-- `deputy check` on a configuration that has these providers.
local function check(providers_text)
  local dir = tmp.dir()
  tmp.write(dir, "deputy.json", '{"central": {"url": "http://127.0.0.1:7070"},' .. providers_text:match("^{(.*)$"))
  return shell.run{ BUILD .. "/deputy", "check", cwd = dir, env = { DEPUTY_LUA = uv.cwd() .. "/lua" } }
end

describe("deputy providers discover", function()
  after_each(peers.stop_all)

  for kind, case in pairs(known) do
    it("knows " .. case[1], function()
      local peer = server(case[3], { default = case[4] or NOT_FOUND })
      local r = run{ peer.port }
      assert.equal(0, r.status)
      local where = ("127.0.0.1:%d  "):format(peer.port)
      assert.equal(where .. case[1] .. ": " .. table.concat(case[2], ", "), r.stderr:match("^[^\n]*"))
      local found = cjson.decode(r.stdout).providers
      assert.equal(#case[2], #found)
      for i, entry in ipairs(found) do
        assert.same({ "openai", ("http://127.0.0.1:%d/v1"):format(peer.port), case[2][i] },
          { entry.type, entry.url, entry.model })
        assert.equal(kind, entry.name:sub(1, #kind))
      end
      local checked = check(r.stdout)
      assert.equal(0, checked.status, checked.stdout .. checked.stderr)
    end)
  end

  it("finds all at once, by port, each under a name of its own, for the LLM that is named", function()
    local a = server(known.vllm[3], { default = NOT_FOUND })
    local b = server(known.vllm[3], { default = NOT_FOUND })
    local c = server(known.ollama[3], { default = NOT_FOUND })
    local r = run({ a.port, b.port, c.port, peers.refused():match("%d+$") }, "--for", "claude")
    local found = cjson.decode(r.stdout).providers
    local names = {}
    for _, entry in ipairs(found) do
      names[entry.name] = true
      assert.equal("claude", entry.failoverFor)
    end
    assert.same({ vllm = true, ["vllm-2"] = true, ["ollama-llama3.1-8b"] = true, ["ollama-qwen3-0.6b"] = true }, names)
    assert.equal(0, check(r.stdout).status)
    assert.is_nil(r.stderr:find("failoverFor", 1, true))
  end)

  it("says the same as one JSON value", function()
    local peer = server(known.vllm[3], { default = NOT_FOUND })
    local r = run({ peer.port }, "--json")
    assert.same({
      servers = { {
        port = peer.port, kind = "vllm", version = "0.11.0", guarded = false, loading = false,
        models = { "Qwen/Qwen3-0.6B" },
      } },
      providers = { {
        name = "vllm", type = "openai", url = peer.url .. "/v1", model = "Qwen/Qwen3-0.6B",
      } },
    }, cjson.decode(r.stdout))
    assert.equal("", r.stderr)
  end)

  it("works as it stands: deputy asks the server that was found", function()
    local central = peers.central{ tokens = { tok = { view = { "claude" } } }, llms = { claude = {} },
      inference = { status = 503 } }
    local model = peers.openai{ models = { "qwen3" }, reply = "from the one that was found" }
    local found = run({ model.port }, "--for", "claude").stdout
    local dir = tmp.dir()
    local path = tmp.write(dir, "deputy.json", ('{"central": {"url": "%s", "bearerToken": "tok"},'):format(central.url)
      .. found:match("^{(.*)$"))
    local r = shell.run{ BUILD .. "/deputy", "ask", "-c", path, "claude", "hi",
      env = { DEPUTY_LUA = uv.cwd() .. "/lua" } }
    assert.equal("from the one that was found\n", r.stdout)
    assert.equal("qwen3", cjson.decode(model:requests("POST")[1].body).model)
  end)

  it("says what wants a key, what is loading, what has no model, and what is none of these", function()
    local guarded = server({ ["/v1/models"] = { status = 401, json = { error = "Unauthorized" } },
      ["/version"] = { json = { version = "0.11.0" } } }, { default = NOT_FOUND })
    local loading = server({ all = { status = 503, headers = { Server = "llama.cpp" },
      json = { error = { code = 503, message = "Loading model" } } } })
    local empty = server({ ["/v1/models"] = models("library"), ["/api/version"] = { json = { version = "1" } } },
      { default = NOT_FOUND })
    local other = server({}, { default = NOT_FOUND })
    local r = run({ guarded.port, loading.port, empty.port, other.port })
    for peer, text in pairs{
      [guarded] = "vLLM 0.11.0, wants a key: put it into a file and name that in apiKeyFile",
      [loading] = "llama-server, still loading its model", [empty] = "Ollama 1, has no model",
      [other] = "answers, but is no model server that deputy knows",
    } do
      assert.truthy(r.stderr:find(("127.0.0.1:%d  %s\n"):format(peer.port, text), 1, true), r.stderr)
    end
    assert.same({}, cjson.decode(r.stdout).providers)
    assert.equal(1, other:count()) -- what is none of them is not asked any further
  end)

  it("says where it looked when there is nothing", function()
    local port = peers.refused():match("%d+$")
    local r = run{ port }
    assert.equal(0, r.status)
    assert.equal("nothing answers on 127.0.0.1 at ports " .. port .. "\n", r.stderr)
    assert.equal('{\n  "providers": []\n}\n', r.stdout)
  end)

  it("waits for nobody: all that is silent, endless or slow costs two short deadlines", function()
    local mute = peers.listener{}
    local endless = peers.listener{ reply = { { repeat_send = "HTTP/1.1 200 OK\r\nX: " .. ("y"):rep(1000) } } }
    local headers = peers.listener{ reply = { { send = "HTTP/1.1 200 OK\r\n" },
      { repeat_send = "X-Header: " .. ("y"):rep(1000) .. "\r\n" } } }
    local ok = { send = "HTTP/1.1 200 OK\r\n\r\n{" }
    local huge = server{ ["/v1/models"] = { ok, { repeat_send = (" "):rep(65536) } } }
    local drip = server{ ["/v1/models"] = { ok, { drip = ("{"):rep(1000), every_ms = 20 } } }
    local good = server(known.vllm[3], { default = { { stall = true } } })
    local r = run{ mute.port, endless.port, headers.port, huge.port, drip.port, good.port }
    assert.equal(0, r.status)
    assert.is_true(r.us < 6000000, r.us)
    assert.matches("vLLM 0.11.0: Qwen/Qwen3%-0.6B", r.stderr)
    for _, peer in ipairs{ mute, endless, headers, huge, drip } do -- one of them may be what somebody looks for
      assert.truthy(r.stderr:find(("127.0.0.1:%d  listens, but gave no usable answer in time\n"):format(peer.port), 1,
        true), r.stderr)
    end
  end)

  it("follows no redirect and no proxy", function()
    local target = server(known.vllm[3])
    local peer = server({ all = { status = 302, headers = { Location = target.url .. "/v1/models" } } })
    local r = run{ peer.port }
    assert.matches("is no model server that deputy knows", r.stderr)
    assert.equal(0, target:connections())
  end)

  it("refuses arguments that cannot be", function()
    for _, ports in ipairs{ { "" }, { "0" }, { "65536" }, { "80", "" }, { "x" }, { "8000 " } } do
      local r = run(ports)
      assert.equal(2, r.status)
      assert.matches("^deputy providers: %-%-ports: expected ports from 1 to 65535", r.stderr)
    end
    local r = run({ 1 }, "--for", "..")
    assert.equal(2, r.status)
    assert.equal('deputy providers: --for: ".." cannot be a name\n', r.stderr)
  end)
end)

-- What any server may say; the words come from replies, so nothing in them may matter.
describe("what a stranger answers", function()
  local function look(reply, more)
    local function fetch(urls)
      local out = {}
      for i, url in ipairs(urls) do
        out[i] = url:find("/v1/models", 1, true) and reply or more and more(url) or false
      end
      return out
    end
    return discover.look(fetch, { 8000 })
  end

  local function body(text) return { status = 200, body = text, server = "" } end

  it("is no crash and no server, whatever it is", function()
    for _, text in ipairs{
      "", "null", "[]", "7", '"x"', "{", ("["):rep(100000), ('{"a":'):rep(50000), '{"data": 7}', '{"data": "x"}',
      "\0\1\255", '{"object": {}, "version": []}', ("{}"):rep(1000),
    } do
      local found = look(body(text), function() return body(text) end)
      assert.equal(1, #found)
      assert.is_nil(found[1].kind, text:sub(1, 40))
      assert.same({}, discover.providers(found))
    end
  end)

  it("has only the models that can be models", function()
    local data = {}
    for _, id in ipairs{ 7, true, {}, "", ("x"):rep(513), "a\nb", "\255", "a\u{9b}2J", "good" } do
      data[#data + 1] = { id = id }
    end
    data[#data + 1] = 7
    data[#data + 1] = { id = "good" }
    local found = look(body(cjson.encode{ data = data }))
    assert.same({ "good" }, found[1].models)
    local many = {}
    for i = 1, 5000 do many[i] = { id = "m" .. i } end
    assert.equal(32, #look(body(cjson.encode{ data = many }))[1].models)
  end)

  it("is quoted, so that no name breaks out", function()
    local ids = { '"},{"name":"x', "a\\b/c", "</script>", "日本", "..", "-", ("n"):rep(512) }
    local data = {}
    for i, id in ipairs(ids) do data[i] = { id = id, owned_by = "vllm" } end
    local providers = discover.providers(look(body(cjson.encode{ data = data })))
    local text = '{"central": {"url": "http://c"},' .. discover.text(providers):sub(2)
    local settings, problems = config.parse(text)
    assert.is_table(settings, problems and problems[1] and problems[1].message)
    for i, id in ipairs(ids) do assert.equal(id, settings.providers[i].model) end
  end)

  it("says no version that is none", function()
    for _, version in ipairs{ 7, "", ("9"):rep(65), "1\n2", "1\u{85}2" } do
      local found = look(body(cjson.encode{ data = { { id = "m", owned_by = "vllm" } } }), function(url)
        return url:find("/version", 1, true) and body(cjson.encode{ version = version })
      end)
      assert.same({ kind = "vllm" }, { kind = found[1].kind, version = found[1].version })
    end
  end)
end)
