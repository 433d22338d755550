-- SQL that is put together from strings: what spec/lint says about lua/central.
--
--   for _, finding in ipairs(require("spec.lint_sql").check(text)) do print(finding.line, finding.message) end
--
-- A statement is one literal of a table called SQL (or of a schema's list), and values are bound. So: no statement next
-- to .. or a method; nothing but SQL.name where a statement is expected; and no statement is changed after it was made.
local lint_sql = {}

local STATEMENTS = {
  "SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "CREATE", "ALTER", "DROP", "WITH", "PRAGMA", "VACUUM", "EXPLAIN",
  "TRUNCATE", "SET", "FROM", "WHERE", "ORDER", "GROUP", "LIMIT", "VALUES", "AND", "JOIN",
}
local IS_STATEMENT = {}
for _, word in ipairs(STATEMENTS) do IS_STATEMENT[word] = true end

local ASKING = { one = true, all = true, run = true, execute = true, prepare = true }

-- The text as tokens: { kind = "string" | "word" | "other", text =, line = }. Comments and spaces are left out.
local function scan(text)
  local tokens, at, line = {}, 1, 1
  local function take(kind, pattern)
    local first, last = text:find("^" .. pattern, at)
    if not first then return false end
    local piece = text:sub(first, last)
    if kind then tokens[#tokens + 1] = { kind = kind, text = piece, line = line } end
    line = line + select(2, piece:gsub("\n", ""))
    at = last + 1
    return true
  end
  local function long(kind, prefix)
    local level = text:match("^" .. prefix .. "%[(=*)%[", at)
    return level and take(kind, prefix .. "%[" .. level .. "%[.-%]" .. level .. "%]")
  end
  local function quoted()
    local quote = text:match("^[\"']", at)
    if not quote then return false end
    local stop = at
    repeat
      stop = assert(text:find("[\\" .. quote .. "]", stop + 1), "a string without an end")
      local escaped = text:sub(stop, stop) == "\\"
      if escaped then stop = stop + 1 end
    until not escaped
    tokens[#tokens + 1] = { kind = "string", text = text:sub(at, stop), line = line }
    at = stop + 1
    return true
  end
  while at <= #text do
    local _ = take(nil, "%s+") or long(nil, "%-%-") or take(nil, "%-%-[^\n]*") or long("string", "") or quoted()
      or take("word", "[%a_][%w_]*") or take("other", "%.%.%.?") or take("other", ".")
  end
  return tokens
end

local function is_statement(token)
  local content = token.text:match("^%[=*%[(.*)%]=*%]$") or token.text:sub(2, -2)
  local word = content:match("^[%s(]*(%u+)%f[%W]")
  return word ~= nil and IS_STATEMENT[word] or false
end

local function text_of(token) return token and token.text end

function lint_sql.check(text)
  local findings, tokens = {}, scan(text)
  local function find(token, message) findings[#findings + 1] = { line = token.line, message = message } end

  for i, token in ipairs(tokens) do
    local before, after, later = tokens[i - 1], tokens[i + 1], tokens[i + 2]
    if token.kind == "string" and is_statement(token) then
      if text_of(before) == ".." or text_of(after) == ".." then find(token, "SQL put together with ..") end
      if text_of(after) == ":" or (text_of(after) == ")" and text_of(later) == ":") then
        find(token, "SQL changed by a method: only constants, with bound values")
      end
      if text_of(before) == "(" and text_of(tokens[i - 2]) == "format" then
        find(token, "SQL put together by format")
      end
    end
    -- database:one(SQL.name, ...), self.database.dialect.COMMIT and the like; a condition may choose between two.
    if token.kind == "word" and ASKING[token.text] and text_of(before) == ":" and text_of(after) == "("
      and text_of(tokens[i - 2]) == "database" then
      local first, depth, at = {}, 0, i + 2
      while tokens[at] and (depth > 0 or (tokens[at].text ~= "," and tokens[at].text ~= ")")) do
        if tokens[at].text == "(" then depth = depth + 1 end
        if tokens[at].text == ")" then depth = depth - 1 end
        first[#first + 1] = tokens[at].text
        at = at + 1
      end
      local words = " " .. table.concat(first, " ") .. " "
      local named = words:find(" SQL . ", 1, true) or words:find(" dialect . ", 1, true)
      if not named or words:find(" .. ", 1, true) or words:find("[\"']") then
        find(token, ("a statement here is SQL.name, not%s"):format(words))
      end
    end
    if token.text == "SQL" and (text_of(after) == "." or text_of(after) == "[") then
      local equals = text_of(after) == "." and tokens[i + 3] or tokens[i + 4]
      if text_of(equals) == "=" and text_of(tokens[i + (text_of(after) == "." and 4 or 5)]) ~= "=" then
        find(token, "a statement is written once, where its table is")
      end
    end
  end
  return findings
end

return lint_sql
