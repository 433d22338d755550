-- Model servers that already run on this machine: what each is, which models it has, and configuration for them.
--
--   local discover = require "deputy.discover"
--   discover.ports                       { 8000, ... } where such servers usually listen
--   discover.look(fetch, ports)          asks all of them at once; an array of servers, by port
--   discover.providers(servers, llm)     entries for `providers`; llm (may be nil) is what they shall stand in for
--   discover({ "--json", "--ports=1,2", "--for=LLM" }, host)    the command; host.fetch; returns the exit code
--
-- fetch(urls, ms, max) answers all urls within ms milliseconds; an array of { status =, body =, server = }, of {} where
-- somebody listens and gave no whole reply of at most max bytes, or of false.
-- A server is { port =, kind = "vllm", title = "vLLM", version =, models = { "name", ... }, guarded =, loading = }.
-- kind is nil for one that speaks HTTP but is no model server as far as we can tell. guarded: it wants a key first.
-- silent: it listens, but gave no usable answer in time.
--
-- What a server says is believed as little as possible: it may be anything that happens to listen on such a port.
local cjson = require "cjson"
local config = require "deputy.config"

local discover = {}

local FIRST_MS, MORE_MS = 1500, 2000
local MODELS_BYTES, MORE_BYTES = 1024 * 1024, 128 * 1024
local MAX_MODELS, MAX_NAME_BYTES, MAX_PORTS = 32, 512, 32

-- vLLM, llama-server and LocalAI, LM Studio, llama-server of late 2025 on, Ollama, SGLang.
discover.ports = { 1234, 8000, 8080, 9931, 11434, 30000 }

local decoder = cjson.new()
decoder.decode_max_depth(32)

-- ---- reading what came ----------------------------------------------------------------------------------------------

local function ok(reply) return reply and reply.status and reply.status >= 200 and reply.status < 300 end

-- The object in a good reply, or an empty one.
local function object(reply)
  if not ok(reply) then return {} end
  local decoded, value = pcall(decoder.decode, reply.body)
  return decoded and type(value) == "table" and value or {}
end

