-- What a policy remembers: written down so that equal states have equal texts, and kept so that it can be brought back.
--
-- Everything a script can reach is walked: tables, upvalues, the stacks of its coroutines. Moments count by their
-- distance from now, and what the simulated world handed out (failures, replies, ...) by its part in the run, not by
-- its content: who compares two states looks at the content that was really read.
local M = {}

M.NOW = 7.3e8 -- where the simulated monotonic clock begins
M.WALL = 1.8e9 -- and the wall clock, 2027-01-15 08:00 UTC

local getinfo, getlocal, getupvalue = debug.getinfo, debug.getlocal, debug.getupvalue
local setupvalue, upvalueid, getmetatable = debug.setupvalue, debug.upvalueid, debug.getmetatable
local setmetatable = debug.setmetatable
local next, type, tostring, rawset, rawget, rawequal = next, type, tostring, rawset, rawget, rawequal
local concat, sort, format, mathtype = table.concat, table.sort, string.format, math.type
local status = coroutine.status

local function before(a, b)
  local ta, tb = type(a), type(b)
  if ta ~= tb then return ta < tb end
  return a < b
end

--- Does a number look like a moment on one of the clocks?
function M.is_moment(v)
  return mathtype(v) and ((v >= 7.2e8 and v < 7.5e8) or (v >= 7.2e11 and v < 7.5e11) or (v >= 1.79e9 and v < 1.9e9)
    or (v >= 1.79e12 and v < 1.9e12))
end

