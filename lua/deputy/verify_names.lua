-- The names that a script and its settings mention: an LLM, a provider, an endpoint or an error's code that is one of
-- them may be treated otherwise than any other.
local M = {}

local MOST, LONGEST = 48, 64

-- What every script has to mention, and what the worlds of verify already bear.
local KNOWN = {}
for word in ([[connect dns tls timeout malformed in_band cut error status cancelled deadline limit refused ok protocol
  no_token allowed forbidden unreachable kind code message retry_after content_type us size stream route should_failover
  verdict probe policy warn info debug chat/completions completions embeddings responses messages text/html
  application/xhtml+xml default one_of from to off fields type timeout_ms llm claude local-1 local-2 k v kv]])
  :gmatch("%S+") do
  KNOWN[word] = true
end

--- An array, sorted; at most 48. What the script declares as its settings is none.
function M.of(text, settings, declared)
  local list, seen = {}, {}
  local function add(word)
    word = word:gsub("%%(.)", "%1"):gsub("^%^", ""):gsub("%$$", "")
    local is_name = #word >= 1 and #word <= LONGEST and not word:find("%c") and not word:find("^deputy%.")
    if not is_name or KNOWN[word] or seen[word] or #list >= MOST then return end
    seen[word] = true
    list[#list + 1] = word
  end
  local function walk(t, depth, see)
    for key, value in pairs(t) do
      if type(key) == "string" then see(key) end
      if type(value) == "string" then see(value) end
      if type(value) == "table" and depth < 4 then walk(value, depth + 1, see) end
    end
  end
  walk(settings, 1, add)
  if type(declared) == "table" then walk(declared, 1, function(word) seen[word] = true end) end
  local code = text:gsub("%-%-[^\n]*", "")
  for word in code:gmatch('"([^"\n]*)"') do add(word) end
  for word in code:gmatch("'([^'\n]*)'") do add(word) end
  for word, after in code:gmatch("[{,;]%s*([%a_][%w_]*)%s*=()") do
    if code:sub(after, after) ~= "=" then add(word) end
  end
  table.sort(list)
  return list
end

return M
