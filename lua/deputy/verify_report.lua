-- What verify found, in words: for 80 columns, as JSON, or as Markdown.
local M = {}

local WIDTH = 79

local TITLES = {
  load = "it is no policy",
  unpermitted = "a local provider is used without a clean 2xx of the same run",
  loose_verdict = "verdict is looser than the gate",
  foreign_error = "an error that is not the primary's",
  raises = "the script fails",
  nonsense = "route returns what is no outcome",
  thrown_away = "the primary's reply is thrown away",
  hang = "it does not come to an end",
  endless = "it goes on without a bound",
  late = "it waits past the deadline",
  retried_verdict = "a verdict of the primary is not taken for an answer",
  vague_verdict = "verdict gives no word",
  failed_over_verdict = "a local provider is asked in spite of the primary's verdict",
  retried_after_bytes = "the primary is asked again after its reply had begun",
  nondeterminism = "the same world, another way",
}

local function wrap(text, width, indent, first)
  local lines, line = {}, first or indent
  local empty = true
  for word in text:gmatch("%S+") do
    if not empty and #line + 1 + #word > width then
      lines[#lines + 1] = line
      line, empty = indent, true
    end
    line = empty and line .. word or line .. " " .. word
    empty = false
  end
  lines[#lines + 1] = line
  return lines
end

local function thousands(n)
  local text = tostring(n)
  while true do
    local replaced, count = text:gsub("^(%d+)(%d%d%d)", "%1,%2")
    text = replaced
    if count == 0 then return text end
  end
end

local function plural(n, one, many)
  return ("%s %s"):format(thousands(n), n == 1 and one or many or one .. "s")
end

-- ---- the table ------------------------------------------------------------------------------------------------------

local COLUMNS = { "primary", "stand-ins", "probe", "local", "when", "the caller gets" }
local WHEN, GETS = 5, 6
local COLUMN_OF = { primary = 1, ["primary again"] = 1, ["stand-ins"] = 2, probe = 3, ["local"] = 4 }
local SHORT, NARROWEST, GAP = 12, 8, 2

local function put(lines, line) lines[#lines + 1] = line end

-- Long lists of what can happen get a letter each; what it stands for is said once, in `legend`.
local function names_in(legend)
  return function(labels)
    local text = table.concat(labels, ", ")
    if #text <= SHORT then return text end
    local name = legend[text]
    if not name then
      local n = #legend
      name = (n >= 26 and string.char(64 + n // 26) or "") .. string.char(65 + n % 26)
      legend[text] = name
      legend[n + 1] = { name = name, text = text }
    end
    return name
  end
end

-- One cell for each column. What has no column of its own is a condition.
local function columns_of(row, name_of)
  local out = {}
  for _, cell in ipairs(row.cells) do
    local column = COLUMN_OF[cell.point] or WHEN
    local text = column == WHEN and cell.point .. ": " .. table.concat(cell.labels, ", ") or name_of(cell.labels)
    local joint = column == WHEN and "; " or ", then "
    out[column] = out[column] and out[column] .. joint .. text or text
  end
  out[GETS] = row.result
  for c = 1, #COLUMNS do out[c] = out[c] or "" end
  return out
end

local function layout(rows)
  local widths, total, shown = {}, -GAP, {}
  for c = 1, #COLUMNS do
    local longest = 0
    for _, cells in ipairs(rows) do longest = math.max(longest, #cells[c]) end
    if longest > 0 then
      shown[#shown + 1] = c
      widths[c] = math.max(longest, #COLUMNS[c])
      total = total + widths[c] + GAP
    end
  end
  while total > WIDTH - 2 do
    local widest
    for _, c in ipairs(shown) do
      if not widest or widths[c] > widths[widest] then widest = c end
    end
    if widths[widest] <= NARROWEST then break end
    widths[widest] = widths[widest] - 1
    total = total - 1
  end
  return shown, widths
end

local function table_text(lines, rows, indent)
  local legend, cells = {}, {}
  local name_of = names_in(legend)
  for i, row in ipairs(rows) do cells[i] = columns_of(row, name_of) end
  local shown, widths = layout(cells)
  local function line_of(texts)
    local parts = {}
    for i, c in ipairs(shown) do
      parts[i] = texts[c] .. (" "):rep(widths[c] - #texts[c])
    end
    put(lines, ((indent .. table.concat(parts, (" "):rep(GAP))):gsub("%s+$", "")))
  end
  line_of(COLUMNS)
  local rule = {}
  for _, c in ipairs(shown) do rule[c] = ("-"):rep(widths[c]) end
  line_of(rule)
  for _, row in ipairs(cells) do
    local wrapped, height = {}, 1
    for _, c in ipairs(shown) do
      wrapped[c] = wrap(row[c], widths[c], "")
      height = math.max(height, #wrapped[c])
    end
    for h = 1, height do
      local texts = {}
      for _, c in ipairs(shown) do texts[c] = wrapped[c][h] or "" end
      line_of(texts)
    end
  end
  if #legend > 0 then put(lines, "") end
  for _, entry in ipairs(legend) do
    for _, line in ipairs(wrap(entry.text, WIDTH, indent .. "   ", indent .. ("%-3s"):format(entry.name))) do
      put(lines, line)
    end
  end
end

local function escaped(text)
  return (text:gsub("|", "\\|"))
end

local function table_markdown(lines, rows)
  local legend = {}
  local name_of = names_in(legend)
  put(lines, "| " .. table.concat(COLUMNS, " | ") .. " |")
  put(lines, "|" .. ("---|"):rep(#COLUMNS))
  for _, row in ipairs(rows) do
    local cells = columns_of(row, name_of)
    for c = 1, #COLUMNS do cells[c] = escaped(cells[c]) end
    put(lines, "| " .. table.concat(cells, " | ") .. " |")
  end
  if #legend > 0 then put(lines, "") end
  for _, entry in ipairs(legend) do put(lines, "- **" .. entry.name .. "**: " .. entry.text) end
end

-- ---- words about the whole ------------------------------------------------------------------------------------------

local function bounds(report)
  return ("bounded: %s, depth %d"):format(plural(report.worlds, "world"), report.depth)
end

local function effort(report)
  return ("%s run from %s, %.2f s"):format(thousands(report.executed), plural(report.states, "moment"), report.seconds)
end

local function verdict(report)
  if report.fail_closed then return "fail-closed" end
  if #report.findings > 0 then return "NOT fail-closed: " .. plural(#report.findings, "finding") end
  return "NOT known to be fail-closed: it was ended early, " .. tostring(report.stopped)
end

local function lag(report)
  if report.gate ~= "policy" then return nil end
  local bound = report.cache_allow_ms
  if not bound then
    return 'With "gate": "policy" the script alone decides. It keeps no allowed answer: an LLM that is revoked is not '
      .. "used by the next request."
  end
  return ("Revocation lag: the script keeps an allowed answer for at most %g ms (cache_allow_ms). That long an LLM may "
    .. "still be used after it was revoked. In the worlds looked at it was never longer than %g ms, for the same "
    .. "caller and LLM."):format(bound, report.lag_ms or 0)
end

local ABOUT = "The gate in C is the guarantee; this explains what the script does within these bounds, and no more."

local function finding_text(lines, finding, head)
  put(lines, "")
  for _, line in ipairs(wrap(TITLES[finding.kind] or finding.kind, WIDTH, "   ", head)) do put(lines, line) end
  for _, line in ipairs(wrap(finding.message, WIDTH, "   ")) do put(lines, line) end
  for _, step in ipairs(finding.sequence) do
    for _, line in ipairs(wrap(step, WIDTH, "     ", "   - ")) do put(lines, line) end
  end
end

-- After which requests the script decides otherwise, and how then.
local function others_text(lines, report)
  for i = 1, math.min(#report.others, 3) do
    local other = report.others[i]
    put(lines, "")
    put(lines, "The next request is decided otherwise after:")
    for _, step in ipairs(other.after) do
      for _, line in ipairs(wrap(step, WIDTH, "    ", "  - ")) do put(lines, line) end
    end
    put(lines, "")
    table_text(lines, other.table, "  ")
  end
  if #report.others > 3 then
    put(lines, "")
    local more = plural(#report.others - 3, "more moment")
    put(lines, "(and " .. more .. " in which it decides otherwise: the JSON report has them)")
  end
end

local function head_text(report)
  local lines = {}
  put(lines, report.name .. ": " .. verdict(report))
  put(lines, bounds(report) .. " (" .. effort(report) .. ")")
  for _, line in ipairs(wrap(ABOUT, WIDTH, "")) do put(lines, line) end
  if lag(report) then
    for _, line in ipairs(wrap(lag(report), WIDTH, "")) do put(lines, line) end
  end
  for i, finding in ipairs(report.findings) do finding_text(lines, finding, ("%d. %s: "):format(i, finding.kind)) end
  for _, note in ipairs(report.notes) do finding_text(lines, note, "note: ") end
  if #report.table > 0 then
    put(lines, "")
    put(lines, "What the caller gets, by what happens:")
    put(lines, "")
    table_text(lines, report.table, "  ")
  end
  return lines
end

local function as_text(report)
  local lines = head_text(report)
  others_text(lines, report)
  return table.concat(lines, "\n") .. "\n"
end

local function as_brief(report)
  local lines = head_text(report)
  if #report.others > 0 then
    put(lines, "")
    local moments = plural(#report.others, "moment")
    local text = ("Those are the requests at first. What came before can change that: there are %s after which the " ..
      "next request is decided otherwise (deputy verify -v).")
    for _, line in ipairs(wrap(text:format(moments), WIDTH, "")) do put(lines, line) end
  end
  return table.concat(lines, "\n") .. "\n"
end

local function finding_markdown(lines, finding, head)
  put(lines, "")
  put(lines, "## " .. head .. ": " .. (TITLES[finding.kind] or finding.kind))
  put(lines, "")
  put(lines, finding.message)
  put(lines, "")
  for _, step in ipairs(finding.sequence) do put(lines, "1. " .. step) end
end

local function as_markdown(report)
  local lines = {}
  put(lines, "# " .. report.name .. ": " .. verdict(report))
  put(lines, "")
  put(lines, bounds(report) .. " (" .. effort(report) .. "). " .. ABOUT)
  if lag(report) then
    put(lines, "")
    put(lines, lag(report))
  end
  for _, finding in ipairs(report.findings) do finding_markdown(lines, finding, finding.kind) end
  for _, note in ipairs(report.notes) do finding_markdown(lines, note, "note") end
  if #report.table > 0 then
    put(lines, "")
    put(lines, "## What the caller gets")
    put(lines, "")
    table_markdown(lines, report.table)
  end
  for _, other in ipairs(report.others) do
    put(lines, "")
    put(lines, "## The next request after")
    put(lines, "")
    for _, step in ipairs(other.after) do put(lines, "1. " .. step) end
    put(lines, "")
    table_markdown(lines, other.table)
  end
  return table.concat(lines, "\n") .. "\n"
end

-- ---- JSON -----------------------------------------------------------------------------------------------------------

local function string_json(text)
  return '"' .. text:gsub('[%c"\\\127]', function(c) return ("\\u%04x"):format(c:byte()) end) .. '"'
end

local function encode(value)
  if type(value) == "string" then return string_json(value) end
  if type(value) == "number" then
    return math.type(value) == "integer" and tostring(value) or ("%.6g"):format(value)
  end
  if type(value) ~= "table" then return value == nil and "null" or tostring(value) end
  local parts = {}
  if value.array then
    for i, item in ipairs(value.array) do parts[i] = encode(item) end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  for i = 1, #value, 2 do parts[#parts + 1] = string_json(value[i]) .. ":" .. encode(value[i + 1]) end
  return "{" .. table.concat(parts, ",") .. "}"
end

local function each(list, f)
  local out = {}
  for i, item in ipairs(list) do out[i] = f(item) end
  return { array = out }
end

local function same(item) return item end

local function rows_json(rows)
  return each(rows, function(row)
    return {
      "when", each(row.cells, function(cell) return { "point", cell.point, "is", each(cell.labels, same) } end),
      "result", row.result,
    }
  end)
end

local function findings_json(findings)
  return each(findings, function(finding)
    return { "kind", finding.kind, "message", finding.message, "sequence", each(finding.sequence, same) }
  end)
end

local function as_json(report)
  local members = {
    "script", report.name, "fail_closed", report.fail_closed, "complete", report.complete, "about", bounds(report),
    "gate", report.gate, "depth", report.depth, "worlds", report.worlds, "executed", report.executed,
    "moments", report.states, "seconds", report.seconds,
    "findings", findings_json(report.findings), "notes", findings_json(report.notes),
    "table", rows_json(report.table),
    "others", each(report.others, function(other)
      return { "after", each(other.after, same), "table", rows_json(other.table) }
    end),
  }
  if report.stopped then
    members[#members + 1] = "stopped"
    members[#members + 1] = report.stopped
  end
  if report.cache_allow_ms then
    for _, value in ipairs{ "cache_allow_ms", report.cache_allow_ms, "revocation_lag_ms", report.lag_ms or 0 } do
      members[#members + 1] = value
    end
  end
  return encode(members) .. "\n"
end

-- A script's own words may hold what a terminal obeys: control characters, in UTF-8 too (U+009B is ESC [).
local function without_controls(text)
  return (text:gsub("[%z\1-\9\11-\31\127]", " "):gsub("\xc2[\x80-\x9f]", " "))
end

local FORMATS = { text = as_text, brief = as_brief, json = as_json, markdown = as_markdown }

function M.format(report, how)
  local f = FORMATS[how or "text"]
  if not f then error(('expected "text", "brief", "json" or "markdown", got %q'):format(tostring(how)), 2) end
  return without_controls(f(report))
end

return M
