-- SQL that is put together from strings: what spec/lint says about lua/central.
--
--   for _, finding in ipairs(require("spec.lint_sql").check(text)) do print(finding.line, finding.message) end
--
-- A statement is one literal of a table called SQL (or of a dialect's or schema's list), and values are bound. So: no
-- statement stands elsewhere, next to .. or a method; nothing but SQL.name where a statement is expected, whatever the
-- database is called there; and SQL itself is not handed around, added to or changed after it was made.
local lint_sql = {}

local STATEMENTS = {
  "SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "CREATE", "ALTER", "DROP", "WITH", "PRAGMA", "VACUUM", "EXPLAIN",
  "TRUNCATE", "SET", "BEGIN", "COMMIT", "ROLLBACK",
}
local PIECES = { "FROM", "WHERE", "ORDER", "GROUP", "LIMIT", "VALUES", "AND", "JOIN" }
local IS_STATEMENT, IS_PIECE = {}, {}
for _, word in ipairs(STATEMENTS) do IS_STATEMENT[word] = true end
for _, word in ipairs(PIECES) do IS_PIECE[word] = true end

-- SQL does not care about case; in lower case these words alone are English.
local LOWER = {
  "^select%f[%W].*%f[%w]from%f[%W]", "^select%s*$", "^insert%s+into%f[%W]", "^update%s+[%w_]+%s+set%f[%W]",
  "^delete%s+from%f[%W]", "^drop%s+table%f[%W]", "^create%s+table%f[%W]", "^alter%s+table%f[%W]", "^pragma%f[%W]",
}

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

local function content_of(token)
  return token.text:match("^%[=*%[%s*(.*)%]=*%]$") or token.text:sub(2, -2):gsub("^[%s(]+", "")
end

local function is_statement(token)
  local content = content_of(token)
  local word = content:match("^[%s(]*(%u+)%f[%W]")
  if word and IS_STATEMENT[word] then return true end
  local lower = content:lower()
  for _, pattern in ipairs(LOWER) do
    if lower:find(pattern) then return true end
  end
  return false
end

local function is_piece(token)
  local word = content_of(token):match("^[%s(]*(%u+)%f[%W]")
  return word ~= nil and IS_PIECE[word] or false
end

local function text_of(token) return token and token.text end

-- For each token how the outermost table begins in which it stands: "SQL", "return", ... ; nil outside of tables.
local function tables_of(tokens)
  local of, open = {}, {}
  for i, token in ipairs(tokens) do
    if token.text == "{" then
      local before = text_of(tokens[i - 1])
      open[#open + 1] = before == "=" and text_of(tokens[i - 2]) or before or ""
    end
    of[i] = open[1]
    if token.text == "}" then open[#open] = nil end
  end
  return of
end

local function is_constant(name) return name ~= nil and name:find("^%u[%u_]*$") ~= nil end

-- Whether a statement may stand at i: as a constant, or in a list of constants.
local function is_in_place(tokens, of, i)
  local before, after = text_of(tokens[i - 1]), text_of(tokens[i + 1])
  if of[i] then
    return (is_constant(of[i]) or of[i] == "return" or of[i] == "{")
      and (before == "=" or before == "{" or before == ",") and (after == "," or after == "}")
  end
  return before == "=" and is_constant(text_of(tokens[i - 2])) and after ~= ".." and after ~= ":"
end

-- The words from i on, up to the comma or the bracket that ends them; all: up to the bracket.
local function argument(tokens, i, all)
  local words, depth = {}, 0
  while tokens[i] and (depth > 0 or (tokens[i].text ~= ")" and (all or tokens[i].text ~= ","))) do
    if tokens[i].text == "(" then depth = depth + 1 end
    if tokens[i].text == ")" then depth = depth - 1 end
    words[#words + 1] = tokens[i].text
    i = i + 1
  end
  return " " .. table.concat(words, " ") .. " "
end

local function names_one(words)
  return (words:find(" SQL . ", 1, true) or words:find(" dialect . ", 1, true)) and not words:find(" .. ", 1, true)
    and not words:find("[\"']")
end

function lint_sql.check(text)
  local findings, tokens = {}, scan(text)
  local of = tables_of(tokens)
  local function find(token, message, ...)
    findings[#findings + 1] = { line = token.line, message = message:format(...) }
  end

  for i, token in ipairs(tokens) do
    local before, after, later = text_of(tokens[i - 1]), text_of(tokens[i + 1]), text_of(tokens[i + 2])
    if token.kind == "string" and is_statement(token) and not is_in_place(tokens, of, i) then
      find(token, "a statement stands in a table called SQL, whole")
    end
    if token.kind == "string" and is_piece(token) then
      if before == ".." or after == ".." then find(token, "SQL put together with ..") end
      if after == ":" or (after == ")" and later == ":") then find(token, "SQL changed by a method") end
    end
    if token.kind == "word" and ASKING[token.text] and before == ":" and after == "(" then
      local words = argument(tokens, i + 2)
      if not names_one(words) then find(token, "a statement here is SQL.name, not%s", words) end
    end
    if token.text == "database" and after == "." and ASKING[later or ""] then
      local from = text_of(tokens[i + 3]) == "(" and i + 4 or i + 3
      if not names_one(argument(tokens, from, true)) then find(token, "a statement here is SQL.name") end
    end
    if token.text == "database" and after == "[" then find(token, "which function that is has to be seen") end
    if token.text == "SQL" and token.kind == "word" then
      local made = before == "local" and after == "=" and later == "{"
      local changed = after == "." and text_of(tokens[i + 3]) == "=" and text_of(tokens[i + 4]) ~= "="
      if not made and (after ~= "." or changed) then find(token, "a statement is written once, where its table is") end
    end
  end
  return findings
end

return lint_sql
