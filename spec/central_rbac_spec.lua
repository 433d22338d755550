-- Who may do what: roles, groups, denies, names and ids, and the order in which a refusal is found.
local cjson = require "cjson"
local databases = require "spec.support.central_db"

local ROLES = { "view", "run", "create", "edit", "delete", "admin" }

-- What each role lets its holder do to the LLM "claude", by request.
local REQUESTS = {
  view = { "GET", "/api/v1/llms/claude" },
  run = { "POST", "/api/v1/llms/claude/infer", "{}" },
  create = { "POST", "/api/v1/llms", { name = "new", url = "http://127.0.0.1:9/v1" } },
  edit = { "PUT", "/api/v1/llms/claude", { description = "changed" } },
  delete = { "DELETE", "/api/v1/llms/claude" },
  admin = { "GET", "/api/v1/users" },
}

local function status(c, token, role)
  local request = REQUESTS[role]
  local reply = c:ask(request[1], request[2], token, request[3])
  return reply.forward and 200 or reply.status
end

local function allowed(code) return code == 200 or code == 201 end

-- { what, bindings of alice (role, llm, effect, by group), role asked for, status }
local CASES = {
  { "nothing at all", {}, "view", 403 },
  { "view on all", { { "view" } }, "view", 200 },
  { "view on this one", { { "view", "claude" } }, "view", 200 },
  { "view on another one", { { "view", "opus" } }, "view", 403 },
  { "view does not run", { { "view" } }, "run", 403 },
  { "run does not view", { { "run" } }, "view", 403 },
  { "run on this one", { { "run", "claude" } }, "run", 200 },
  { "edit does not delete", { { "edit" } }, "delete", 403 },
  { "delete does not edit", { { "delete" } }, "edit", 403 },
  { "create alone", { { "create" } }, "create", 201 },
  { "admin of all views", { { "admin" } }, "view", 200 },
  { "admin of all runs", { { "admin" } }, "run", 200 },
  { "admin of all creates", { { "admin" } }, "create", 201 },
  { "admin of all administers", { { "admin" } }, "admin", 200 },
  { "admin of this one views", { { "admin", "claude" } }, "view", 200 },
  { "admin of this one deletes", { { "admin", "claude" } }, "delete", 200 },
  { "admin of this one does not create", { { "admin", "claude" } }, "create", 403 },
  { "admin of this one does not administer users", { { "admin", "claude" } }, "admin", 403 },
  { "admin of another one", { { "admin", "opus" } }, "view", 403 },
  { "by a group", { { "view", "claude", "allow", true } }, "view", 200 },
  { "by a group, on all", { { "run", nil, "allow", true } }, "run", 200 },
  { "denied on all", { { "view" }, { "view", nil, "deny" } }, "view", 403 },
  { "denied on this one", { { "view" }, { "view", "claude", "deny" } }, "view", 403 },
  { "denied on another one", { { "view" }, { "view", "opus", "deny" } }, "view", 200 },
  { "allowed on this one, denied on all", { { "view", "claude" }, { "view", nil, "deny" } }, "view", 403 },
  { "denied to the group", { { "view" }, { "view", "claude", "deny", true } }, "view", 403 },
  { "allowed to the group, denied to the user", { { "view", nil, "allow", true }, { "view", nil, "deny" } }, "view",
    403 },
  { "denied another role", { { "view" }, { "run", nil, "deny" } }, "view", 200 },
  { "a deny of view does not touch run", { { "run" }, { "view", nil, "deny" } }, "run", 200 },
  { "a deny of admin takes everything", { { "view" }, { "admin", nil, "deny" } }, "view", 403 },
  { "an admin who is denied a role", { { "admin" }, { "run", "claude", "deny" } }, "run", 403 },
  { "an admin who is denied another role", { { "admin" }, { "run", "claude", "deny" } }, "view", 200 },
}

