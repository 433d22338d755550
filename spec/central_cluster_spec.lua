-- Several central processes on one database: each sees what any other has committed on its next request.
local databases = require "spec.support.central_db"
local shell = require "spec.support.shell"
local cjson = require "cjson"

local PROCESSES = 3
local ROUNDS = tonumber(os.getenv("CLUSTER_ROUNDS") or 25)

local function start(url)
  local process = shell.start{ "lua5.4", "spec/support/central_worker.lua", url, "ask" }
  assert(process:wait_for("ready\n", 10000), process.stderr)
  process.seen = #process.stdout
  return process
end

local function ask(process, request)
  process:write(cjson.encode(request) .. "\n")
  assert(shell.turn(function() return process.stdout:find("\n", process.seen + 1, true) end, 5000), process.stderr)
  local answer = process.stdout:sub(process.seen + 1):match("^(%w+)\n")
  process.seen = #process.stdout
  return answer
end

for _, kind in ipairs(databases.KINDS) do
  describe("Central processes on one database of " .. kind, function()
    teardown(databases.stop)
    after_each(databases.close)

    it("see each other's changes on the very next request", function()
      local c = databases.central(kind)
      local llm = c:llm("claude")
      local alice = c:user("alice")
      c:service_as_admin("create_group", { name = "g" })
      c:grant{ group = "g", role = "view" }
      c:grant{ group = "g", role = "run" }
      local processes = {}
      for i = 1, PROCESSES do processes[i] = start(c.url) end
      local name = "claude"

      local function all(want_probe, want_run, token)
        for i, process in ipairs(processes) do
          local key = i % 2 == 0 and name or llm.id
          assert.equal(want_probe, ask(process, { method = "HEAD", target = "/api/v1/llms/" .. key, token = token
            or alice }))
          assert.equal(want_run, ask(process, { method = "POST", target = "/v1/chat/completions", token = token
            or alice, body = "{}", model = key }))
        end
      end

      local changes = {
        function() c:service_as_admin("add_member", "g", "alice") return "200", "forward" end,
        function() c:service_as_admin("update_llm", name, { paused = true }) return "200", "503" end,
        function()
          name = name == "claude" and "opus" or "claude"
          c:service_as_admin("update_llm", llm.id, { name = name, paused = false })
          return "200", "forward"
        end,
        function() c:grant{ user = "alice", role = "run", llm = name, effect = "deny" } return "200", "403" end,
        function() c:revoke{ user = "alice", role = "run", llm = name, effect = "deny" } return "200", "forward" end,
        function() c:service_as_admin("update_llm", name, { enabled = false }) return "403", "403" end,
        function() c:service_as_admin("update_llm", name, { enabled = true }) return "200", "forward" end,
        function() c:service_as_admin("update_user", "alice", { disabled = true }) return "401", "401" end,
        function() c:service_as_admin("update_user", "alice", { disabled = false }) return "200", "forward" end,
        function() c:service_as_admin("remove_member", "g", "alice") return "403", "403" end,
      }
      all("403", "403")
      local steps = 0
      while steps < ROUNDS do
        for _, change in ipairs(changes) do
          all(change())
          steps = steps + 1
        end
      end
      c:service_as_admin("add_member", "g", "alice")
      all("200", "forward")
      c:service_as_admin("revoke_token", alice:match("^dpt_(%w+)_"))
      all("401", "401")
      local again = c:token("alice")
      all("200", "forward", again)
      c:service_as_admin("delete_llm", name)
      all("404", "404", again)
      for _, process in ipairs(processes) do process:stop() end
    end)

    it("take each other's requests for changes", function()
      local c = databases.central(kind)
      c:llm("claude")
      local alice = c:user("alice")
      local first, second = start(c.url), start(c.url)
      local function probe(process)
        return ask(process, { method = "HEAD", target = "/api/v1/llms/claude", token = alice })
      end
      for _ = 1, 10 do
        assert.equal("201", ask(first, {
          method = "POST", target = "/api/v1/bindings", token = c.admin, body = '{"user":"alice","role":"view"}',
        }))
        assert.equal("200", probe(second))
        assert.equal("200", probe(first))
        assert.equal(200, c:ask("HEAD", "/api/v1/llms/claude", alice).status)
        assert.equal("200", ask(second, {
          method = "DELETE", target = "/api/v1/bindings?user=alice&role=view", token = c.admin,
        }))
        assert.equal("403", probe(first))
        assert.equal("403", probe(second))
        assert.equal(403, c:ask("HEAD", "/api/v1/llms/claude", alice).status)
      end
      first:stop()
      second:stop()
    end)
  end)
end
