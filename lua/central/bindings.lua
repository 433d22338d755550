-- Role bindings: rows of (subject, role, all LLMs or one, allow or deny). An LLM is bound by its id, looked up once by
-- whichever of id and name was given: a rename changes nothing, and a new LLM of an old name inherits nothing.
local fields = require "central.fields"
local ids = require "central.ids"
local llms = require "central.llms"
local problem = require "central.problem"
local rbac = require "central.rbac"
local subjects = require "central.subjects"

local bindings = {}

bindings.MAX_PER_SUBJECT = 100000

local SQL = {
  by_id = [[
    SELECT b.id, b.subject_id, s.kind, s.name, b.role, b.effect, b.llm_id, l.name, b.created_at, b.created_by
      FROM bindings b JOIN subjects s ON s.id = b.subject_id LEFT JOIN llms l ON l.id = b.llm_id WHERE b.id = ?]],
  exact = [[
    SELECT b.id, b.subject_id, s.kind, s.name, b.role, b.effect, b.llm_id, l.name, b.created_at, b.created_by
      FROM bindings b JOIN subjects s ON s.id = b.subject_id LEFT JOIN llms l ON l.id = b.llm_id
      WHERE b.subject_id = ? AND b.scope = ? AND b.role = ? AND b.effect = ?]],
  all = [[
    SELECT b.id, b.subject_id, s.kind, s.name, b.role, b.effect, b.llm_id, l.name, b.created_at, b.created_by
      FROM bindings b JOIN subjects s ON s.id = b.subject_id LEFT JOIN llms l ON l.id = b.llm_id
      WHERE b.id > ? ORDER BY b.id LIMIT ?]],
  of_subject = [[
    SELECT b.id, b.subject_id, s.kind, s.name, b.role, b.effect, b.llm_id, l.name, b.created_at, b.created_by
      FROM bindings b JOIN subjects s ON s.id = b.subject_id LEFT JOIN llms l ON l.id = b.llm_id
      WHERE b.subject_id = ? AND b.id > ? ORDER BY b.id LIMIT ?]],
  of_llm = [[
    SELECT b.id, b.subject_id, s.kind, s.name, b.role, b.effect, b.llm_id, l.name, b.created_at, b.created_by
      FROM bindings b JOIN subjects s ON s.id = b.subject_id LEFT JOIN llms l ON l.id = b.llm_id
      WHERE b.llm_id = ? AND b.id > ? ORDER BY b.id LIMIT ?]],
  of_both = [[
    SELECT b.id, b.subject_id, s.kind, s.name, b.role, b.effect, b.llm_id, l.name, b.created_at, b.created_by
      FROM bindings b JOIN subjects s ON s.id = b.subject_id LEFT JOIN llms l ON l.id = b.llm_id
      WHERE b.subject_id = ? AND b.llm_id = ? AND b.id > ? ORDER BY b.id LIMIT ?]],
  count = "SELECT count(*) FROM bindings WHERE subject_id = ?",
  insert = [[
    INSERT INTO bindings (id, subject_id, scope, llm_id, role, effect, created_at, created_by)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING]],
  delete = "DELETE FROM bindings WHERE id = ?",
  has_admin = [[
    SELECT 1 FROM (
      SELECT b.subject_id AS id FROM bindings b WHERE b.llm_id IS NULL AND b.role = 'admin' AND b.effect = 'allow'
      UNION ALL
      SELECT m.user_id FROM bindings b JOIN memberships m ON m.group_id = b.subject_id
        WHERE b.llm_id IS NULL AND b.role = 'admin' AND b.effect = 'allow'
    ) who JOIN subjects s ON s.id = who.id
    WHERE s.kind <> 'group' AND s.disabled = 0
      AND EXISTS (SELECT 1 FROM tokens t
        WHERE t.user_id = s.id AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > ?))
      AND NOT EXISTS (SELECT 1 FROM bindings d
        WHERE d.subject_id = s.id AND d.scope = '*' AND d.role = 'admin' AND d.effect = 'deny')
      AND NOT EXISTS (SELECT 1 FROM memberships n JOIN bindings d ON d.subject_id = n.group_id
        WHERE n.user_id = s.id AND d.scope = '*' AND d.role = 'admin' AND d.effect = 'deny')
    LIMIT 1]],
  any_admin = "SELECT 1 FROM bindings WHERE scope = '*' AND role = 'admin' AND effect = 'allow' LIMIT 1",
}

local ID, SUBJECT_ID, KIND, SUBJECT, ROLE, EFFECT, LLM_ID, LLM, CREATED, BY = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
bindings.LLM_ID = LLM_ID

