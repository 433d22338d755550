-- Rows as people read them: columns under their names, aligned. For scripts there is --json.
--   tables.format({ { "name", "NAME" }, { "url", "URL" } }, rows)    text with a line for each row
-- A cell is what the row has under the first word: text, number, boolean (yes, no), nil ("-"), a list (joined by ", ").
local cjson = require "cjson"

local tables = {}

local MAX_CELL = 60

-- What others named must not move the cursor.
local function printable(text)
  text = text:gsub("[%c\127]", "?")
  return utf8.len(text) and text or (text:gsub("[\128-\255]", "?"))
end

local function shorten(text)
  if utf8.len(text) <= MAX_CELL then return text end
  return text:sub(1, utf8.offset(text, MAX_CELL - 2) - 1) .. "..."
end

local function cell(value)
  if value == nil or value == cjson.null or value == "" then return "-" end
  if value == true then return "yes" end
  if value == false then return "no" end
  if type(value) == "table" then
    local parts = {}
    for i, each in ipairs(value) do parts[i] = cell(each) end
    return #parts > 0 and table.concat(parts, ", ") or "-"
  end
  -- What came over HTTP is a float, whatever it was before.
  return shorten(printable(type(value) == "number" and ("%.14g"):format(value) or tostring(value)))
end

function tables.format(columns, rows)
  local lines, widths = { {} }, {}
  for i, column in ipairs(columns) do lines[1][i] = column[2] end
  for _, row in ipairs(rows) do
    local line = {}
    for i, column in ipairs(columns) do line[i] = cell(row[column[1]]) end
    lines[#lines + 1] = line
  end
  for _, line in ipairs(lines) do
    for i, text in ipairs(line) do widths[i] = math.max(widths[i] or 0, utf8.len(text)) end
  end
  for n, line in ipairs(lines) do
    for i, text in ipairs(line) do
      line[i] = i < #line and text .. (" "):rep(widths[i] - utf8.len(text)) or text
    end
    lines[n] = table.concat(line, "  ")
  end
  return table.concat(lines, "\n") .. "\n"
end

return tables
