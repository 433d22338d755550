-- The page at / in a real browser: what it shows, in light and dark, live, by keyboard, with nothing from outside.
-- Screenshots go to the build directory, in page/.
local lfs = require "lfs"
local uv = require "luv"
local cjson = require "cjson"
local gateway = require "spec.support.gateway"
local npm = require "spec.support.npm"
local peers = require "spec.support.peers"
local shell = require "spec.support.shell"

local TOKEN = "tok-house-very-secret"
local LIVE_MS = 12000
local CONTRAST = 4.5
local SHOTS = (os.getenv("DEPUTY_BUILD") or "build") .. "/page"

local function browser()
  for _, name in ipairs{ "chromium", "chromium-browser", "google-chrome" } do
    local found = shell.run{ "sh", "-c", "command -v " .. name }
    if found.status == 0 then return found.stdout:match("%S+") end
  end
end

local function missing()
  return npm.missing() or not browser() and "no chromium: make clients installs it" or nil
end

local OUTAGE = { status = 503, headers = { ["Content-Type"] = "application/json" }, body = '{"error":"no capacity"}' }
local HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
local WORD = 'data: {"choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}]}\n\n'

describe("the page", function()
  if missing() then
    it("is shown by a browser", function() npm.skip(pending, missing()) end)
    return
  end

  local central, model, gw, driver

  local function chat(name, stream)
    local c = gw:open()
    c:send(require("spec.support.client").request{ path = "/v1/chat/completions", json = {
      model = name, stream = stream, messages = { { role = "user", content = "hi" } },
    } })
    local reply = c:read_reply()
    c:close()
    return reply
  end

  -- Asks the browser until it shows what check wants.
  local function wait_for(check)
    local seen
    local found = gateway.wait_until(function()
      seen = driver:ask("look")
      return check(seen)
    end, LIVE_MS)
    assert.is_truthy(found, cjson.encode(seen))
    return found, seen
  end

  local function row(seen, name)
    for _, cells in ipairs(seen.llms) do
      if cells[1] == name then return cells end
    end
  end

  local function run_of(seen, name)
    for _, run in ipairs(seen.runs) do
      if run.head:find(name, 1, true) == 1 then return run end
    end
  end

  local function says(text, word)
    assert.is_truthy(text:lower():find(word:lower(), 1, true), ("%s is not in: %s"):format(word, text))
  end

  setup(function()
    uv.fs_mkdir(SHOTS, 493)
    local llms = { claude = {}, opus = { inference = OUTAGE },
      sonnet = { inference = OUTAGE, probe = { status = 403 } },
      haiku = { inference = { { wait_ms = 40 }, { send = HEAD .. WORD }, { wait_ms = 60 }, { reset = true } } },
      ["<b>bold</b>"] = { inference = { { wait_ms = 120 }, OUTAGE }, probe = { { wait_ms = 60 }, { status = 204 } } } }
    central = peers.central{ llms = llms, tokens = { [TOKEN] = { view = { "*" }, run = { "*" } } } }
    model = peers.openai{ models = { "qwen3" } }
    gw = gateway.start{
      central = { url = central.url, bearerToken = TOKEN,
        inference = { ["chat/completions"] = "/api/v1/llms/{llm}/infer" } },
      providers = {
        { name = "local", type = "openai", url = model.url .. "/v1", model = "qwen3",
          failoverFor = { "claude", "opus", "sonnet", "haiku", "<b>bold</b>" } },
        { name = "gone", type = "openai", url = peers.refused(), model = "x", failoverFor = "orphan" },
      },
      policy = { settings = { retries = 0, breaker = { failures = 3, openMs = 60000 } } },
    }
    driver = npm.start("page", "http://" .. gw.address .. "/", browser(), SHOTS)
  end)
  teardown(function()
    npm.stop_all()
    gateway.stop_all()
    peers.stop_all()
  end)

  it("shows every LLM that has a stand-in, before anything has happened", function()
    local _, seen = wait_for(function(s) return #s.llms == 6 and s end)
    assert.same({ "en", "deputy" }, { seen.lang, seen.title })
    says(seen.where, gw.address)
    assert.is_true(#seen.columns >= 4)
    for _, name in ipairs{ "claude", "opus", "sonnet", "haiku", "orphan" } do
      says(table.concat(row(seen, name), " "), name == "orphan" and "gone" or "local")
    end
    assert.same({}, seen.notices)
  end)

  it("shows what happens, as it happens, without being loaded again", function()
    driver:ask("mark")
    assert.equal(200, chat("claude").status)
    local run, seen = wait_for(function(s) return run_of(s, "claude") end)
    says(run.head, "answered by the primary")
    assert.equal(1, #run.legs)
    assert.is_nil(run.legs[1].text:find("stream", 1, true))
    says(run.legs[1].text, "primary")
    assert.is_true(seen.same)
    says(row(seen, "claude")[2], "answered")
  end)

  it("shows a failover as a timeline: primary, probe, local", function()
    assert.equal("local", chat("<b>bold</b>").headers["x-deputy-via"])
    -- these are looked at in the tests that follow
    assert.equal(503, chat("sonnet").status)
    assert.is_false(chat("haiku", true).complete)
    for _ = 1, 4 do chat("opus") end
    local run = wait_for(function(s) return run_of(s, "<b>bold</b>") end)
    -- Escaped for the page alone.
    assert.is_truthy(gw:wait_log("llm=<b>bold</b>"))
    local data = gw:ask{ path = "/page.json" }.body
    assert.is_truthy(data:find("\\u003cb>bold", 1, true))
    assert.is_nil(data:find("<", 1, true))
    says(run.head, "local")
    assert.equal(3, #run.legs)
    for i, word in ipairs{ "primary", "probe", "local" } do
      says(run.legs[i].text, word)
      assert.is_true(run.legs[i].inside)
    end
    says(run.legs[1].text, "503")
    says(run.legs[2].text, "allowed")
    -- one after the other, and to scale: 120 of some 190 ms for the primary
    assert.is_true(run.legs[1].from < 0.01 and run.legs[2].from > 0.4 and run.legs[3].from > run.legs[2].from)
    says(run.legs[1].class, "failed")
  end)

  it("shows a refusal with its verdict", function()
    local run, seen = wait_for(function(s) return run_of(s, "sonnet") end)
    assert.equal(2, #run.legs)
    says(run.legs[2].text, "forbidden")
    says(run.head, "503")
    says(row(seen, "sonnet")[2], "503")
  end)

  it("shows a stream that was cut", function()
    local run = wait_for(function(s) return run_of(s, "haiku") end)
    says(run.head, "cut after it had begun")
    says(run.legs[1].text, "then cut")
  end)

  it("shows an open breaker", function()
    local _, seen = wait_for(function(s) return row(s, "opus")[3]:find("open", 1, true) and s end)
    says(row(seen, "claude")[3], "closed")
    assert.is_true(#seen.runs >= 8)
  end)

  it("shows which stand-ins are available", function()
    wait_for(function(s)
      local there, away = table.concat(row(s, "claude"), " "), table.concat(row(s, "orphan"), " ")
      return there:find("available", 1, true) and not there:find("not available", 1, true)
        and away:find("not available", 1, true)
    end)
  end)

  it("asks nobody but us, and complains of nothing", function()
    local seen = driver:ask("look")
    local here = "http://" .. gw.address .. "/"
    for _, address in ipairs(seen.asked) do
      assert.is_true(address == here or address == here .. "page.json", address)
    end
    assert.same({}, seen.complaints)
  end)

  it("is readable in light and dark, on a telephone too", function()
    local narrow = driver:ask("shot page")
    for _, name in ipairs{ "light", "dark", "narrow" } do
      assert.is_true(lfs.attributes(("%s/page-%s.png"):format(SHOTS, name), "size") > 5000)
    end
    assert.is_false(narrow.scrolls)
    local contrast = driver:ask("contrast")
    for _, tone in ipairs{ "light", "dark" } do
      assert.is_true(contrast[tone].ratio >= CONTRAST, ("%s: %.2f: %s"):format(tone, contrast[tone].ratio,
        contrast[tone].text))
    end
  end)

  it("can be read by keyboard", function()
    for _, one in ipairs(driver:ask("keys").reached) do
      assert.is_true(one.shows, one.tag .. " does not show the focus")
      assert.is_true(#one.name > 0, one.tag .. " has no name")
    end
  end)

  it("says so when nobody answers any more, and comes back by itself", function()
    gw:signal("sigstop")
    local ok, why = pcall(wait_for, function(s) return s.state:find("not reachable", 1, true) end)
    gw:signal("sigcont")
    assert.is_true(ok, why)
    wait_for(function(s) return s.state:find("live", 1, true) end)
  end)

  it("says that a reload went wrong", function()
    gw:write{ central = { url = "nonsense" } }
    gw:signal("sighup")
    says(wait_for(function(s) return s.notices[1] end), "reload")
  end)
end)