local INPUT = {
  user = { kind = "key" }, group = { kind = "key" }, role = { kind = "word", of = rbac.ROLES, required = true },
  llm = { kind = "key" }, effect = { kind = "word", of = { "allow", "deny" } },
}

-- What a grant or a revocation says, with its defaults: { user = | group =, role =, llm =, effect = }.
function bindings.read(input)
  local values, why = fields.read(INPUT, input)
  if not values then return nil, why end
  -- A null may be a variable that was never set: it does not mean all LLMs.
  for field, value in pairs(values) do
    if value == fields.NONE then
      return nil, problem(400, "invalid_request", "%s: must not be null: leave it out instead", field)
    end
  end
  if (values.user ~= nil) == (values.group ~= nil) then
    return nil, problem(400, "invalid_request", "expected one of user and group")
  end
  if values.role == "create" and values.llm then
    return nil, problem(400, "invalid_request", "llm: create is for LLMs that are not there yet: leave llm out")
  end
  values.effect = values.effect or "allow"
  return values
end

-- Finds what read() gave: the subject's row and the LLM's, the latter nil for all LLMs.
function bindings.resolve(database, values)
  local llm
  if values.llm then
    llm = llms.find(database, values.llm)
    if not llm then
      return nil, problem(404, "llm_not_found", 'no LLM "%s": a permission can only be given on one that exists',
        values.llm)
    end
  end
  local subject, why = subjects.find(database, values.user or values.group, values.user and "user" or "group")
  if not subject then return nil, why end
  return subject, llm
end

function bindings.view(row)
  return {
    id = row[ID], subjectId = row[SUBJECT_ID], subjectKind = row[KIND], subject = row[SUBJECT], role = row[ROLE],
    effect = row[EFFECT], llmId = row[LLM_ID], llm = row[LLM] or "*", createdAt = row[CREATED], createdBy = row[BY],
  }
end

-- For the audit log.
function bindings.target(row)
  return { kind = row[KIND], id = row[SUBJECT_ID], name = row[SUBJECT] }, {
    binding = row[ID], role = row[ROLE], effect = row[EFFECT], llm = row[LLM] or "*", llmId = row[LLM_ID],
  }
end

function bindings.find(database, id)
  local row = ids.is_id(id) and database:one(SQL.by_id, id)
  if row then return row end
  return nil, problem(404, "binding_not_found", 'no binding "%s"', id)
end

local function exact(database, values, subject, llm)
  return database:one(SQL.exact, subject[subjects.ID], llm and llm[llms.AT.id] or "*", values.role, values.effect)
end

-- The row, and whether it is new.
function bindings.grant(database, values, subject, llm, by, now)
  local row = exact(database, values, subject, llm)
  if row then return row, false end
  if database:one(SQL.count, subject[subjects.ID])[1] >= bindings.MAX_PER_SUBJECT then
    return nil, problem(409, "too_many", '"%s" has %d bindings, which is the most there can be: use a group',
      subject[subjects.NAME], bindings.MAX_PER_SUBJECT)
  end
  local id, llm_id = ids.new(), llm and llm[llms.AT.id]
  database:run(SQL.insert, id, subject[subjects.ID], llm_id or "*", llm_id, values.role, values.effect, now, by)
  return database:one(SQL.by_id, id), true
end

-- The row that is exactly that binding, or a problem that names what comes near.
function bindings.exact(database, values, subject, llm)
  local row = exact(database, values, subject, llm)
  if row then return row end
  local why = problem(404, "binding_not_found", '"%s" has no such binding: %s %s on %s', subject[subjects.NAME],
    values.effect, values.role, llm and llm[llms.AT.name] or "all LLMs")
  if llm and exact(database, values, subject, nil) then
    why.message = why.message .. "; there is one on all LLMs: revoke that, or deny this one"
  end
  return nil, why
end

function bindings.delete(database, row)
  return database:run(SQL.delete, row[ID])
end

function bindings.list(database, subject, llm, after, count)
  local subject_id, llm_id = subject and subject[subjects.ID], llm and llm[llms.AT.id]
  if subject_id and llm_id then return database:all(SQL.of_both, subject_id, llm_id, after, count) end
  if subject_id then return database:all(SQL.of_subject, subject_id, after, count) end
  if llm_id then return database:all(SQL.of_llm, llm_id, after, count) end
  return database:all(SQL.all, after, count)
end

-- Whether somebody is admin of all LLMs who can also show it: enabled, with a token that is good.
function bindings.has_admin(database, now)
  return database:one(SQL.has_admin, now) ~= nil
end

function bindings.any_admin(database)
  return database:one(SQL.any_admin) ~= nil
end

return bindings
