-- The lint for SQL finds what it is for, and nothing in what is fine.
local lint_sql = require "spec.lint_sql"

describe("The lint for SQL", function()
  for what, text in pairs{
    ["a value in the text"] = [[local sql = "SELECT id FROM llms WHERE name = '" .. name .. "'"]],
    ["a piece at the end"] = [[return base .. " WHERE id = 1"]],
    ["a piece in the middle"] = [[return a .. " AND name = " .. b]],
    ["format"] = [[sql = ("DELETE FROM %s"):format(table_name)]],
    ["string.format"] = [[sql = string.format("UPDATE llms SET %s = ?", column)]],
    ["gsub"] = [[sql = ("SELECT * FROM x"):gsub("x", name)]],
    ["a long string"] = "sql = [[\n  SELECT id FROM llms ORDER BY ]] .. column",
    ["a literal where it is asked"] = [[database:one("SELECT 1")]],
    ["a variable where it is asked"] = [[self.database:run(statement, 1)]],
    ["a call where it is asked"] = [[database:all(make("x"), 1)]],
    ["a constant with more"] = [[database:all(SQL.list .. order, 1)]],
    ["a statement that is changed"] = [[SQL.list = other]],
    ["a statement that is added"] = [=[SQL["x"] = y]=],
    ["one that is added by rawset"] = [[rawset(SQL, "x", y)]],
    ["the table by another name"] = [[local S = SQL S.x = "a" .. b]],
    ["a table that is made elsewhere"] = [[local SQL = make()]],
    ["one that is picked by a name that comes"] = [=[database:one(SQL[name])]=],
    ["lower case"] = [[local s = "select id from llms where name = '" .. name .. "'"]],
    ["lower case in the table"] = [[local SQL = { a = "insert into x values (" .. v .. ")" }]],
    ["a database by another name"] = [[local db = self.database; db:one(make(x))]],
    ["another name for a literal"] = [[self.db:run("DELETE FROM llms")]],
    ["a call without a colon"] = [[self.database.one(self.database, sql)]],
    ["a protected call"] = [[local ok = pcall(database.one, database, text)]],
    ["table.concat"] = [[x = table.concat{ "SELECT * FROM ", t }]],
    ["a piece that is added to later"] = [[local q = "SELECT * FROM llms " q = q .. t]],
    ["a driver's own function"] = [[connection:prepare(x)]],
    ["a function by its name"] = [=[database["one"](database, x)]=],
  } do
    it("finds " .. what, function()
      assert.is_true(#lint_sql.check(text) > 0, text)
    end)
  end

  for what, text in pairs{
    ["constants"] = "local SQL = {\n  a = [[SELECT 1]],\n  b = \"DELETE FROM x WHERE id = ?\",\n}",
    ["their use"] = [[return database:one(SQL.a, name .. "x"), self.database:run(SQL.b, id)]],
    ["a choice between two"] = [[return database:one(ids.is_id(key) and SQL.by_id or SQL.by_name, key)]],
    ["what only looks like it"] = [[return "Selected " .. n .. " of them", "SELECTED" .. x, ("and %s"):format(y)]],
    ["a protected call"] = [[pcall(self.database.one, self.database, self.database.dialect.PING)]],
    ["English"] = [[say("delete %s %s (%s)"); say("create is for LLMs", "update it", "select one")]],
    ["a dialect's constants"] = [[d.BEGIN = { "BEGIN", "SELECT 1" }; d.PING = "SELECT 1"]],
    ["a schema"] = "return {\n  {\n    [[CREATE TABLE a (b)]],\n  },\n}",
    ["a comment"] = [[-- "SELECT " .. x]],
    ["comparisons"] = [[if SQL.a == x then return end]],
  } do
    it("finds nothing in " .. what, function()
      assert.same({}, lint_sql.check(text))
    end)
  end

  it("finds nothing in the central", function()
    local files = 0
    for path in io.popen("find lua/central -name '*.lua'"):lines() do
      local file = assert(io.open(path))
      local text = file:read("a")
      file:close()
      files = files + 1
      -- These hand statements on: that is their job.
      if not path:find("store%.lua$") and not path:find("migrations%.lua$") then
        local findings = lint_sql.check(text)
        assert.same({}, findings, path)
      end
    end
    assert.is_true(files > 15)
  end)
end)
