-- kill -9 at any moment, under write load: nothing that was acknowledged is lost, and the database is sound.
-- CRASH_KILLS (20) says how often; make soak does it 200 times.
local databases = require "spec.support.central_db"
local shell = require "spec.support.shell"
local migrations = require "central.migrations"
local sqlite = require "central.dialect_sqlite"
local store = require "central.store"

local KILLS = tonumber(os.getenv("CRASH_KILLS") or 20)
local WRITERS = 2

local FIND = {
  user = "SELECT id FROM subjects WHERE id = ?",
  llm = "SELECT id FROM llms WHERE id = ?",
  binding = "SELECT id FROM bindings WHERE id = ?",
  token = "SELECT id FROM tokens WHERE id = ?",
  revoked = "SELECT id FROM tokens WHERE id = ? AND revoked_at IS NOT NULL",
}
-- Each change has its row in the log, or it did not happen.
local LOGGED = {
  user = "SELECT count(*) FROM subjects s WHERE NOT EXISTS (SELECT 1 FROM audit a WHERE a.target_id = s.id)",
  llm = "SELECT count(*) FROM llms l WHERE NOT EXISTS (SELECT 1 FROM audit a WHERE a.target_id = l.id)",
}

local function acknowledged(process, into)
  -- The last line may have been cut by the kill. Each user begins another turn of the writer.
  local serial = 0
  for what, id in process.stdout:gmatch("(%l+) (%w+)\n") do
    if what == "user" then serial = serial + 1 end
    into[#into + 1] = { what, id, serial }
  end
end

-- What was acknowledged and is not there. A deletion that was not acknowledged may have happened all the same, and a
-- binding goes with its LLM: those of the writers' every fourth LLM are left out.
local function lost_of(database, said)
  local lost = {}
  for _, each in ipairs(said) do
    local what, id, serial = each[1], each[2], each[3]
    local deleted = serial % 4 == 0 and (what == "llm" or what == "binding")
    if what == "gone" then
      if database:one(FIND.llm, id) then lost[#lost + 1] = "deletion of " .. id end
    elseif not deleted and not database:one(FIND[what], id) then
      lost[#lost + 1] = what .. " " .. id
    end
  end
  return lost
end

for _, kind in ipairs(databases.KINDS) do
  describe("kill -9 on " .. kind, function()
    teardown(databases.stop)

    it(("loses nothing in %d kills"):format(KILLS), function()
      math.randomseed(os.time())
      local url = databases.new(kind)
      local said = {}
      for round = 1, KILLS do
        local writers = {}
        for i = 1, WRITERS do
          writers[i] = shell.start{
            "lua5.4", "spec/support/central_worker.lua", url, "write", ("r%dw%d"):format(round, i),
          }
        end
        for _, writer in ipairs(writers) do assert.is_truthy(writer:wait_for("ready", 10000), writer.stderr) end
        -- Anywhere: in a change, in a commit, between two.
        shell.turn(function() return false end, math.random(1, 120))
        for _, writer in ipairs(writers) do
          local result = writer:stop()
          assert.equal(9, result.signal, result.stderr)
          acknowledged(writer, said)
        end
      end
      assert.is_true(#said > KILLS * 5, tostring(#said))

      local database = assert(store.open{ db = url })
      assert(migrations.run(database))
      if kind == "sqlite" then assert.equal("ok", sqlite.integrity(database)) end
      assert.same({}, lost_of(database, said))
      for _, sql in pairs(LOGGED) do assert.same({ 0 }, database:one(sql)) end
      assert.same({ 0 }, database:one("SELECT count(*) FROM bindings b WHERE b.llm_id IS NOT NULL AND "
        .. "NOT EXISTS (SELECT 1 FROM llms l WHERE l.id = b.llm_id)"))
      database:close()
    end)
  end)
end
