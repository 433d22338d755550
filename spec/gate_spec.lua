-- The gate, counted where it matters: at a raw TCP listener in place of the local provider. Every policy here is one
-- that does not care what the central said, so that it is the gate alone which is tested.
local deputy = require "deputy"
local peers = require "spec.support.peers"

local TOKEN = "tok-alice"
local BODY = [[{"model":"claude","messages":[{"role":"user","content":"hello"}]}]]
local JSON = { ["Content-Type"] = "application/json" }
local DOWN = { status = 503, headers = JSON, body = '{"error":{"message":"down"}}' }

local central, self_signed, listener, thief

setup(function()
  central = peers.central{ llms = { claude = {}, opus = {} }, inference = DOWN }
  self_signed = peers.central{ llms = { claude = {} }, tokens = { [TOKEN] = { view = { "*" } } }, tls = "self_signed" }
  listener = peers.listener{ reply = { { close = true } } }
  thief = peers.listener{}
end)

teardown(peers.stop_all)

-- The probe's answer -> what the central sends. Whatever is not said: the token is one that may view everything.
local NOT_CLEAN = {
  { "an HTML 200", { status = 200, headers = { ["Content-Type"] = "text/html" }, body = "<html>hotel wifi</html>" } },
  { "an XHTML 200", { status = 200, headers = { ["Content-Type"] = "application/xhtml+xml; charset=x" } } },
  { "a 200 with two types", { status = 200,
    headers = { { "Content-Type", "text/html" }, { "Content-Type", "application/json" } } } },
  { "401", { status = 401 } },
  { "403", { status = 403 } },
  { "404", { status = 404 } },
  { "500", { status = 500 } },
  { "503", { status = 503 } },
  { "304", { status = 304 } },
  { "a redirect", { status = 302, thief = true } },
  { "a timeout", { { stall = true } }, probe_ms = 60 },
  { "a timeout after the status line", { { send = "HTTP/1.1 200 OK\r\n" }, { stall = true } }, probe_ms = 60 },
  { "a timeout after 103", { { send = "HTTP/1.1 103 Early Hints\r\n\r\n" }, { stall = true } }, probe_ms = 60 },
  { "a reset", { { reset = true } } },
  { "a reset in the head", { { send = "HTTP/1.1 200 OK\r\nContent-Le" }, { reset = true } } },
  { "a close in the head", { { send = "HTTP/1.1 200 OK\r\nContent-Type: a/b\r\n" }, { close = true } } },
  { "no answer", { { close = true } } },
  { "garbage", { { send = "\0\1\2 200 OK\r\n\r\n" }, { close = true } } },
  { "a word without HTTP", { { send = "200 OK" }, { close = true } } },
  { "status 200 of another protocol", { { send = "RTSP/1.0 200 OK\r\n\r\n" }, { close = true } } },
  { "status 2000", { { send = "HTTP/1.1 2000 OK\r\n\r\n" }, { close = true } } },
  { "status +20", { { send = "HTTP/1.1 +20 OK\r\n\r\n" }, { close = true } } },
  { "a header bomb", { { send = "HTTP/1.1 200 OK\r\n" }, { repeat_send = "X: " .. ("y"):rep(997) .. "\r\n" } } },
  { "two lengths", { { send = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n" },
    { close = true } } },
  { "an unknown token", "ok", token = "tok-mallory" },
  { "no permission", "ok", token = "tok-nobody" },
  { "no token", "ok", token = false },
  { "a refused connection", "ok", url = peers.refused },
  { "TLS that fails", "ok", url = function() return self_signed.url end },
}

local CLEAN = { { "200", { status = 200 } }, { "204", { status = 204 } }, { "299", { status = 299 } } }

local POLICIES = {
  { "ignores the verdict", "ignores_verdict" },
  { "never probes", "never_probes" },
  { "fails after the probe", "errs_after_probe" },
  { "loops after the probe", "loops_after_probe" },
  { "runs out of memory after the probe", "starves_after_probe" },
  { "has another policy loaded after the probe", "reloads_after_probe" },
  { "makes up probes of its own", "fakes_a_probe" },
}

local function path(name) return "spec/support/policies/" .. name .. ".lua" end

local function prepare(outcome)
  central:clear()
  listener:clear()
  thief:clear()
  local reply = outcome
  if type(outcome) == "table" and outcome.thief then
    reply = { status = outcome.status, headers = { Location = thief.url .. "/api/v1/llms/claude" } }
  end
  central:set{
    probe = reply,
    tokens = { [TOKEN] = { view = { "*" }, run = { "*" } }, ["tok-nobody"] = { view = {}, run = { "*" } } },
  }
end

local function router_for(policy, case, more)
  local registry = deputy.registry()
  registry:register(deputy.openai{ name = "local", url = listener.url .. "/v1", model = "qwen3" })
  registry:register_failover("claude", "local")
  local options = {
    central_url = case.url and case.url() or central.url, policy = path(policy), verify = "off",
    bearer_token = case.token ~= false and (case.token or TOKEN) or nil,
    timeouts = { probe_ms = case.probe_ms or 2000, first_byte_ms = 2000, total_ms = 5000 },
    limits = { policy_instructions = 30000, policy_run_bytes = 1 << 20 },
  }
  for key, value in pairs(more or {}) do options[key] = value end
  local router
  options.on_log = function(_, text)
    if text:find("reload", 1, true) then assert(router:load_policy(path("never_probes"))) end
  end
  router = deputy.router(registry, options)
  return router
end

-- The caller gets the primary's error, byte for byte, or (when there was none) its failure.
local function assert_primary_error(case, reply, failure, error_reply)
  assert.is_nil(reply)
  if case.url then
    assert.is_true(failure.kind == "connect" or failure.kind == "tls")
    assert.is_nil(error_reply)
  elseif case.token == false or case.token == "tok-mallory" then
    assert.is_true(failure.status == 401 or failure.status == 503)
  else
    assert.equal(503, failure.status)
    assert.equal(DOWN.body, error_reply.body)
  end
end

describe("no byte reaches the local provider", function()
  for _, policy in ipairs(POLICIES) do
    for _, case in ipairs(NOT_CLEAN) do
      it(("when the probe is %s and the policy %s"):format(case[1], policy[1]), function()
        prepare(case[2])
        local router <close> = router_for(policy[2], case)
        local reply, failure, error_reply = router:complete{ llm = "claude", body = BODY }
        assert.equal(0, listener:connections())
        assert.equal(0, listener:bytes())
        assert.equal(0, thief:connections())
        assert_primary_error(case, reply, failure, error_reply)
      end)
    end
  end
end)

describe("after a clean 2xx", function()
  for _, clean in ipairs(CLEAN) do
    it("of " .. clean[1] .. " it does, once, without the caller's token", function()
      prepare(clean[2])
      local router <close> = router_for("ignores_verdict", {})
      local reply, failure = router:complete{ llm = "claude", body = BODY }
      assert.is_nil(reply) -- the listener hangs up
      assert.equal(503, failure.status)
      assert.equal(1, listener:connections())
      assert.is_true(listener:saw('"model":"qwen3"'))
      assert.is_false(listener:saw(TOKEN))
      local probes = central:requests("HEAD")
      assert.equal(1, #probes)
      assert.equal("/api/v1/llms/claude", probes[1].target)
      assert.equal("Bearer " .. TOKEN, probes[1].headers.authorization)
    end)
  end

  it("but only then: a policy that never probes gets nothing from a central that would allow", function()
    prepare("ok")
    local router <close> = router_for("never_probes", {})
    router:complete{ llm = "claude", body = BODY }
    assert.equal(0, listener:connections())
    assert.equal(0, central:count("HEAD"))
  end)

  it("one permit is one dispatch", function()
    prepare("ok")
    local router <close> = router_for("dispatches_twice", {})
    router:complete{ llm = "claude", body = BODY }
    assert.equal(1, listener:connections())
    assert.equal(1, central:count("HEAD"))
  end)

  it("a permit is of its run alone", function()
    prepare{ each = { { status = 204 }, { status = 403 } } }
    local router <close> = router_for("lends_its_probe", {})
    router:complete{ llm = "claude", body = BODY }
    local reply, failure = router:complete{ llm = "claude", body = BODY }
    assert.is_nil(reply)
    assert.equal(503, failure.status)
    assert.equal(0, listener:connections())
  end)

  it("a permit is of its LLM alone", function()
    prepare("ok")
    central:revoke(TOKEN, "*")
    central:grant(TOKEN, "opus")
    local router <close> = router_for("asks_about_another", {}, { settings = { other = "opus" } })
    router:complete{ llm = "claude", body = BODY }
    assert.equal(1, central:count("HEAD", "/opus$"))
    assert.equal(0, listener:connections())
  end)

  it("a permit is of its caller alone", function()
    prepare("ok")
    local router <close> = router_for("lends_its_probe", {})
    router:complete{ llm = "claude", body = BODY, bearer_token = TOKEN }
    router:complete{ llm = "claude", body = BODY, bearer_token = "tok-mallory" }
    assert.equal(0, listener:connections())
    assert.equal(1, central:count("HEAD"))
  end)

  it("a permit grows old", function()
    prepare("ok")
    local router <close> = router_for("sleeps_on_permit", {}, { permit_ms = 40, settings = { sleepMs = 80 } })
    local _, failure = router:complete{ llm = "claude", body = BODY }
    assert.equal(0, listener:connections())
    assert.equal(503, failure.status)
    local patient <close> = router_for("sleeps_on_permit", {}, { permit_ms = 2000, settings = { sleepMs = 80 } })
    patient:complete{ llm = "claude", body = BODY }
    assert.equal(1, listener:connections())
  end)

  for _, case in ipairs(NOT_CLEAN) do
    if not case.url and case.token == nil then
      it("a newer answer takes it away: " .. case[1], function()
        prepare(nil)
        local second = case[2].thief and { status = 302, headers = { Location = thief.url } } or case[2]
        central:set{ probe = { each = { { status = 204 }, second } } }
        local router <close> = router_for("probes_again", case)
        router:complete{ llm = "claude", body = BODY }
        assert.equal(2, central:count("HEAD"))
        assert.equal(0, listener:connections())
        assert.equal(0, thief:connections())
      end)
    end
  end

  it("the permission that was revoked meanwhile counts: the next run is stopped", function()
    prepare("ok")
    local router <close> = router_for("ignores_verdict", {})
    router:complete{ llm = "claude", body = BODY }
    assert.equal(1, listener:connections())
    central:revoke(TOKEN, "*")
    router:complete{ llm = "claude", body = BODY }
    router:complete{ llm = "claude", body = BODY }
    assert.equal(1, listener:connections())
    assert.equal(3, central:count("HEAD"))
  end)
end)

describe("the gate's word", function()
  it("is in the trace and in the log, with the name of the switch", function()
    prepare{ status = 403 }
    local lines = {}
    local registry = deputy.registry()
    registry:register(deputy.openai{ name = "local", url = listener.url .. "/v1" })
    registry:register_failover("claude", "local")
    local router <close> = deputy.router(registry, {
      central_url = central.url, bearer_token = TOKEN, policy = path("ignores_verdict"), verify = "off",
      on_log = function(level, text) lines[#lines + 1] = level .. " " .. text end,
    })
    local _, _, reply = router:complete{ llm = "claude", body = BODY }
    local kinds = {}
    for i, leg in ipairs(reply.trace) do kinds[i] = leg.leg .. ":" .. leg.kind end
    assert.same({ "primary:status", "probe:ok", "policy:gate_refused" }, kinds)
    assert.equal("forbidden", reply.trace[2].verdict)
    local text = table.concat(lines, "\n")
    assert.truthy(text:find("warn .*withheld.*\"gate\": \"policy\""))
    assert.is_nil(text:find(TOKEN, 1, true))
  end)

  it("is not asked when the host leaves it to the policy", function()
    prepare{ status = 403 }
    local router <close> = router_for("never_probes", {}, { gate = "policy" })
    router:complete{ llm = "claude", body = BODY }
    assert.is_true(listener:bytes() > 0)
    assert.is_false(listener:saw(TOKEN))
  end)

  it("is the stricter one in check_auth", function()
    prepare{ status = 403 }
    local router <close> = router_for("ignores_verdict", {})
    assert.equal("forbidden", router:check_auth("claude"))
    prepare{ status = 500 }
    assert.equal("unreachable", router:check_auth("claude"))
    prepare{ status = 204 }
    assert.equal("allowed", router:check_auth("claude"))
  end)
end)
