-- GET /metrics: what Prometheus may read, by its own rules and by OpenTelemetry's conventions for gen_ai; and the
-- page's facts, which come from the same counts.
local uv = require "luv"
local cjson = require "cjson"
local gateway = require "spec.support.gateway"
local peers = require "spec.support.peers"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local OUTAGE = { status = 503, body = '{"error": {"message": "no capacity"}}' }
local central, model

local function start(changes)
  local config = {
    central = { url = central.url, bearerToken = "tok-house" },
    providers = {
      { name = "vllm-local", type = "openai", url = model.url .. "/v1", model = "qwen3", failoverFor = { "claude" } },
      { name = "off", type = "openai", url = peers.refused() .. "/v1", failoverFor = { "opus" } },
    },
    policy = { settings = { retries = 0, breaker = { failures = 2, openMs = 60000 } } },
  }
  for section, fields in pairs(changes or {}) do
    for name, value in pairs(fields) do
      config[section] = config[section] or {}
      config[section][name] = value
    end
  end
  return gateway.start(config)
end

local function metrics(gw) return gw:ask{ path = "/metrics" }.body end

-- The text format 0.0.4, strictly: { name = { type =, help =, samples = { { name =, labels = {}, value = } } } }.
local function read_labels(text, line)
  local labels, at = {}, 1
  while at <= #text do
    local name, rest = text:match("^([%a_][%w_]*)=\"()", at)
    assert(name, line)
    local value = {}
    at = rest
    while text:sub(at, at) ~= '"' do
      local char = text:sub(at, at)
      assert(char ~= "", line)
      if char == "\\" then
        at = at + 1
        char = assert(({ n = "\n", ['"'] = '"', ["\\"] = "\\" })[text:sub(at, at)], line)
      end
      value[#value + 1] = char
      at = at + 1
    end
    assert(not labels[name], line)
    labels[name] = table.concat(value)
    at = at + 1
    if at <= #text then
      assert(text:sub(at, at) == ",", line)
      at = at + 1
    end
  end
  return labels
end

local function family_of(families, name, line)
  local family = families[name]
  if not family then
    local base = name:gsub("_bucket$", ""):gsub("_sum$", ""):gsub("_count$", "")
    family = assert(families[base], line)
    assert(family.type == "histogram", line)
  end
  return family
end

local function parse(text)
  local families, last, seen = {}, nil, {}
  assert(text:sub(-1) == "\n" and utf8.len(text))
  for line in text:gmatch("([^\n]*)\n") do
    local name, help = line:match("^# HELP ([%a_][%w_]*) (.+)$")
    local typed, kind = line:match("^# TYPE ([%a_][%w_]*) (%a+)$")
    if name then
      assert(not families[name], line)
      families[name] = { name = name, help = help, samples = {} }
      last = families[name]
    elseif typed then
      assert(last and last.name == typed and not last.type and #last.samples == 0, line)
      assert(({ counter = true, gauge = true, histogram = true })[kind], line)
      last.type = kind
    else
      local metric, labels, value = line:match("^([%a_][%w_]*){(.*)} (%S+)$")
      if not metric then metric, value = line:match("^([%a_][%w_]*) (%S+)$") end
      assert(metric and tonumber(value), line)
      local family = family_of(families, metric, line)
      assert(family == last, line) -- all of one metric in one group
      local key = metric .. "{" .. (labels or "") .. "}"
      assert(not seen[key], line)
      seen[key] = true
      family.samples[#family.samples + 1] = { name = metric, labels = read_labels(labels or "", line),
        value = tonumber(value) }
    end
  end
  return families
end

local function key_of(labels)
  local list = {}
  for name, value in pairs(labels) do
    if name ~= "le" then list[#list + 1] = name .. "=" .. value end
  end
  table.sort(list)
  return table.concat(list, ",")
end

local function check_histogram(family)
  local last = {}
  for _, sample in ipairs(family.samples) do
    local key = key_of(sample.labels)
    if sample.name:find("_bucket$") then
      local le = sample.labels.le == "+Inf" and math.huge or assert(tonumber(sample.labels.le))
      local before = last[key] or { le = -1, value = 0 }
      assert.is_true(le > before.le and sample.value >= before.value, key)
      last[key] = { le = le, value = sample.value }
    elseif sample.name:find("_count$") then
      assert.same({ math.huge, sample.value }, { last[key].le, last[key].value })
    end
  end
end

local function value_of(families, name, labels)
  local wanted = key_of(labels or {})
  for _, family in pairs(families) do
    for _, sample in ipairs(family.samples) do
      if sample.name == name and key_of(sample.labels) == wanted then return sample.value end
    end
  end
end

before_each(function()
  local all = { view = { "*" }, run = { "*" } }
  central = peers.central{ llms = { claude = {}, opus = {} }, tokens = { ["tok-house"] = all } }
  model = peers.openai{ models = { "qwen3" } }
end)

after_each(function()
  gateway.stop_all()
  peers.stop_all()
end)

local function make_traffic(gw)
  gw:chat()
  gw:chat{ stream = true }
  gw:ask{ path = "/v1/embeddings", json = { model = "claude", input = "x" } }
  gw:ask{ path = "/v1/chat/completions", body = "nonsense", headers = { ["Content-Type"] = "application/json" } }
  central:set{ inference = OUTAGE }
  gw:chat()
  gw:chat{ model = "opus" }
  gw:chat{ model = 'un"known\\' }
  local raw = gw:open()
  raw:send("GET / HTTP/1.1\r\nHost : x\r\n\r\n")
  raw:read_reply()
  raw:close()
end

describe("the metrics", function()
  it("are what Prometheus reads", function()
    local gw = start()
    parse(metrics(gw)) -- before anything has happened, too
    make_traffic(gw)
    local text = metrics(gw)
    local families = parse(text)
    for name, family in pairs(families) do
      assert.is_truthy(family.type, name)
      assert.equal(family.type == "counter", name:find("_total$") ~= nil, name)
      if family.type == "histogram" then check_histogram(family) end
    end
    if shell.run{ "sh", "-c", "command -v promtool" }.status ~= 0 then return end -- in Debian's package prometheus
    local file = tmp.write(tmp.dir(), "metrics", text)
    local r = shell.run{ "sh", "-c", "promtool check metrics < " .. file }
    assert.same({ 0, "", "" }, { r.status, r.stdout, r.stderr })
  end)

  it("time runs and calls by the conventions for gen_ai", function()
    local gw = start()
    make_traffic(gw)
    local families = parse(metrics(gw))
    local function count(name, operation, provider, llm, error_type)
      return value_of(families, name .. "_seconds_count", { gen_ai_operation_name = operation,
        gen_ai_provider_name = provider, gen_ai_request_model = llm, error_type = error_type })
    end
    local run, first, call = "gen_ai_server_request_duration", "gen_ai_server_time_to_first_token",
      "gen_ai_client_operation_duration"
    assert.equal(2, count(run, "chat", "central", "claude"))
    assert.equal(1, count(run, "embeddings", "central", "claude"))
    assert.equal(1, count(run, "chat", "vllm-local", "claude"))
    assert.equal(1, count(run, "chat", "central", "opus", "503"))
    assert.equal(1, count(run, "chat", "central", "_other", "503"))
    assert.equal(1, count(first, "chat", "central", "claude"))
    assert.equal(1, count(call, "chat", "central", "claude", "503"))
    assert.equal(1, count(call, "chat", "vllm-local", "claude"))
    assert.equal(1, count(call, "chat", "off", "opus", "connect"))
  end)

  it("count refusals by status and reason", function()
    local gw = start()
    make_traffic(gw)
    local families = parse(metrics(gw))
    assert.equal(1, value_of(families, "deputy_http_refused_total", { reason = "bad_header_name", status = "400" }))
    assert.equal(0, value_of(families, "deputy_http_refused_total", { reason = "body_too_large", status = "413" }))
    assert.equal(1, value_of(families, "deputy_refused_total", { status = "400" }))
  end)

  it("bound what callers can make of them", function()
    local gw = start()
    for i = 1, 200 do gw:chat{ model = "made-up-" .. i } end
    local _, n = metrics(gw):gsub('="made%-up', "")
    assert.is_true(n <= 128 * 60, n)
    central:set{ inference = { status = 404, body = "{}" } }
    gw:chat{ model = "never-answered" }
    assert.is_nil(metrics(gw):find("never-answered", 1, true))
  end)

  it("count an LLM with a stand-in by itself, whatever names a central answers that takes any", function()
    central:set{ routes = { { "POST .*", { json = { choices = {} } } } } }
    local gw = start()
    for i = 1, 200 do assert.equal(200, gw:chat{ model = "made-up-" .. i }.status) end
    assert.equal(200, gw:chat().status)
    local text = metrics(gw)
    assert.is_truthy(text:find('deputy_requests_total{llm="claude"', 1, true))
    assert.is_truthy(text:find('deputy_requests_total{llm="made-up-64"', 1, true))
    assert.is_nil(text:find("made-up-65", 1, true))
  end)

  it("are what Prometheus reads, whatever LLMs and providers are called", function()
    local long, providers = ('"'):rep(128), { ("\\"):rep(127), "central", "_other" }
    central:set{ llms = { claude = {}, opus = {}, _other = {}, haiku = {}, [long] = {} } }
    local gw = start{ providers = {
      { name = providers[1], type = "openai", url = model.url .. "/v1", model = "qwen3", failoverFor = { long } },
      { name = providers[2], type = "openai", url = model.url .. "/v1", model = "qwen3", failoverFor = { "claude" } },
      { name = providers[3], type = "openai", url = model.url .. "/v1", model = "qwen3", failoverFor = { "opus" } } } }
    local llms = { "claude", "opus", "_other", "haiku", long }
    for _, llm in ipairs(llms) do assert.equal(200, gw:chat{ model = llm }.status) end
    central:set{ inference = OUTAGE }
    for _, llm in ipairs(llms) do gw:chat{ model = llm } end
    gw:chat{ model = "made-up" }
    local families = parse(metrics(gw))
    local count = "gen_ai_client_operation_duration_seconds_count"
    assert.equal(1, value_of(families, count, { gen_ai_operation_name = "chat", gen_ai_request_model = "claude",
      gen_ai_provider_name = "central (local)" }))
    assert.equal(1, value_of(families, count, { gen_ai_operation_name = "chat", gen_ai_request_model = long,
      gen_ai_provider_name = providers[1] }))
    for _, each in ipairs(gw:ask{ path = "/page.json" }.json.providers) do assert.equal(1, each.answered) end
  end)

  it("keep the script's counters over a reload", function()
    local dir = tmp.dir()
    local script = tmp.write(dir, "p.lua", [[
      local M = { should_failover = function() return false end, verdict = function() return "forbidden" end }
      function M.route(run) count("seen") return run:primary() end
      return M]])
    local gw = start{ policy = { script = script, settings = {} } }
    gw:chat()
    gw:signal("sighup")
    gw:wait_log("msg=reloaded")
    gw:chat()
    assert.equal(2, value_of(parse(metrics(gw)), "deputy_script_count_total", { name = "seen", worker = "0" }))
  end)
end)

describe("a breaker", function()
  local function states(gw, llm)
    local families, out = parse(metrics(gw)), {}
    for _, state in ipairs{ "closed", "half_open", "open" } do
      out[#out + 1] = value_of(families, "deputy_breaker_state", { llm = llm, state = state, worker = "0" })
    end
    return out, value_of(families, "deputy_breaker_until_timestamp_seconds", { llm = llm, worker = "0" })
  end

  it("is seen from outside: closed, open until when, half open", function()
    local gw = start{ policy = { settings = { retries = 0, breaker = { failures = 2, openMs = 400 } } } }
    central:set{ inference = OUTAGE }
    gw:chat()
    assert.same({ 1, 0, 0 }, (states(gw, "claude")))
    gw:chat()
    local open, at = states(gw, "claude")
    assert.same({ 0, 0, 1 }, open)
    assert.is_true(math.abs(at - os.time()) < 3)
    local page = gw:ask{ path = "/page.json" }.json
    assert.same({ "claude", "open", 0 }, { page.breakers[1].llm, page.breakers[1].state, page.breakers[1].worker })
    assert.is_truthy(gateway.wait_until(function() return states(gw, "claude")[2] == 1 end))
    central:set{ inference = false }
    gw:chat()
    assert.same({ 1, 0, 0 }, (states(gw, "claude")))
    assert.same({}, gw:ask{ path = "/page.json" }.json.breakers)
  end)
end)

describe("the breaker of an LLM with a stand-in", function()
  it("is seen however many names callers make up", function()
    local gw = start{ policy = { settings = { retries = 0, breaker = { failures = 1, openMs = 60000 } } } }
    central:set{ inference = OUTAGE }
    for i = 1, 140 do gw:chat{ model = "a" .. i } end
    gw:chat()
    local labels = { llm = "claude", state = "open", worker = "0" }
    assert.equal(1, value_of(parse(metrics(gw)), "deputy_breaker_state", labels))
    assert.equal("claude", gw:ask{ path = "/page.json" }.json.breakers[1].llm)
  end)
end)

describe("the page's facts", function()
  it("come from providers that take their time, however often they are asked for", function()
    local slow = peers.openai{ models_steps = { { wait_ms = 1500 }, { json = { data = { { id = "qwen3" } } } } } }
    local gw = start{ providers = { [2] = { name = "slow", type = "openai", url = slow.url .. "/v1" } } }
    local open, known = {}, nil
    for i = 1, 8 do
      open[i] = gw:open()
      open[i]:send("GET /page.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
      uv.sleep(550)
    end
    for _, each in ipairs(open) do
      local slow_one = cjson.decode(each:read_reply().body).providers[1]
      known = known or slow_one.name == "slow" and slow_one.available == true
      each:close()
    end
    assert.is_true(known)
  end)

  it("say which stand-in is available, and why one is not", function()
    local gw = start()
    local providers = gateway.wait_until(function()
      local list = gw:ask{ path = "/page.json" }.json.providers
      return list[1].available ~= nil and type(list[1].available) == "boolean" and list
    end)
    assert.same({ "off", false, "vllm-local", true },
      { providers[1].name, providers[1].available, providers[2].name, providers[2].available })
    assert.same({ { "opus" }, { "qwen3" } }, { providers[1].failoverFor, providers[2].models })
    assert.equal("string", type(providers[1].error))
    model:stop()
    assert.is_truthy(gateway.wait_until(function()
      return gw:ask{ path = "/page.json" }.json.providers[2].available == false
    end, 5000))
  end)

  it("come in time from providers that do not answer", function()
    local gw = start{ providers = { [2] = { name = "deaf", type = "openai", url = peers.blackhole() .. "/v1" } } }
    local r = gw:ask{ path = "/page.json" }
    assert.is_true(r.us == nil or r.us < 1500000)
    assert.is_not_true(r.json.providers[1].available)
  end)

  it("keep addresses from callers who are not on this machine, and survive one who leaves", function()
    local gw = start{ providers = { [2] = { name = "deaf", type = "openai", url = peers.blackhole() .. "/v1" } } }
    for _ = 1, 3 do
      local raw = gw:open()
      raw:send("GET /page.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
      raw:close()
    end
    assert.equal(200, gw:ask{ path = "/page.json" }.status)
  end)
end)
