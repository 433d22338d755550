-- The tables, step by step, as PostgreSQL has them: the steps of schema_sqlite.lua. Texts compare by their bytes, as in
-- SQLite, whatever the language of the database.
return {
  {
    [[CREATE TABLE subjects (
      id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
      kind TEXT COLLATE "C" NOT NULL CHECK (kind IN ('user', 'service', 'group')),
      name TEXT COLLATE "C" NOT NULL UNIQUE,
      disabled INTEGER NOT NULL DEFAULT 0 CHECK (disabled IN (0, 1)),
      created_at TEXT COLLATE "C" NOT NULL,
      updated_at TEXT COLLATE "C" NOT NULL
    )]],
    [[CREATE INDEX subjects_by_kind ON subjects (kind, name)]],
    [[CREATE TABLE memberships (
      user_id TEXT COLLATE "C" NOT NULL REFERENCES subjects (id) ON DELETE CASCADE,
      group_id TEXT COLLATE "C" NOT NULL REFERENCES subjects (id) ON DELETE CASCADE,
      created_at TEXT COLLATE "C" NOT NULL,
      PRIMARY KEY (user_id, group_id)
    )]],
    [[CREATE INDEX memberships_by_group ON memberships (group_id, user_id)]],
    [[CREATE TABLE tokens (
      id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
      user_id TEXT COLLATE "C" NOT NULL REFERENCES subjects (id) ON DELETE CASCADE,
      name TEXT COLLATE "C" NOT NULL,
      hash TEXT COLLATE "C" NOT NULL,
      created_at TEXT COLLATE "C" NOT NULL,
      expires_at TEXT COLLATE "C",
      revoked_at TEXT COLLATE "C",
      last_used_at TEXT COLLATE "C"
    )]],
    [[CREATE INDEX tokens_by_user ON tokens (user_id, id)]],
    [[CREATE TABLE llms (
      id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
      name TEXT COLLATE "C" NOT NULL UNIQUE,
      description TEXT COLLATE "C" NOT NULL,
      type TEXT COLLATE "C" NOT NULL,
      url TEXT COLLATE "C" NOT NULL,
      model TEXT COLLATE "C" NOT NULL,
      api_key_env TEXT COLLATE "C",
      api_key_file TEXT COLLATE "C",
      enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
      paused INTEGER NOT NULL CHECK (paused IN (0, 1)),
      revision INTEGER NOT NULL,
      created_at TEXT COLLATE "C" NOT NULL,
      updated_at TEXT COLLATE "C" NOT NULL,
      CHECK (api_key_env IS NULL OR api_key_file IS NULL)
    )]],
    -- scope: an LLM's id, or * for all of them. bit: the binding as one bit of a caller's rights, see rbac.lua.
    [[CREATE TABLE bindings (
      id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
      subject_id TEXT COLLATE "C" NOT NULL REFERENCES subjects (id) ON DELETE CASCADE,
      scope TEXT COLLATE "C" NOT NULL,
      llm_id TEXT COLLATE "C" REFERENCES llms (id) ON DELETE CASCADE,
      role TEXT COLLATE "C" NOT NULL CHECK (role IN ('view', 'run', 'create', 'edit', 'delete', 'admin')),
      effect TEXT COLLATE "C" NOT NULL CHECK (effect IN ('allow', 'deny')),
      bit INTEGER NOT NULL GENERATED ALWAYS AS (
        CASE role WHEN 'view' THEN 1 WHEN 'run' THEN 4 WHEN 'create' THEN 16 WHEN 'edit' THEN 64
          WHEN 'delete' THEN 256 ELSE 1024 END * CASE effect WHEN 'deny' THEN 2 ELSE 1 END
      ) STORED,
      created_at TEXT COLLATE "C" NOT NULL,
      created_by TEXT COLLATE "C" NOT NULL,
      CHECK (scope = COALESCE(llm_id, '*')),
      UNIQUE (subject_id, scope, bit)
    )]],
    [[CREATE INDEX bindings_by_llm ON bindings (llm_id)]],
    [[CREATE TABLE audit (
      seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      at TEXT COLLATE "C" NOT NULL,
      since TEXT COLLATE "C",
      actor_id TEXT COLLATE "C",
      actor TEXT COLLATE "C" NOT NULL,
      token_id TEXT COLLATE "C",
      peer TEXT COLLATE "C",
      action TEXT COLLATE "C" NOT NULL,
      target_kind TEXT COLLATE "C",
      target_id TEXT COLLATE "C",
      target TEXT COLLATE "C",
      outcome TEXT COLLATE "C" NOT NULL CHECK (outcome IN ('done', 'refused')),
      code TEXT COLLATE "C",
      times INTEGER NOT NULL DEFAULT 1,
      detail TEXT COLLATE "C"
    )]],
    [[CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$]],
    [[CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_refuse()]],
    [[CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()]],
  },
  {
    [[CREATE INDEX audit_by_time ON audit (at, seq)]],
  },
}
