-- The request of an OAuth client that began the session, as JSON. NULL in all other sessions.
ALTER TABLE qrlogin.sessions ADD COLUMN oauth_request text;

-- State of OAuth that outlives a session and has an end: refresh token families, single sign-on sessions, user codes and
-- the ids of used assertions. Every change is one UPDATE ... WHERE id = $1 AND version = $2.
CREATE TABLE qrlogin.records (
    id              bytea   NOT NULL PRIMARY KEY,  -- a SHA-256
    version         bigint  NOT NULL,
    expires_at      bigint  NOT NULL,              -- a time like those of sessions
    data            text    NOT NULL
);

-- For the sweep of ended records.
CREATE INDEX records_by_expires_at ON qrlogin.records (expires_at);
