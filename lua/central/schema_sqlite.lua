-- The tables, step by step, as SQLite has them; schema_postgres.lua holds the same steps. A step that was released is
-- never changed: a new one follows it.
return {
  {
    [[CREATE TABLE subjects (
      id TEXT NOT NULL PRIMARY KEY,
      kind TEXT NOT NULL CHECK (kind IN ('user', 'service', 'group')),
      name TEXT NOT NULL UNIQUE,
      disabled INTEGER NOT NULL DEFAULT 0 CHECK (disabled IN (0, 1)),
      created_at TEXT NOT NULL,
      updated_at TEXT NOT NULL
    ) WITHOUT ROWID]],
    [[CREATE INDEX subjects_by_kind ON subjects (kind, name)]],
    [[CREATE TABLE memberships (
      user_id TEXT NOT NULL REFERENCES subjects (id) ON DELETE CASCADE,
      group_id TEXT NOT NULL REFERENCES subjects (id) ON DELETE CASCADE,
      created_at TEXT NOT NULL,
      PRIMARY KEY (user_id, group_id)
    ) WITHOUT ROWID]],
    [[CREATE INDEX memberships_by_group ON memberships (group_id, user_id)]],
    [[CREATE TABLE tokens (
      id TEXT NOT NULL PRIMARY KEY,
      user_id TEXT NOT NULL REFERENCES subjects (id) ON DELETE CASCADE,
      name TEXT NOT NULL,
      hash TEXT NOT NULL,
      created_at TEXT NOT NULL,
      expires_at TEXT,
      revoked_at TEXT,
      last_used_at TEXT
    ) WITHOUT ROWID]],
    [[CREATE INDEX tokens_by_user ON tokens (user_id, id)]],
    [[CREATE TABLE llms (
      id TEXT NOT NULL PRIMARY KEY,
      name TEXT NOT NULL UNIQUE,
      description TEXT NOT NULL,
      type TEXT NOT NULL,
      url TEXT NOT NULL,
      model TEXT NOT NULL,
      api_key_env TEXT,
      api_key_file TEXT,
      enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
      paused INTEGER NOT NULL CHECK (paused IN (0, 1)),
      revision INTEGER NOT NULL,
      created_at TEXT NOT NULL,
      updated_at TEXT NOT NULL,
      CHECK (api_key_env IS NULL OR api_key_file IS NULL)
    ) WITHOUT ROWID]],
    -- scope: an LLM's id, or * for all of them. bit: the binding as one bit of a caller's rights, see rbac.lua.
    [[CREATE TABLE bindings (
      id TEXT NOT NULL PRIMARY KEY,
      subject_id TEXT NOT NULL REFERENCES subjects (id) ON DELETE CASCADE,
      scope TEXT NOT NULL,
      llm_id TEXT REFERENCES llms (id) ON DELETE CASCADE,
      role TEXT NOT NULL CHECK (role IN ('view', 'run', 'create', 'edit', 'delete', 'admin')),
      effect TEXT NOT NULL CHECK (effect IN ('allow', 'deny')),
      bit INTEGER NOT NULL GENERATED ALWAYS AS (
        CASE role WHEN 'view' THEN 1 WHEN 'run' THEN 4 WHEN 'create' THEN 16 WHEN 'edit' THEN 64
          WHEN 'delete' THEN 256 ELSE 1024 END * CASE effect WHEN 'deny' THEN 2 ELSE 1 END
      ) STORED,
      created_at TEXT NOT NULL,
      created_by TEXT NOT NULL,
      CHECK (scope = COALESCE(llm_id, '*')),
      UNIQUE (subject_id, scope, bit)
    ) WITHOUT ROWID]],
    [[CREATE INDEX bindings_by_llm ON bindings (llm_id)]],
    [[CREATE TABLE audit (
      seq INTEGER PRIMARY KEY AUTOINCREMENT,
      at TEXT NOT NULL,
      since TEXT,
      actor_id TEXT,
      actor TEXT NOT NULL,
      token_id TEXT,
      peer TEXT,
      action TEXT NOT NULL,
      target_kind TEXT,
      target_id TEXT,
      target TEXT,
      outcome TEXT NOT NULL CHECK (outcome IN ('done', 'refused')),
      code TEXT,
      times INTEGER NOT NULL DEFAULT 1,
      detail TEXT
    )]],
    [[CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit
      BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END]],
    [[CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit
      BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END]],
    -- REPLACE deletes without a trigger for it.
    [[CREATE TRIGGER audit_no_replace BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE seq = NEW.seq)
      BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END]],
  },
  {
    [[CREATE INDEX audit_by_time ON audit (at, seq)]],
  },
}