-- U+0080 to U+009F are control characters as well: to a terminal, U+009B is ESC [.
local function printable(value)
  return type(value) == "string" and value ~= "" and #value <= MAX_NAME_BYTES and utf8.len(value) ~= nil
    and not value:find("%c") and not value:find("\xc2[\x80-\x9f]")
end

local function list(value) return type(value) == "table" and value or {} end

local function field(value, name)
  if type(value) == "table" then return value[name] end
end

local function owned_by(replies, owner)
  for _, each in ipairs(list(object(replies["/v1/models"]).data)) do
    if field(each, "owned_by") == owner then return true end
  end
  return false
end

local function short(value)
  return printable(value) and #value <= 64 and value or nil
end

local function version_at(path)
  return function(replies) return short(object(replies[path]).version) end
end

-- ---- telling them apart ---------------------------------------------------------------------------------------------

-- In this order: some of them also answer what another is known by. Each says by itself what it is.
local kinds = {
  {
    kind = "localai", title = "LocalAI", version = version_at "/.well-known/localai.json",
    is = function(replies)
      local system = object(replies["/system"])
      return field(object(replies["/.well-known/localai.json"]).endpoints, "chat_completions") ~= nil
        or type(system.backends) == "table" and system.loaded_models ~= nil
    end,
  },
  {
    kind = "lm-studio", title = "LM Studio", version = function() end,
    is = function(replies)
      local known = object(replies["/api/v0/models"])
      local first = list(known.data)[1]
      return known.object == "list" and type(known.data) == "table"
        and (first == nil or field(first, "compatibility_type") ~= nil)
    end,
  },
  {
    kind = "llama-server", title = "llama-server",
    version = function(replies) return short(object(replies["/props"]).build_info) end,
    is = function(replies)
      return object(replies["/props"]).default_generation_settings ~= nil or owned_by(replies, "llamacpp")
        or (replies["/v1/models"].server or ""):find("^llama%.cpp") ~= nil
    end,
  },
  {
    kind = "sglang", title = "SGLang", version = function() end,
    is = function(replies)
      local info = object(replies["/get_model_info"])
      return type(info.model_path) == "string" and info.is_generation ~= nil or owned_by(replies, "sglang")
    end,
  },
  {
    kind = "vllm", title = "vLLM", version = version_at "/version",
    is = function(replies)
      local status = replies["/v1/models"].status
      return owned_by(replies, "vllm") or (status == 401 and type(object(replies["/version"]).version) == "string")
    end,
  },
  { kind = "ollama", title = "Ollama", version = version_at "/api/version",
    is = function(replies) return type(object(replies["/api/version"]).version) == "string" end },
  { kind = "openai", title = "OpenAI-compatible server", version = function() end,
    is = function(replies) return type(object(replies["/v1/models"]).data) == "table" end },
}

local MORE = {
  "/.well-known/localai.json", "/system", "/api/v0/models", "/props", "/get_model_info", "/version", "/api/version",
}

-- What LM Studio says of each of its models: those for embeddings answer no chat, and a loaded one answers first.
local function ranks_of(replies)
  local ranks = {}
  for _, each in ipairs(list(object(replies["/api/v0/models"]).data)) do
    local id = field(each, "id")
    if type(id) == "string" then
      ranks[id] = each.type == "embeddings" and math.huge or each.state == "loaded" and 0 or 1
    end
  end
  return ranks
end

local function models_of(replies)
  local ranks, found, seen = ranks_of(replies), {}, {}
  for _, each in ipairs(list(object(replies["/v1/models"]).data)) do
    local id = field(each, "id")
    if printable(id) and not seen[id] and ranks[id] ~= math.huge and #found < MAX_MODELS then
      seen[id] = true
      found[#found + 1] = { id = id, at = #found, rank = ranks[id] or 0 }
    end
  end
  table.sort(found, function(a, b)
    if a.rank ~= b.rank then return a.rank < b.rank end
    return a.at < b.at
  end)
  local models = {}
  for i, each in ipairs(found) do models[i] = each.id end
  return models
end

-- replies: from paths to what fetch gave; "/v1/models" is among them.
function discover.identify(port, replies)
  local status = replies["/v1/models"].status
  local server = {
    port = port, models = models_of(replies), guarded = status == 401 or status == 403, loading = status == 503,
  }
  for _, each in ipairs(kinds) do
    if each.is(replies) then
      server.kind, server.title, server.version = each.kind, each.title, each.version(replies)
      break
    end
  end
  return server
end

-- ---- looking --------------------------------------------------------------------------------------------------------

local function url(port, path) return ("http://127.0.0.1:%d%s"):format(port, path) end

-- Nothing that answers like this is asked further: it is somebody else's.
local function is_candidate(reply)
  return ok(reply) or reply.status == 401 or reply.status == 403 or reply.status == 503
end

function discover.look(fetch, ports)
  local urls, servers, asked, candidates = {}, {}, {}, {}
  for i, port in ipairs(ports) do urls[i] = url(port, "/v1/models") end
  for i, reply in ipairs(fetch(urls, FIRST_MS, MODELS_BYTES)) do
    if reply and is_candidate(reply) then
      local replies = { ["/v1/models"] = reply }
      candidates[#candidates + 1] = { port = ports[i], replies = replies }
      for _, path in ipairs(MORE) do
        asked[#asked + 1] = { url = url(ports[i], path), path = path, replies = replies }
      end
    elseif reply then
      servers[#servers + 1] = { port = ports[i], models = {}, silent = not reply.status or nil }
    end
  end
  urls = {}
  for i, each in ipairs(asked) do urls[i] = each.url end
  for i, reply in ipairs(fetch(urls, MORE_MS, MORE_BYTES)) do asked[i].replies[asked[i].path] = reply end
  for _, each in ipairs(candidates) do servers[#servers + 1] = discover.identify(each.port, each.replies) end
  table.sort(servers, function(a, b) return a.port < b.port end)
  return servers
end

-- ---- as configuration -----------------------------------------------------------------------------------------------

-- cjson escapes slashes, which is allowed and ugly; each of them has its own backslash.
local function quote(value) return (cjson.encode(value):gsub("\\/", "/")) end

local function entry_text(entry)
  local parts = {}
  for _, key in ipairs{ "name", "type", "url", "model", "failoverFor" } do
    if entry[key] then parts[#parts + 1] = ("%s: %s"):format(quote(key), quote(entry[key])) end
  end
  return "{ " .. table.concat(parts, ", ") .. " }"
end

-- The text of a configuration's `providers`, alone in an object.
function discover.text(providers)
  local lines = {}
  for i, each in ipairs(providers) do lines[i] = "    " .. entry_text(each) end
  if #lines == 0 then return '{\n  "providers": []\n}\n' end
  return '{\n  "providers": [\n' .. table.concat(lines, ",\n") .. "\n  ]\n}\n"
end

-- Nil, or the first thing that deputy would not take.
local function refusal(providers)
  local text = '{"central": {"url": "http://127.0.0.1"},' .. discover.text(providers):sub(2)
  local settings, problems = config.parse(text)
  return not settings and problems[1].message or nil
end

local function unused(name, used)
  local candidate, n = name, 1
  while used[candidate] do
    n = n + 1
    candidate = name .. "-" .. n
  end
  used[candidate] = true
  return candidate
end

local function name_of(server, model)
  if #server.models == 1 then return server.kind end
  local word = model:match("([^/]+)/*$") or model
  word = word:gsub("[^%w._-]+", "-"):gsub("^[-.]+", ""):gsub("%-+$", ""):sub(1, 64)
  return word ~= "" and server.kind .. "-" .. word or server.kind
end

-- One for each model, because a request's own model is the central's, which a local server does not know.
function discover.providers(servers, llm)
  local providers, used = {}, {}
  for _, server in ipairs(servers) do
    for _, model in ipairs(server.kind and not server.guarded and server.models or {}) do
      local entry = {
        name = unused(name_of(server, model), used), type = "openai", url = url(server.port, "/v1"), model = model,
        failoverFor = llm,
      }
      if not refusal{ entry } then providers[#providers + 1] = entry end
    end
  end
  return providers
end

-- ---- the command ----------------------------------------------------------------------------------------------------

local function describe(server)
  local where = ("127.0.0.1:%d"):format(server.port)
  if server.silent then return where .. "  listens, but gave no usable answer in time" end
  if not server.kind then return where .. "  answers, but is no model server that deputy knows" end
  local what = server.title .. (server.version and " " .. server.version or "")
  if server.guarded then
    return ("%s  %s, wants a key: put it into a file and name that in apiKeyFile"):format(where, what)
  end
  if #server.models == 0 then
    return ("%s  %s, %s"):format(where, what, server.loading and "still loading its model" or "has no model")
  end
  return ("%s  %s: %s"):format(where, what, table.concat(server.models, ", "))
end

local function say(...) io.stderr:write(table.concat{ ... }, "\n") end

local function read_ports(text)
  local ports, seen = {}, {}
  for word in text:gmatch("[^,]*") do
    local port = word:find("^%d%d?%d?%d?%d?$") and math.tointeger(tonumber(word))
    if not port or port < 1 or port > 65535 then return nil end
    if not seen[port] then ports[#ports + 1] = port end
    seen[port] = true
  end
  return #ports <= MAX_PORTS and ports or nil
end

local function print_json(servers, providers)
  local found = {}
  for i, server in ipairs(servers) do
    local models = {}
    for k, model in ipairs(server.models) do models[k] = quote(model) end
    found[i] = ('{"port":%d,"kind":%s,"version":%s,"guarded":%s,"loading":%s,"models":[%s]}'):format(server.port,
      server.kind and quote(server.kind) or "null", server.version and quote(server.version) or "null",
      tostring(server.guarded or false), tostring(server.loading or false), table.concat(models, ","))
  end
  local entries = {}
  for i, each in ipairs(providers) do entries[i] = entry_text(each) end
  io.write('{"servers":[', table.concat(found, ","), '],"providers":[', table.concat(entries, ","), "]}\n")
end

local function explain(servers, providers, ports, llm)
  for _, server in ipairs(servers) do say(describe(server)) end
  if #servers == 0 then say("nothing answers on 127.0.0.1 at ports ", table.concat(ports, ", ")) end
  if #providers > 0 and not llm then
    say("Add failoverFor to those that shall stand in for an LLM of the central, or ask again with --for LLM.")
  end
end

local function usage(...)
  say("deputy providers: ", ...)
  return 2
end

local function run(_, arguments, host)
  local given = {}
  for _, argument in ipairs(arguments) do
    local name, value = argument:match("^%-%-(%w+)=?(.*)$")
    given[name] = value
  end
  local llm = given["for"]
  local ports = not given.ports and discover.ports or read_ports(given.ports)
  if not ports then
    return usage("--ports: expected ports from 1 to 65535, as in 8000,8080, at most ", MAX_PORTS, " of them")
  end
  local wrong = llm and refusal{ { name = "a", type = "echo", failoverFor = llm } }
  if wrong then return usage("--for: ", wrong) end
  local servers = discover.look(host.fetch, ports)
  local providers = discover.providers(servers, llm)
  if given.json then
    print_json(servers, providers)
  else
    explain(servers, providers, ports, llm)
    io.write(discover.text(providers))
  end
  return 0
end

return setmetatable(discover, { __call = run })
