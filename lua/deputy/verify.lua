-- Explores what a policy does in every world that it can meet, within bounds that are said.
--
--   local verify = require "deputy.verify"
--   local report = verify.run{ name = "router.lua", text = text, settings = {}, gate = "probe", depth = 3 }
--   print(verify.format(report, "text"))          -- or "json", "markdown"
--
-- run takes:
--   name, text   of the script
--   settings     ({}), gate ("probe"), depth (1: requests in a row)
--   permit_ms    (5000) how long a clean 2xx stays good
--   timeout_s    (60), max_worlds (a million, of those that have to be run)
--   clock        a function that gives seconds (os.clock)
--   environment  a function that makes the script's table of globals; absent: a safe one
--   resume       a function (instructions, co, ...) that gives how many are left, what ran out or nil, and then what
--                coroutine.resume gives; absent: a count hook
-- and gives a report:
--   fail_closed  true when everything was looked at and nothing found
--   complete     false when the time or max_worlds ended it early
--   findings     array of { kind =, message =, sequence = array of lines, shortest first }
--   notes        the same, for what is unusual and fails closed all the same
--   worlds       how many ways a request can go were looked at; executed: how many of them had to be run, the others
--                went on as one that had been seen; states: different moments between requests; depth, seconds
--   lag_ms       gate "policy": the longest time between a clean 2xx and a local provider's use
--   table        what the script decides: array of { cells = { { point =, labels = } }, result = }; and others: the
--                same for moments in which it decides differently, each with the request that leads there
--
-- A run is repeated from its start for each way it can go (a coroutine cannot be copied). Two runs whose scripts stand
-- at the same place with the same memory go on alike, if they also agree on what will still be looked at; so each
-- place remembers what was looked at after it, and only the first to come there goes on.
--
-- The gate is the guarantee; this is the explanation.
local World = require "deputy.verify_world"
local reports = require "deputy.verify_report"
local names = require "deputy.verify_names"

local M = {}

local concat, sort = table.concat, table.sort
-- Wider than the default policy, yet nobody is answered without permission and every error is the primary's.
local NOTES = { failed_over_verdict = true, vague_verdict = true }
local REPEATS, FINDINGS, HANGS, STATES = 8, 200, 3, 20000

local Explorer = {}
Explorer.__index = Explorer

-- ---- signatures: equal ones decide alike ----------------------------------------------------------------------------

-- Numbers what is the same, once: a result, or a point with what follows each of its answers.
local function intern(self, text, make)
  local id = self.ids[text]
  if not id then
    id = #self.signatures + 1
    self.ids[text] = id
    self.signatures[id] = make()
  end
  return id
end

local function leaf_signature(self, result)
  return intern(self, "=" .. result, function() return { result = result } end)
end