--- A function key(at, threads) -> text, the world's objects in the order in which they were met. given:
---   atoms    object -> name, of all that never changes
---   sims     object -> record of what the world handed out
---   ours     the sources of the world's own functions, whose frames say nothing
---   base     a snapshot; what is as it was there is left out
---   longest  seconds; what is longer ago is simply long ago
function M.writer(given)
  local atoms, sims, ours, base, longest = given.atoms, given.sims, given.ours, given.base, -given.longest
  local out, n, ids, count, objects, origin, wall, run
  local put
  local known, moments = {}, {}
  for i, entry in ipairs(base.tables) do
    known[entry[1]] = "b" .. i
    for _, value in next, entry[2] do moments[#moments + 1] = M.is_moment(value) and value or nil end
  end
  for i, entry in ipairs(base.functions) do known[entry] = "f" .. i end
  for _, cell in ipairs(base.cells) do moments[#moments + 1] = M.is_moment(cell[3]) and cell[3] or nil end
  local protos = setmetatable({}, { __mode = "k" })

  local function add(text)
    n = n + 1
    out[n] = text
  end

  local function put_age(clock, seconds)
    if seconds < longest then return add(clock) end
    add(format("%s%.3f", clock, seconds))
  end

  local function put_number(v)
    if mathtype(v) == "float" or v > 1000000 then
      if v >= 7.2e8 and v < 7.5e8 then return put_age("t", v - origin) end
      if v >= 7.2e11 and v < 7.5e11 then return put_age("T", v / 1000 - origin) end
      if wall and v >= 1.79e9 and v < 1.9e9 then return put_age("w", v - wall) end
      if wall and v >= 1.79e12 and v < 1.9e12 then return put_age("W", v / 1000 - wall) end
      return add(format("n%.14g", v))
    end
    add("i")
    add(v)
  end

  local function put_table(t)
    if known[t] then return add(known[t]) end
    local id = ids[t]
    if id then
      add("@")
      return add(id)
    end
    count = count + 1
    ids[t] = count
    local keys, k, others = {}, 0, nil
    for key in next, t do
      local kind = type(key)
      if kind == "string" or kind == "number" then
        k = k + 1
        keys[k] = key
      else
        others = others or {}
        others[#others + 1] = key
      end
    end
    if k > 1 then sort(keys, before) end
    add("{")
    for i = 1, k do
      local key = keys[i]
      local value = rawget(t, key)
      local atom = atoms[value]
      if atom == nil or atom ~= key then -- a library's function under its own name says nothing
        put(key)
        put(value)
      end
    end
    for i = 1, others and #others or 0 do
      put(others[i])
      put(rawget(t, others[i]))
    end
    local meta = getmetatable(t)
    if meta then
      add("|")
      put(meta)
    end
    add("}")
  end

  local function put_function(f)
    if known[f] then return add(known[f]) end
    local id = ids[f]
    if id then
      add("@")
      return add(id)
    end
    count = count + 1
    ids[f] = count
    local proto = protos[f]
    if not proto then
      local info = getinfo(f, "S")
      proto = info.what == "C" and "C" or info.short_src .. info.linedefined .. "-" .. info.lastlinedefined
      if ours[info.source] then atoms[f] = "our" .. info.linedefined end
      protos[f] = proto
    end
    if atoms[f] then return add(atoms[f]) end
    add("(")
    add(proto)
    for i = 1, 255 do
      local name, value = getupvalue(f, i)
      if not name then break end
      put(value)
    end
    add(")")
  end

  local function put_thread(co)
    local id = ids[co]
    if id then
      add("@")
      return add(id)
    end
    count = count + 1
    ids[co] = count
    add("<")
    add(status(co))
    for level = 0, 200 do
      local info = getinfo(co, level, "Slf")
      if not info then break end
      local atom = atoms[info.func]
      if info.what == "C" then
        add(atom or "C")
      elseif atom or not ours[info.source] then
        if atom then add(atom) else put(info.func) end
        add(":")
        add(info.currentline)
        for i = 1, 250 do
          local name, value = getlocal(co, level, i)
          if not name then break end
          put(value)
        end
        for i = -1, -250, -1 do
          local name, value = getlocal(co, level, i)
          if not name then break end
          put(value)
        end
      end
    end
    add(">")
  end

  put = function(v)
    local kind = type(v)
    if kind == "string" then
      add(#v)
      add("'")
      add(v)
    elseif kind == "number" then
      put_number(v)
    elseif kind == "table" then
      local record = sims[v]
      if record then
        if record.run == run then
          objects[#objects + 1] = record
          add("o")
          add(record.role)
        else
          add("O")
          add(record.text)
        end
      elseif atoms[v] then
        add(atoms[v])
      else
        put_table(v)
      end
    elseif kind == "function" then
      local atom = atoms[v]
      if atom then add("a") add(atom) else put_function(v) end
    elseif kind == "thread" then
      put_thread(v)
    elseif v == nil then
      add("-")
    else
      add(tostring(v))
    end
    add(",")
  end

  local function put_changes(t, entry)
    local copy, left, changed = entry[2], entry[4], nil
    for key, value in next, t do
      local old = copy[key]
      if old ~= nil then left = left - 1 end
      if old ~= value then
        changed = changed or {}
        changed[#changed + 1] = key
      end
    end
    if left > 0 then
      for key in next, copy do
        if rawget(t, key) == nil then
          changed = changed or {}
          changed[#changed + 1] = key
        end
      end
    end
    if not changed then return end
    sort(changed, function(x, y)
      local tx, ty = type(x), type(y)
      if tx ~= ty then return tx < ty end
      return (tx == "string" or tx == "number") and x < y
    end)
    add(known[t])
    add("=")
    for i = 1, #changed do
      put(changed[i])
      put(rawget(t, changed[i]))
    end
  end

  local function put_base()
    local tables, cells = base.tables, base.cells
    for i = 1, #tables do
      local entry = tables[i]
      local t = entry[1]
      put_changes(t, entry)
      local meta = getmetatable(t)
      if meta ~= (entry[3] or nil) then
        add(known[t])
        add("|")
        put(meta)
      end
    end
    for i = 1, #cells do
      local cell = cells[i]
      local _, value = getupvalue(cell[1], cell[2])
      if not rawequal(value, cell[3]) then
        add("c")
        add(i)
        put(value)
      end
    end
    for i = 1, #moments do put_number(moments[i]) end
  end

  return function(at, threads)
    out, n, ids, count, objects = {}, 0, {}, 0, {}
    origin, wall, run = at.origin, at.wall, at.run
    for i = 1, #threads do
      put_thread(threads[i].co)
      add(threads[i].waits)
      add(";")
    end
    put_base()
    return concat(out, "", 1, n), objects
  end
end

--- Keeps what can be reached from roots. atoms and sims as above.
function M.snapshot(roots, atoms, sims)
  local tables, cells, functions, seen, stack, top = {}, {}, {}, {}, {}, 0
  local function visit(v)
    local kind = type(v)
    if (kind == "table" or kind == "function") and not seen[v] and not atoms[v] and not sims[v] then
      seen[v] = true
      top = top + 1
      stack[top] = v
    end
  end
  for i = 1, #roots do visit(roots[i]) end
  while top > 0 do
    local v = stack[top]
    top = top - 1
    if type(v) == "table" then
      local copy, size = {}, 0
      for key, value in next, v do
        size = size + 1
        copy[key] = value
        visit(key)
        visit(value)
      end
      local meta = getmetatable(v)
      visit(meta)
      tables[#tables + 1] = { v, copy, meta or false, size }
    else
      functions[#functions + 1] = v
      for i = 1, 255 do
        local name, value = getupvalue(v, i)
        if not name then break end
        local id = upvalueid(v, i)
        if id and not seen[id] then
          seen[id] = true
          cells[#cells + 1] = { v, i, value }
        end
        visit(value)
      end
    end
  end
  return { tables = tables, cells = cells, functions = functions }
end

--- Brings it back.
function M.restore(snapshot)
  local tables, cells = snapshot.tables, snapshot.cells
  for i = 1, #tables do
    local entry = tables[i]
    local t, copy, left = entry[1], entry[2], entry[4]
    for key, value in next, t do
      local old = copy[key]
      if old ~= nil then left = left - 1 end
      if old ~= value then rawset(t, key, old) end -- a field that is there may be changed while they are walked
    end
    if left > 0 then
      for key, value in next, copy do
        if rawget(t, key) == nil then rawset(t, key, value) end
      end
    end
    local meta = entry[3] or nil
    if getmetatable(t) ~= meta then setmetatable(t, meta) end
  end
  for i = 1, #cells do
    local cell = cells[i]
    local _, value = getupvalue(cell[1], cell[2])
    if value ~= cell[3] then setupvalue(cell[1], cell[2], cell[3]) end
  end
end

--- The same program with each word on a line of its own, so that a line says exactly where a coroutine waits; and from
--- its lines to the old ones. nil when it is not understood.
function M.spread(text)
  local words, lines, line, at, len = {}, {}, 1, 1, #text
  if text:sub(1, 1) == "#" then at = (text:find("\n", 1, true) or len) end
  local function newlines(from, to)
    local _, count = text:sub(from, to):gsub("\n", "")
    line = line + count
    return count
  end
  local function word(to)
    local piece = text:sub(at, to)
    words[#words + 1] = piece
    lines[#lines + 1] = line
    local inside = newlines(at, to)
    for i = 1, inside do lines[#lines + 1] = line - inside + i end
    at = to + 1
  end
  local function long_end(from)
    local level = text:match("^%[(=*)%[", from)
    if not level then return nil end
    local _, stop = text:find("]" .. level .. "]", from, true)
    return stop or false
  end
  while at <= len do
    local _, blank = text:find("^%s+", at)
    if blank then
      newlines(at, blank)
      at = blank + 1
    elseif text:find("^%-%-", at) then
      local stop = long_end(at + 2)
      if stop == false then return nil end
      stop = stop or (text:find("\n", at, true) or len + 1) - 1
      newlines(at, stop)
      at = stop + 1
    else
      local c = text:sub(at, at)
      local stop = c == "[" and long_end(at)
      if stop == false and text:find("^%[=*%[", at) then return nil end
      if not stop and (c == '"' or c == "'") then
        stop = at + 1
        while text:sub(stop, stop) ~= c do
          if stop > len then return nil end
          if text:sub(stop, stop) == "\\" then
            local _, skipped = text:find("^z%s*", stop + 1)
            stop = skipped or stop + 1
          end
          stop = stop + 1
        end
      end
      if not stop then
        local _, e = text:find("^[%a_][%w_]*", at)
        if not e and text:find("^%.?%d", at) then
          local pattern = text:find("^0[xX]", at) and "^0[xX][%x%.]*[pP]?" or "^[%d%.]+[eE]?"
          _, e = text:find(pattern, at)
          if text:find("^[eEpP]", e) then
            local _, further = text:find("^[+-]?%d+", e + 1)
            e = further or e
          end
        end
        if not e then
          _, e = text:find("^%.%.%.?", at)
          if not e then _, e = text:find("^[=~<>]=", at) end
          if not e then _, e = text:find("^//", at) end
          if not e then _, e = text:find("^<<", at) end
          if not e then _, e = text:find("^>>", at) end
          if not e then _, e = text:find("^::", at) end
        end
        stop = e or at
      end
      word(stop)
    end
  end
  return concat(words, "\n"), lines
end

return M
