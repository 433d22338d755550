-- The nearest known word, for messages about an unknown one.
--
--   nearest.suggest(word, known)    'did you mean "x"?', or all that is known when nothing is near
--   nearest.distance(a, b)          how many letters are inserted, deleted, changed or swapped with their neighbours to
--                                   turn a into b; capitals, - and _ do not count
local nearest = {}

local MAX_WORD = 64

local function edit_distance(a, b)
  local row = {}
  for j = 0, #b do row[j] = j end
  local last
  for i = 1, #a do
    local before = last
    last, row = row, { [0] = i }
    for j = 1, #b do
      local same = a:byte(i) == b:byte(j)
      row[j] = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (same and 0 or 1))
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
  end
  return row[#b]
end

local function plain(word)
  return (word:lower():gsub("[-_]", ""))
end

function nearest.distance(a, b)
  return edit_distance(plain(a), plain(b))
end

function nearest.suggest(word, known)
  local best, least
  for _, each in ipairs(known) do
    local distance = #word <= MAX_WORD and nearest.distance(word, each) or math.huge
    if not least or distance < least then best, least = each, distance end
  end
  if best and least <= math.max(1, #best // 3) then return ('did you mean "%s"?'):format(best) end
  return "known here: " .. table.concat(known, ", ")
end

return nearest
