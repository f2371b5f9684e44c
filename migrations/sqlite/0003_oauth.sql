-- The request of an OAuth client that began the session, as JSON. NULL in all other sessions.
ALTER TABLE sessions ADD COLUMN oauth_request TEXT;

-- State of OAuth that outlives a session and has an end: refresh token families, single sign-on sessions, user codes and
-- the ids of used assertions. Every change is one UPDATE ... WHERE id = ? AND version = ?.
CREATE TABLE records (
    id              BLOB    NOT NULL PRIMARY KEY,  -- a SHA-256
    version         BIGINT  NOT NULL,
    expires_at      BIGINT  NOT NULL,              -- a time like those of sessions
    data            TEXT    NOT NULL
);

-- For the sweep of ended records.
CREATE INDEX records_by_expires_at ON records (expires_at);
