-- deputy verify, as a script or a person uses it. What it finds is the business of verify_spec.lua.
local cjson = require "cjson"
local lfs = require "lfs"
local uv = require "luv"
local shell = require "spec.support.shell"
local tmp = require "spec.support.tmp"

local BUILD = assert(uv.fs_realpath(os.getenv("DEPUTY_BUILD") or "build"))
local LUA = lfs.currentdir() .. "/lua"

local HEAD = [[
local M = {}
function M.should_failover(failure)
  return failure.kind == "connect" or failure.kind == "dns" or failure.kind == "timeout"
end
function M.verdict(probe)
  if probe.kind ~= "ok" or probe.content_type == "text/html" then return "unreachable" end
  if probe.status == 401 or probe.status == 403 then return "forbidden" end
  return (probe.status == 200 or probe.status == 204) and "allowed" or "unreachable"
end
]]

-- Fails closed; PROBED stands where the probe is looked at.
local function policy(probed)
  return HEAD .. ([[
function M.route(run)
  local reply, failure = run:primary()
  if reply then return reply end
  if not M.should_failover(failure) then return nil, failure end
  local provider = run:failover()
  if not provider then return nil, failure end
  PROBED
  local answer = run:complete(provider)
  if answer then return answer end
  return nil, failure
end
return M
]]):gsub("PROBED", probed or 'if M.verdict(run:probe()) ~= "allowed" then return nil, failure end')
end

local GOOD = policy()
local PROBE_IGNORED = policy "run:probe()"

-- Remembers an allowed answer for a second and says so: right behind "gate": "policy" alone.
local CACHED = (policy([[
  local key = (run.caller or "nobody") .. " " .. run.llm
  local fresh = run.caller and allowed_at[key] and now() - allowed_at[key] < settings.keepMs / 1000
  if not fresh then
    allowed_at[key] = nil
    local began = now()
    if M.verdict(run:probe()) ~= "allowed" then return nil, failure end
    if run.caller then allowed_at[key] = began end
  end]]):gsub("^local M = {}\n", "local M = { cache_allow_ms = settings.keepMs }\nlocal allowed_at = {}\n"))