-- Answers after which the same follows are one; a point whose answers all lead to the same is none. What a caller who
-- left gets (0) says nothing about the script.
local function node_signature(self, node)
  local groups, by_id = {}, {}
  for i, child in ipairs(node.children) do
    local id = child.signature
    if id ~= 0 then
      local group = by_id[id]
      if not group then
        group = { id = id, labels = {} }
        by_id[id] = group
        groups[#groups + 1] = group
      end
      group.labels[#group.labels + 1] = node.options[i].label
    end
  end
  if #groups == 0 then return 0 end
  if #groups == 1 then return groups[1].id end
  local text = { node.point }
  for _, group in ipairs(groups) do text[#text + 1] = concat(group.labels, ", ") .. ">" .. group.id end
  return intern(self, concat(text, "\n"), function() return { point = node.point, groups = groups } end)
end

-- ---- findings -------------------------------------------------------------------------------------------------------

local function request_text(labels, result, times)
  local words = {}
  for _, label in ipairs(labels) do words[#words + 1] = label end
  local text = concat(words, "; ")
  if times and times > 1 then text = text .. (" (%d times)"):format(times) end
  return result and text .. " -> " .. result or text
end

local function labels_of(path, n)
  local labels = {}
  for i = 1, n do
    local node = path[i]
    labels[i] = node.point .. ": " .. node.options[node.index].label
  end
  return labels
end

local function weight(history, n)
  local sum = n
  for _, request in ipairs(history) do sum = sum + 100 * (request.times or 1) + #request.labels end
  return sum
end

local function keep(self, kind, message, labels)
  local key = kind .. "\n" .. message:gsub("%f[%w]%d[%d.]*", "#") -- another number is not another finding
  local heavy = weight(self.history, #labels)
  local known = self.found[key]
  if known and known.weight <= heavy then return end
  if not known then
    if self.n_found >= FINDINGS then return end
    self.n_found = self.n_found + 1
  end
  local sequence = {}
  for i, request in ipairs(self.history) do
    sequence[i] = ("request %d: "):format(i) .. request_text(request.labels, request.result, request.times)
  end
  sequence[#sequence + 1] = (#self.history > 0 and ("request %d: "):format(#self.history + 1) or "")
    .. (#labels > 0 and request_text(labels) or "at once")
  self.found[key] = { kind = kind, message = message, sequence = sequence, weight = heavy }
end

-- In the run that goes on: kept for the path, and for all that come to the same place later.
function Explorer:find(kind, message, label)
  if self.quiet then return end
  if label then return keep(self, kind, message, { label }) end
  local n = self.cursor
  local labels = labels_of(self.path, n)
  keep(self, kind, message, labels)
  for i = 1, n do
    local node = self.path[i]
    local suffix = {}
    for j = i + 1, n do suffix[#suffix + 1] = labels[j] end
    node.found = node.found or {}
    local known = node.found[kind .. "\n" .. message]
    if not known or #known.suffix > #suffix + 1 then
      table.insert(suffix, 1, labels[i])
      node.found[kind .. "\n" .. message] = { kind = kind, message = message, suffix = suffix }
    end
  end
  if kind == "hang" then
    self.hangs = self.hangs + 1
    if self.hangs >= HANGS then self.stopped = "computes without end" end
  end
end

local function copy_of(t)
  local copy = {}
  for key, value in pairs(t) do copy[key] = value end
  return copy
end

-- ---- choices --------------------------------------------------------------------------------------------------------

local function facts_at(world, objects, index)
  if index == 0 then return world.facts.fields end
  local record = objects[index]
  return record and record.fields or {}
end

-- A place that was left with all its answers known, and where this run would find the same.
local function recall(self, world, key, objects)
  local variants = self.memo[key]
  if not variants then return nil end
  for _, variant in ipairs(variants) do
    local same = true
    for _, fact in ipairs(variant.facts) do
      if facts_at(world, objects, fact[1])[fact[2]] ~= fact[3] then
        same = false
        break
      end
    end
    if same then return variant end
  end
end

local function inherit_reads(self, node, variant, objects)
  for _, fact in ipairs(variant.facts) do
    local ordinal = fact[1] == 0 and 0 or objects[fact[1]].ordinal
    local fields = node.reads[ordinal]
    if not fields then
      fields = {}
      node.reads[ordinal] = fields
    end
    fields[fact[2]] = true
  end
  if variant.found then
    local labels = labels_of(self.path, self.cursor)
    for name, found in pairs(variant.found) do
      local all = {}
      for i, label in ipairs(labels) do all[i] = label end
      for _, label in ipairs(found.suffix) do all[#all + 1] = label end
      keep(self, found.kind, found.message, all)
      for i = 1, self.cursor do
        local above = self.path[i]
        above.found = above.found or {}
        local suffix = {}
        for j = i, #all do suffix[#suffix + 1] = all[j] end
        local known = above.found[name]
        if not known or #known.suffix > #suffix then
          above.found[name] = { kind = found.kind, message = found.message, suffix = suffix }
        end
      end
    end
  end
end

local ROOT = { reads = {} }

function Explorer:choose(world, point, options, unkeyed)
  local at = self.cursor + 1
  if self.quiet then return self:follow(at, point, options) end
  local node = self.path[at]
  if node then
    if node.point ~= point or #node.options ~= #options then
      self.differs = ("it asked for %q where it had asked for %q before"):format(point, node.point)
      return nil
    end
    self.cursor = at
    return node.index
  end
  if at <= self.known then
    self.differs = "it ended later than before"
    return nil
  end
  local key, objects
  if not unkeyed then
    key, objects = world:key(point, options)
    local variant = recall(self, world, key, objects)
    if variant then
      if at > 1 then inherit_reads(self, self.path[at - 1], variant, objects) end
      self.merged = variant
      return nil
    end
  end
  self.path[at] = { point = point, options = options, index = 1, children = {}, key = key, objects = objects,
    reads = {}, facts = key and copy_of(world.facts.fields) }
  self.cursor = at
  return 1
end

function Explorer:read(record, field)
  if self.quiet then return end
  local node = self.path[self.cursor] or ROOT
  local fields = node.reads[record.ordinal]
  if not fields then
    fields = {}
    node.reads[record.ordinal] = fields
  end
  fields[field] = true
end

-- Repeats a request that was seen, as far as it goes the same way; what only a later request is asked goes by default.
function Explorer:follow(at, point, options)
  local wanted = self.quiet[at]
  if wanted and wanted.point == point then
    local label = wanted.options[wanted.index].label
    for i, option in ipairs(options) do
      if option.label == label then
        self.cursor = at
        return i
      end
    end
  end
  return not self.strict and options[1].first and 1 or nil
end

-- All answers of a place are known: what it comes to.
local function close(self, node, parent)
  local worlds = 0
  for _, child in ipairs(node.children) do worlds = worlds + child.worlds end
  local summary = { signature = node_signature(self, node), worlds = worlds, found = node.found, facts = {} }
  if node.key then
    local position = { [0] = 0 }
    for i, record in ipairs(node.objects) do position[record.ordinal] = position[record.ordinal] or i end
    for ordinal, fields in pairs(node.reads) do
      local i = position[ordinal]
      if i then
        local values = i == 0 and node.facts or node.objects[i].fields
        for field in pairs(fields) do summary.facts[#summary.facts + 1] = { i, field, values[field] } end
      end
    end
    local variants = self.memo[node.key]
    if not variants then
      variants = {}
      self.memo[node.key] = variants
    end
    variants[#variants + 1] = summary
  end
  for ordinal, fields in pairs(node.reads) do
    local above = parent.reads[ordinal]
    if not above then
      above = {}
      parent.reads[ordinal] = above
    end
    for field in pairs(fields) do above[field] = true end
  end
  return summary
end

-- ---- from one moment ------------------------------------------------------------------------------------------------

local function over_bounds(self)
  if self.stopped then return true end
  if self.executed % 16 == 0 and self.clock() - self.began > self.timeout_s then
    self.stopped = ("the time (%g s) ran out"):format(self.timeout_s)
  elseif self.executed >= self.max_worlds then
    self.stopped = ("the bound of %d worlds was reached"):format(self.max_worlds)
  end
  return self.stopped ~= nil
end

local function register(self, result, path, n, times, layer)
  if self.n_states >= STATES then return nil end
  local key = self.world:moment_key()
  if self.seen[key] then return nil end
  self.seen[key] = true
  self.n_states = self.n_states + 1
  local labels = {}
  for i = 1, n do labels[i] = path[i].point .. ": " .. path[i].options[path[i].index].label end
  local history = {}
  for i, request in ipairs(self.history) do history[i] = request end
  history[#history + 1] = { labels = labels, result = result, times = times }
  local moment = self.world:moment()
  moment.history = history
  layer[#layer + 1] = moment
  return moment
end

-- The same request again and again, until nothing new comes of it but that time has passed: what counts reaches its
-- limit that way.
local function repeat_request(self, moment, path, n, layer)
  local script, last = {}, nil
  for i = 1, n do script[i] = { point = path[i].point, options = path[i].options, index = path[i].index } end
  for times = 2, REPEATS do
    self.quiet, self.cursor = script, 0
    local result = self.world:route(moment, 2)
    local whole = self.cursor == n
    self.quiet = nil
    if not result or not whole then return end
    local timeless = self.world:moment_key():gsub("t[%d.-]+", "t")
    if timeless == last then return end
    last = timeless
    moment = register(self, result, script, n, times, layer)
    if not moment then return end
  end
end

-- Explores every way one request can go. Returns the summary of the first choice.
local function explore(self, moment, request, layer)
  local world = self.world
  self.path, self.known = {}, 0
  self.history = moment.history
  ROOT.reads = {}
  while true do
    self.cursor, self.merged, self.differs = 0, nil, nil
    self.executed = self.executed + 1
    local result, left = world:route(moment, request)
    local path = self.path
    if self.differs or (result and self.cursor < #path) then
      self.cursor = math.min(self.cursor, #path)
      self:find("nondeterminism", "asked the same in the same world, the script goes another way: "
        .. (self.differs or "it ended earlier than before"))
      self.stopped = "goes another way each time"
      return nil
    end
    local summary = self.merged
    if not summary then
      self.worlds = self.worlds + 1
      summary = { signature = left and 0 or leaf_signature(self, result), worlds = 1 }
      if self.again and result and not left then self:again(moment, request, result) end
      if layer then
        local n = self.cursor
        local new = register(self, result, path, n, nil, layer)
        if new and not left then repeat_request(self, new, path, n, layer) end
      end
    else
      self.worlds = self.worlds + summary.worlds
    end
    if over_bounds(self) then return nil end
    -- back to the last place that has an answer left
    while true do
      local node = path[#path]
      if not node then return summary end
      node.children[node.index] = summary
      if node.index < #node.options then
        node.index = node.index + 1
        break
      end
      path[#path] = nil
      summary = close(self, node, path[#path] or ROOT)
    end
    self.known = #path
  end
end

-- The same once more: a script that looks at addresses or at what the collector does goes another way now and then.
function Explorer:again(moment, request, result)
  local n = self.cursor
  local script = {}
  for i = 1, n do script[i] = self.path[i] end
  local key = self.world:moment_key()
  self.quiet, self.cursor = script, 0
  local other = self.world:route(moment, request)
  local whole = self.cursor == n
  self.quiet, self.cursor = nil, n
  if other == result and whole and self.world:moment_key() == key then return end
  self:find("nondeterminism", "asked the same in the same world, the script goes another way: "
    .. (other and other ~= result and ("%s, then %s"):format(result, other) or "it remembers something else"))
  self.stopped = "goes another way each time"
end

-- ---- the whole ------------------------------------------------------------------------------------------------------

local function rows_of(self, signature, limit)
  local rows, cells = {}, {}
  local function walk(id)
    local s = self.signatures[id]
    if not s or #rows >= limit then return end
    if s.result then
      local copy = {}
      for i, cell in ipairs(cells) do copy[i] = cell end
      rows[#rows + 1] = { cells = copy, result = s.result }
      return
    end
    for _, group in ipairs(s.groups) do
      cells[#cells + 1] = { point = s.point, labels = group.labels }
      walk(group.id)
      cells[#cells] = nil
    end
  end
  walk(signature)
  return rows
end

local function has_finding(self)
  for _, found in pairs(self.found) do
    if not NOTES[found.kind] then return true end
  end
  return false
end

local function sorted_findings(self, are_notes)
  local list = {}
  for _, found in pairs(self.found) do
    if (NOTES[found.kind] or false) == are_notes then list[#list + 1] = found end
  end
  sort(list, function(a, b)
    if a.kind ~= b.kind then return a.kind < b.kind end
    if a.weight ~= b.weight then return a.weight < b.weight end
    return a.message < b.message
  end)
  for _, found in ipairs(list) do found.weight = nil end
  return list
end

local function explore_all(self, given)
  local world = self.world
  local first = world:moment()
  first.history = {}
  self.history, self.path, self.cursor = {}, {}, 0
  world:judge_verdicts(first)
  world:judge_failures(first)
  self.quiet, self.cursor = {}, 0
  self.quiet = nil
  local layer, tables, by_signature = { first }, {}, {}
  self.n_states = 1
  for request = 1, given.depth do
    local following = request < given.depth and {} or nil
    self.again = request == 1 and Explorer.again or false
    for _, moment in ipairs(layer) do
      local summary = explore(self, moment, request, following)
      if summary and summary.signature ~= 0 then
        if not by_signature[summary.signature] then
          by_signature[summary.signature] = true
          tables[#tables + 1] = { signature = summary.signature, history = moment.history }
        end
      end
      if self.stopped then return tables end
    end
    if has_finding(self) then return tables end -- what is shortest has been found
    layer = following
  end
  self.again = false
  for _, name in ipairs(names.of(given.text, given.settings, world.script.settings)) do
    self.memo = {}
    if not world:name_everything(name) then break end
    explore(self, first, 1)
    if self.stopped or has_finding(self) then return tables end
  end
  return tables
end

function M.run(given)
  local clock = given.clock or os.clock
  local self = setmetatable({
    ids = {}, signatures = {}, memo = {}, seen = {}, found = {}, n_found = 0, hangs = 0, worlds = 0, executed = 0,
    n_states = 0, lag_ms = nil, clock = clock, began = clock(), timeout_s = given.timeout_s or 60,
    max_worlds = given.max_worlds or 1000000, path = {}, cursor = 0, history = {}, known = 0,
  }, Explorer)
  local options = { name = given.name or "policy", text = given.text, settings = given.settings or {},
    gate = given.gate or "probe", depth = given.depth or 1 }
  local tables = {}
  self.world = World.new{
    name = options.name, text = options.text, settings = options.settings, gate = options.gate,
    permit_ms = given.permit_ms, environment = given.environment, resume = given.resume,
    owner = {
      choose = function(...) return self:choose(...) end,
      find = function(...) return self:find(...) end,
      read = function(...) return self:read(...) end,
      lag = function(ms) self.lag_ms = math.max(self.lag_ms or 0, ms) end,
    },
  }
  local problem = self.world:load()
  if problem then
    keep(self, "load", problem, {})
  else
    tables = explore_all(self, options)
  end
  local findings = sorted_findings(self, false)
  local report = {
    name = options.name, gate = options.gate, settings = options.settings, depth = options.depth,
    complete = self.stopped == nil, stopped = self.stopped,
    fail_closed = #findings == 0 and self.stopped == nil,
    findings = findings, notes = sorted_findings(self, true),
    worlds = self.worlds, executed = self.executed, states = self.n_states,
    lag_ms = self.lag_ms, cache_allow_ms = self.world.cache_allow_ms,
    table = tables[1] and rows_of(self, tables[1].signature, 200) or {}, others = {},
  }
  for i = 2, #tables do
    local lines = {}
    for j, request in ipairs(tables[i].history) do
      lines[j] = request_text(request.labels, request.result, request.times)
    end
    report.others[i - 1] = { after = lines, table = rows_of(self, tables[i].signature, 50) }
  end
  report.seconds = clock() - self.began
  return report
end

--- A report as "text" for 80 columns, "json" or "markdown".
function M.format(report, how)
  return reports.format(report, how)
end

return M