for _, kind in ipairs(databases.KINDS) do
  describe("Permissions on " .. kind, function()
    teardown(databases.stop)
    after_each(databases.close)

    it("follow from the bindings, case by case", function()
      local c = databases.central(kind)
      c:llm("opus")
      for i, case in ipairs(CASES) do
        local name, group = "alice-" .. i, "group-" .. i
        if not c.service:get_llm(c.me, "claude") then c:llm("claude") end
        local token = c:user(name)
        c:service_as_admin("create_group", { name = group })
        c:service_as_admin("add_member", group, name)
        for _, binding in ipairs(case[2]) do
          c:grant{
            [binding[4] and "group" or "user"] = binding[4] and group or name, role = binding[1], llm = binding[2],
            effect = binding[3],
          }
        end
        assert.equal(case[4], status(c, token, case[3]), case[1])
        c.service:delete_llm(c.me, "new")
      end
    end)

    it("are exactly one role's, for each role", function()
      local c = databases.central(kind)
      for _, role in ipairs(ROLES) do
        local token = c:user("only-" .. role)
        c:grant{ user = "only-" .. role, role = role }
        for _, asked in ipairs(ROLES) do
          if not c.service:get_llm(c.me, "claude") then c:llm("claude") end
          assert.equal(role == "admin" or role == asked, allowed(status(c, token, asked)), role .. ": " .. asked)
          c.service:delete_llm(c.me, "new")
        end
      end
    end)

    it("given by name hold for the id, given by id for the name, and through renames", function()
      local c = databases.central(kind)
      local llm = c:llm("claude")
      local by_name, by_id = c:user("by-name"), c:user("by-id")
      c:grant{ user = "by-name", role = "view", llm = "claude" }
      c:grant{ user = "by-id", role = "view", llm = llm.id }
      local function both(key, want)
        for _, token in ipairs{ by_name, by_id } do
          assert.equal(want, c:ask("HEAD", "/api/v1/llms/" .. key, token).status)
        end
      end
      both("claude", 200)
      both(llm.id, 200)
      c:service_as_admin("update_llm", "claude", { name = "sonnet" })
      both("sonnet", 200)
      both(llm.id, 200)
      both("claude", 403)
      -- Somebody else's LLM under the old name: nobody has anything on it.
      local other = c:llm("claude")
      both("claude", 403)
      both(other.id, 403)
      c:service_as_admin("delete_llm", "sonnet")
      both("sonnet", 403)
      both(llm.id, 403)
    end)

    it("cannot be given on what is not there", function()
      local c = databases.central(kind)
      c:user("alice")
      c:llm("claude")
      local function refused(input, code, pattern)
        local reply = c:ask("POST", "/api/v1/bindings", c.admin, input)
        assert.equal(code, reply.json.error.code)
        assert.matches(pattern, reply.json.error.message, 1, true)
      end
      refused({ user = "alice", role = "view", llm = "nope" }, "llm_not_found", 'no LLM "nope"')
      refused({ user = "nobody", role = "view" }, "user_not_found", 'no user "nobody"')
      refused({ group = "alice", role = "view" }, "group_not_found", '"alice" is a user, not a group')
      refused({ user = "alice", role = "veiw" }, "invalid_request", 'did you mean "view"?')
      refused({ user = "alice", role = "create", llm = "claude" }, "invalid_request", "leave llm out")
      refused({ user = "alice", role = "view", llm = cjson.null }, "invalid_request", "llm: must not be null")
      refused({ user = "alice", role = "view", llm = "" }, "invalid_request", "llm: must not be empty")
      refused({ role = "view" }, "invalid_request", "one of user and group")
      refused({ user = "alice", group = "x", role = "view" }, "invalid_request", "one of user and group")
      refused({ user = "alice", role = "view", lm = "claude" }, "invalid_request", 'did you mean "llm"?')
    end)

    it("on one LLM are its own admin's to give, whose hold on all LLMs nobody of them can shake", function()
      local c = databases.central(kind)
      c:llm("claude")
      c:llm("opus")
      local owner = c:user("owner")
      c:user("alice")
      c:grant{ user = "owner", role = "admin", llm = "claude" }
      local function grant(input) return c:ask("POST", "/api/v1/bindings", owner, input).status end
      assert.equal(201, grant{ user = "alice", role = "view", llm = "claude" })
      assert.equal(403, grant{ user = "alice", role = "view", llm = "opus" })
      assert.equal(403, grant{ user = "alice", role = "view", llm = "nope" })
      assert.equal(403, grant{ user = "alice", role = "view" })
      -- Nobody else's, whatever he may: he would make himself its admin.
      local other = c:user("other")
      for _, role in ipairs(ROLES) do
        if role ~= "create" and role ~= "admin" then c:grant{ user = "other", role = role, llm = "claude" } end
      end
      for _, role in ipairs(ROLES) do
        assert.equal(403, c:ask("POST", "/api/v1/bindings", other, { user = "other", role = role,
          llm = role ~= "create" and "claude" or nil }).status, role)
      end
      assert.equal(403, c:ask("DELETE", "/api/v1/bindings?user=owner&role=admin&llm=claude", other).status)
      assert.equal(201, grant{ user = "root", role = "admin", llm = "claude", effect = "deny" })
      assert.equal(403, c:ask("GET", "/api/v1/llms/claude", c.admin).status)
      assert.equal(200, c:ask("DELETE", "/api/v1/bindings?user=root&role=admin&effect=deny&llm=claude", c.admin).status)
      assert.equal(200, c:ask("GET", "/api/v1/llms/claude", c.admin).status)
    end)

    it("are looked at before anything else: 401, then 403 for what is there and what is not, then 404", function()
      local c = databases.central(kind)
      c:llm("claude")
      local nothing, all = c:user("nothing"), c:user("all")
      for _, role in ipairs(ROLES) do
        if role ~= "admin" then c:grant{ user = "all", role = role } end
      end
      local probes = {
        { "GET", "" }, { "HEAD", "" }, { "PUT", "", { nonsense = 1 } }, { "PUT", "", "{" }, { "DELETE", "" },
        { "POST", "/infer", "{}" }, { "POST", "/pause" }, { "POST", "/resume" },
      }
      for _, probe in ipairs(probes) do
        local function ask(token, name)
          local reply = c:ask(probe[1], "/api/v1/llms/" .. name .. probe[2], token, probe[3])
          return reply.status, reply.body and reply.body:gsub("claude", "nope")
        end
        local what = probe[1] .. probe[2]
        assert.same({ ask(nil, "claude") }, { ask(nil, "nope") }, what)
        assert.equal(401, (ask(nil, "claude")), what)
        assert.equal(401, (ask("dpt_" .. ("a"):rep(24) .. "_" .. ("0"):rep(40), "claude")), what)
        assert.same({ ask(nothing, "claude") }, { ask(nothing, "nope") }, what)
        assert.equal(403, (ask(nothing, "claude")), what)
        assert.equal(404, (ask(all, "nope")), what)
      end
    end)

    it("decide what a list shows, page by page", function()
      local c = databases.central(kind)
      local ids = {}
      for i = 1, 25 do ids[i] = c:llm(("llm-%02d"):format(i)).id end
      local some, all, nobody = c:user("some"), c:user("all"), c:user("nobody")
      c:service_as_admin("create_group", { name = "g" })
      c:service_as_admin("add_member", "g", "some")
      for i = 1, 25, 3 do
        c:grant{ [i % 2 == 0 and "group" or "user"] = i % 2 == 0 and "g" or "some", role = "view", llm = ids[i] }
      end
      c:grant{ user = "some", role = "run", llm = "llm-02" }
      c:grant{ user = "some", role = "view", llm = "llm-07", effect = "deny" }
      c:grant{ user = "all", role = "view" }
      c:grant{ group = "g", role = "view", llm = "llm-22", effect = "deny" }
      c:service_as_admin("add_member", "g", "all")
      local function names(token, path)
        local found, after = {}, nil
        repeat
          local reply = c:ask("GET", path .. "?limit=4" .. (after and "&after=" .. after or ""), token)
          assert.equal(200, reply.status)
          assert.is_true(#reply.json.data <= 4)
          for _, object in ipairs(reply.json.data) do found[#found + 1] = object.name or object.id end
          after = reply.json.next or reply.json.last_id
        until not after
        return found
      end
      local want_some, want_all = {}, {}
      for i = 1, 25 do
        local name = ("llm-%02d"):format(i)
        if i % 3 == 1 and i ~= 7 and i ~= 22 then want_some[#want_some + 1] = name end
        if i ~= 22 then want_all[#want_all + 1] = name end
      end
      for _, path in ipairs{ "/api/v1/llms", "/v1/models" } do
        assert.same(want_some, names(some, path))
        assert.same(want_all, names(all, path))
        assert.same({}, names(nobody, path))
      end
      assert.equal('{"object":"list","data":[]}', c:ask("GET", "/api/v1/llms", nobody).body)
    end)

    it("show where requests go to those alone who may change it", function()
      local c = databases.central(kind)
      c:llm("claude", { apiKeyEnv = "CLAUDE_KEY", model = "upstream-model" })
      local viewer, editor = c:user("viewer"), c:user("editor")
      c:grant{ user = "viewer", role = "view" }
      c:grant{ user = "editor", role = "view" }
      c:grant{ user = "editor", role = "edit" }
      for _, path in ipairs{ "/api/v1/llms/claude", "/api/v1/llms" } do
        local seen = c:ask("GET", path, viewer).body
        for _, secret in ipairs{ "127.0.0.1", "CLAUDE_KEY", "upstream%-model" } do
          assert.is_nil(seen:find(secret), seen)
          assert.matches(secret, c:ask("GET", path, editor).body)
        end
      end
    end)

    it("stop everything when an LLM is disabled, and inference alone when it is paused", function()
      local c = databases.central(kind)
      c:llm("claude")
      local alice = c:user("alice")
      c:grant{ user = "alice", role = "view" }
      c:grant{ user = "alice", role = "run" }
      local function probe() return c:ask("HEAD", "/api/v1/llms/claude", alice).status end
      local function run()
        local reply = c:ask("POST", "/v1/chat/completions", alice, "{}", "claude")
        return reply.forward and 200 or reply.status, reply.json and reply.json.error.code
      end
      assert.equal(200, c:ask("POST", "/api/v1/llms/claude/pause", c.admin).status)
      assert.equal(200, probe())
      assert.same({ 503, "llm_paused" }, { run() })
      assert.equal(200, c:ask("POST", "/api/v1/llms/claude/resume", c.admin).status)
      assert.equal(200, (run()))
      c:ask("PUT", "/api/v1/llms/claude", c.admin, { enabled = false })
      assert.equal(403, probe())
      assert.same({ 403, "llm_disabled" }, { run() })
      assert.same({}, c:ask("GET", "/v1/models", alice).json.data)
      assert.same({}, c:ask("GET", "/v1/models", c.admin).json.data)
      assert.equal(403, c:ask("HEAD", "/api/v1/llms/claude", c.admin).status)
      assert.is_false(c:ask("GET", "/api/v1/llms/claude?disabled=show", c.admin).json.enabled)
      assert.equal(403, c:ask("GET", "/api/v1/llms/claude?disabled=show", alice).status)
    end)

    it("leave somebody who is admin of all LLMs, unless that is forced", function()
      local c = databases.central(kind)
      local service = c.service
      local local_actor = require("central.service").local_actor
      local function refused(name, ...)
        local result, why = service[name](service, c.me, ...)
        assert.is_nil(result, name)
        assert.equal("last_admin 409", why.code .. " " .. why.status)
        assert.equal(200, c:ask("GET", "/api/v1/users", c.admin).status)
      end
      local id = c.admin:match("^dpt_([a-z0-9]+)_")
      local group = c:service_as_admin("create_group", { name = "admins" })
      c:grant{ group = "admins", role = "admin", effect = "deny" }
      local function each_way()
        refused("delete_user", "root")
        refused("update_user", "root", { disabled = true })
        refused("revoke", { user = "root", role = "admin" })
        refused("grant", { user = "root", role = "admin", effect = "deny" })
        refused("add_member", "admins", "root")
        refused("revoke_token", id)
      end
      each_way()
      -- Others who could not sign in, or may not, are nobody.
      c:service_as_admin("create_user", { name = "without-token" })
      c:grant{ user = "without-token", role = "admin" }
      c:user("off")
      c:grant{ user = "off", role = "admin" }
      c:service_as_admin("update_user", "off", { disabled = true })
      c:user("denied")
      c:grant{ user = "denied", role = "admin" }
      c:service_as_admin("add_member", "admins", "denied")
      c:user("late", { expiresIn = 1 })
      c:grant{ user = "late", role = "admin" }
      c.clock.now = c.clock.now + 2
      c:llm("claude")
      c:user("of-one")
      c:grant{ user = "of-one", role = "admin", llm = "claude" }
      each_way()
      assert.equal(409, c:ask("DELETE", "/api/v1/bindings?user=root&role=admin", c.admin).status)
      -- A group makes one as well; then it is the group that has to stay.
      c:revoke{ group = "admins", role = "admin", effect = "deny" }
      c:grant{ group = "admins", role = "admin" }
      c:user("alice")
      c:service_as_admin("add_member", "admins", "alice")
      c:service_as_admin("update_user", "denied", { disabled = true })
      c:revoke{ user = "root", role = "admin" }
      c:service_as_admin("add_member", "admins", "root")
      c:service_as_admin("remove_member", "admins", "alice")
      refused("remove_member", "admins", "root")
      refused("delete_group", group.id)
      assert.equal(409, c:ask("DELETE", "/api/v1/groups/admins/members/root?force=yes", c.admin).status)
      assert.equal(200, c:ask("DELETE", "/api/v1/groups/admins/members/root?force=true", c.admin).status)
      assert.equal(403, c:ask("GET", "/api/v1/users", c.admin).status)
      c:grant{ user = "root", role = "admin" }
      assert.equal(200, c:ask("DELETE", "/api/v1/bindings?force=true&user=root&role=admin", c.admin).status)
      c:grant{ user = "root", role = "admin" }
      local by_force = local_actor("spec")
      by_force.force = true
      assert.is_truthy(service:delete_user(by_force, "root"))
      -- Where there was none, nothing more is lost.
      c:service_as_admin("delete_user", "late")
    end)

    it("end with their user, group or membership", function()
      local c = databases.central(kind)
      c:llm("claude")
      local alice = c:user("alice")
      local function probe() return c:ask("HEAD", "/api/v1/llms/claude", alice).status end
      c:service_as_admin("create_group", { name = "g" })
      c:grant{ group = "g", role = "view", llm = "claude" }
      assert.equal(403, probe())
      c:service_as_admin("add_member", "g", "alice")
      assert.equal(200, probe())
      c:service_as_admin("remove_member", "g", "alice")
      assert.equal(403, probe())
      c:service_as_admin("add_member", "g", "alice")
      c:service_as_admin("delete_group", "g")
      assert.equal(403, probe())
      c:grant{ user = "alice", role = "view" }
      assert.equal(200, probe())
      c:service_as_admin("update_user", "alice", { disabled = true })
      assert.equal(401, probe())
      c:service_as_admin("update_user", "alice", { disabled = false })
      assert.equal(200, probe())
      c:service_as_admin("delete_user", "alice")
      assert.equal(401, probe())
      -- A new user of that name is somebody else.
      local again = c:user("alice")
      assert.equal(403, c:ask("HEAD", "/api/v1/llms/claude", again).status)
    end)
  end)
end