describe("deputy verify", function()
  local dir

  before_each(function() dir = tmp.dir() end)
  after_each(function() tmp.remove(dir) end)

  local function verify(...)
    local command = { BUILD .. "/deputy", "verify", ... }
    command.cwd, command.timeout_ms = dir, 60000
    command.env = { DEPUTY_LUA = LUA, HOME = dir, XDG_CONFIG_HOME = dir .. "/xdg", LUA_PATH = false,
      LUA_PATH_5_4 = false }
    local r = shell.run(command)
    assert.is_false(r.timed_out, "timed out")
    assert.is_nil(r.signal)
    return r
  end

  local function write(name, text) return tmp.write(dir, name, text) end

  it("tells the first requests alone, and with -v what becomes of later ones", function()
    local brief, long = verify("--depth", "2"), verify("--depth", "2", "-v")
    assert.same({ 0, 0 }, { brief.status, long.status })
    assert.is_true(#brief.stdout < #long.stdout)
    assert.is_nil(brief.stdout:find("otherwise after:", 1, true))
    assert.is_truthy(brief.stdout:find("deputy verify -v", 1, true))
    assert.is_truthy(long.stdout:find("The next request is decided otherwise after:", 1, true))
  end)

  it("exits 0 for a policy that fails closed, and says within which bounds", function()
    write("good.lua", GOOD)
    local r = verify("good.lua", "--depth", "2")
    assert.same({ 0, "" }, { r.status, r.stderr })
    assert.matches("^good%.lua: fail%-closed\nbounded: [%d,]+ worlds, depth 2[^%d].-%d%.%d%d s%)?\n", r.stdout)
    assert.matches("What the caller gets, by what happens:", r.stdout, 1, true)
    assert.matches("local reply", r.stdout, 1, true)
  end)

  it("fits 80 columns", function()
    write("good.lua", GOOD)
    write("bad.lua", PROBE_IGNORED)
    for _, name in ipairs{ "good.lua", "bad.lua", LUA .. "/router.lua" } do
      for line in verify(name, "--depth", "2").stdout:gmatch("[^\n]+") do
        assert.is_true(#line <= 80 or line:find(LUA, 1, true) == 1, line)
      end
    end
  end)

  it("exits 1 for one that does not, with the shortest sequence that shows it", function()
    write("bad.lua", PROBE_IGNORED)
    local r = verify("bad.lua", "--depth", "1")
    assert.same({ 1, "" }, { r.status, r.stderr })
    assert.matches("^bad%.lua: NOT fail%-closed: %d+ findings?\n", r.stdout)
    local text = r.stdout:match("\n1%. unpermitted: (.-)\n\n")
    assert.is_not_nil(text, r.stdout)
    assert.matches("a local provider is used without a clean 2xx of the same run", text, 1, true)
    -- one request, and in it no more than it takes: the primary fails, somebody may stand in, the probe says no
    local steps = {}
    for step in text:gmatch("\n   %- ([^\n]+)") do steps[#steps + 1] = step end
    assert.equal(1, #steps)
    local points = {}
    for point in steps[1]:gmatch("([%a%-]+): ") do points[#points + 1] = point end
    assert.same({ "primary", "stand-ins", "probe" }, points)
  end)

  it("exits 1 for what is no policy, with file and line", function()
    write("broken.lua", "local M = {}\nfunction M.route(run)\n")
    local r = verify("broken.lua")
    assert.same({ 1, "" }, { r.status, r.stderr })
    assert.matches("broken.lua:3: 'end' expected (to close 'function' at line 2)", r.stdout:gsub("%s+", " "), 1, true)

    write("half.lua", "return { route = function(run) return run:primary() end }")
    r = verify("half.lua")
    assert.equal(1, r.status)
    assert.matches("should_failover", r.stdout .. r.stderr)
  end)

  it("exits 1 for a file that is not there, and prints nothing else", function()
    local r = verify("nowhere.lua")
    assert.same({ 1, "" }, { r.status, r.stdout })
    assert.matches("^deputy verify: cannot read the policy nowhere%.lua: no such file[^\n]*\n$", r.stderr)
  end)

  it("exits 2 for arguments that it does not take", function()
    write("good.lua", GOOD)
    local cases = {
      { { "--depth", "0" }, "--depth: expected a whole number from 1 to 6, got '0'" },
      { { "--depth", "7" }, "--depth: expected a whole number from 1 to 6, got '7'" },
      { { "--depth", "two" }, "--depth: expected a whole number from 1 to 6, got 'two'" },
      { { "--depth" }, "option '--depth' needs a value" },
      { { "--timeout-ms", "0" }, "--timeout-ms: expected a whole number" },
      { { "--json", "--markdown" }, "--json and --markdown do not go together" },
      { { "--jsn" }, "unknown option '--jsn': did you mean '--json'?" },
      { { "other.lua" }, "unexpected argument" },
    }
    for _, case in ipairs(cases) do
      local r = verify("good.lua", table.unpack(case[1]))
      assert.same({ 2, "" }, { r.status, r.stdout }, case[2])
      assert.matches(case[2], r.stderr, 1, true)
      assert.matches("Try 'deputy verify --help'.", r.stderr, 1, true)
    end
  end)

  it("--json prints one object", function()
    write("good.lua", GOOD)
    local r = verify("good.lua", "--json", "--depth", "1")
    assert.same({ 0, "" }, { r.status, r.stderr })
    local report = cjson.decode(r.stdout)
    assert.same({ "good.lua", true, true, "probe", 1, 0 },
      { report.script, report.fail_closed, report.complete, report.gate, report.depth, #report.findings })
    assert.matches("^bounded: ", report.about)
    assert.is_true(report.worlds >= 1 and report.seconds >= 0 and #report.table > 0)
    for _, row in ipairs(report.table) do
      assert.is_string(row.result)
      for _, cell in ipairs(row.when) do assert.is_true(type(cell.point) == "string" and #cell.is > 0) end
    end

    write("bad.lua", PROBE_IGNORED)
    r = verify("bad.lua", "--json", "--depth", "1")
    assert.equal(1, r.status)
    report = cjson.decode(r.stdout)
    assert.is_false(report.fail_closed)
    assert.equal("unpermitted", report.findings[1].kind)
    assert.equal(1, #report.findings[1].sequence)

    -- what a script says, and its name, cannot break out of the report
    write('a"b\\c.lua', "error('\"\\\\\\n\\0\\xff')")
    report = cjson.decode(verify('a"b\\c.lua', "--json").stdout)
    assert.equal('a"b\\c.lua', report.script)
    assert.equal("load", report.findings[1].kind)
  end)

  it("--markdown prints a page", function()
    write("good.lua", GOOD)
    local r = verify("good.lua", "--markdown", "--depth", "1")
    assert.equal(0, r.status)
    assert.matches("^# good%.lua: fail%-closed\n", r.stdout)
    local rule = r.stdout:match("\n|[^\n]+|\n(|[%-|]+|)\n")
    assert.is_not_nil(rule)
    local _, columns = rule:gsub("%-%-%-", "")
    for row in r.stdout:gmatch("\n(|[^\n]+|)") do
      local _, bars = row:gsub("|", "")
      assert.equal(columns + 1, bars, row)
    end
    write("bad.lua", PROBE_IGNORED)
    r = verify("bad.lua", "--markdown", "--depth", "1")
    assert.equal(1, r.status)
    assert.matches("\n## unpermitted: .*\n1%. primary: ", r.stdout)
  end)

  it("finds what takes two requests at depth 2 only", function()
    write("later.lua", (policy([[if before and M.verdict(run:probe()) ~= "allowed" then return nil, failure end
  if not before then
    before = true
    return nil, failure
  end
  run:complete(provider)]]):gsub("^local M = {}\n", "local M = {}\nlocal before = false\n")))
    assert.equal(0, verify("later.lua", "--depth", "1").status)
    local r = verify("later.lua", "--depth", "2")
    assert.equal(1, r.status)
    assert.matches("\n   %- request 1: .-\n   %- request 2: ", r.stdout)
  end)

  it("-c takes the settings and the gate of that configuration", function()
    local function configure(name, changes)
      write(name, cjson.encode{ central = { url = "http://127.0.0.1:1" }, policy = changes })
    end
    write("cached.lua", CACHED)
    configure("trusting.json", { script = "cached.lua", gate = "policy", settings = { keepMs = 1000 } })
    local r = verify("-c", "trusting.json", "--depth", "2")
    assert.equal(0, r.status, r.stdout .. r.stderr)
    assert.matches("an allowed answer for at most 1000 ms (cache_allow_ms)", r.stdout:gsub("%s+", " "), 1, true)
    local report = cjson.decode(verify("-c", "trusting.json", "--depth", "2", "--json").stdout)
    assert.same({ "policy", 1000 }, { report.gate, report.cache_allow_ms })
    assert.is_true(report.revocation_lag_ms <= 1000)

    configure("gated.json", { script = "cached.lua", settings = { keepMs = 1000 } })
    r = verify("-c", "gated.json", "--depth", "2")
    assert.equal(1, r.status)
    assert.matches("unpermitted", r.stdout)

    local pause = "if run.deadline - now() > 10 then run:sleep(6000) end\n  "
    write("sleeps.lua", (GOOD:gsub("local answer", pause .. "%0")))
    configure("patient.json", { script = "sleeps.lua", permitMs = 7000 })
    configure("hasty.json", { script = "sleeps.lua" })
    assert.same({ 0, 1 }, { verify("-c", "patient.json").status, verify("-c", "hasty.json").status })

    -- SCRIPT stands before the configuration's own
    write("good.lua", GOOD)
    r = verify("-c", "gated.json", "good.lua", "--depth", "1")
    assert.equal(0, r.status, r.stdout .. r.stderr)
    assert.matches("^good%.lua: fail%-closed\n", r.stdout)

    configure("wrong.json", { settings = { retries = "many" } })
    r = verify("-c", "wrong.json", "--depth", "1")
    assert.equal(1, r.status)
    assert.matches("policy.settings.retries: expected a whole number from 0 to 3, got \"many\"",
      (r.stdout .. r.stderr):gsub("%s+", " "), 1, true)

    r = verify("-c", "missing.json")
    assert.same({ 1, "" }, { r.status, r.stdout })
    assert.matches("missing.json", r.stderr, 1, true)
  end)

  it("takes the script that came with deputy, or the configuration's, when none is named", function()
    local r = verify("--depth", "1")
    assert.same({ 0, "" }, { r.status, r.stderr })
    assert.matches("router%.lua: fail%-closed\n", r.stdout)
    write("bad.lua", PROBE_IGNORED)
    write("deputy.json", '{"central":{"url":"http://127.0.0.1:1"},"policy":{"script":"bad.lua"}}')
    r = verify("--depth", "1")
    assert.equal(1, r.status)
    assert.matches("bad%.lua: NOT fail%-closed", r.stdout)
  end)

  it("gives up in the time that it is given, and does not call that fail-closed", function()
    local r = verify(LUA .. "/router.lua", "--depth", "6", "--timeout-ms", "100")
    assert.equal(1, r.status)
    assert.matches("NOT known to be fail%-closed: it was ended early", r.stdout)
  end)

  describe("on a busy machine", function()
    -- On one processor with others who are always busy: what it computes is a part of the time that passes.
    local function verify_busy(...)
      local cpu = assert(io.open("/proc/self/status")):read("a"):match("Cpus_allowed_list:%s*(%d+)")
      local command = { "taskset", "-c", cpu, "sh", "-c", [[
        for i in 1 2 3 4 5 6; do lua5.4 -e "while true do end" & busy="$busy $!"; done
        "$0" verify "$@"; status=$?
        kill $busy; exit $status]], BUILD .. "/deputy", ... }
      command.cwd, command.timeout_ms = dir, 60000
      command.env = { DEPUTY_LUA = LUA, HOME = dir, XDG_CONFIG_HOME = dir .. "/xdg" }
      return shell.run(command)
    end

    it("tells what it found, too, when the time is over", function()
      local r = verify_busy(LUA .. "/router.lua", "--depth", "6", "--timeout-ms", "1500")
      assert.same({ 1, "" }, { r.status, r.stderr })
      assert.matches("NOT known to be fail%-closed: it was ended early, the time %(1%.5 s%) ran out", r.stdout)
    end)
  end)

  it("at load says of a script that takes too long what it is: not a way without permission", function()
    write("slow.lua", policy [[local words = ""
      for _ = 1, 4 do words = words .. tostring(run:probe().status) end
      for _ = 1, #words + 300000 do end
      if M.verdict(run:probe()) ~= "allowed" then return nil, failure end]])
    write("deputy.json", '{"central":{"url":"http://127.0.0.1:1"},"policy":{"script":"slow.lua"}}')
    local r = shell.run{ BUILD .. "/deputy", "check", cwd = dir, timeout_ms = 60000,
      env = { DEPUTY_LUA = LUA, HOME = dir } }
    assert.equal(1, r.status)
    assert.matches("slow%.lua is not known to be fail%-closed: it was ended early, the time %([%d.]+ s%) ran out",
      r.stdout)
  end)

  it("--help says what the exit codes mean", function()
    local r = verify("--help")
    assert.same({ 0, "" }, { r.status, r.stderr })
    for code, text in pairs{ [0] = "fails closed", [1] = "does not", [2] = "wrong arguments" } do
      assert.matches("\n  " .. code .. "  [^\n]*" .. text, r.stdout)
    end
  end)
end)
