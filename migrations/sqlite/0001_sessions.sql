-- pending ──scan──▶ scanned ──confirm──▶ confirmed ──receipt──▶ claimed
--    │                 │ └────reject───▶ rejected
--    └──confirm/reject─┘
--    pending, scanned ──cancel──▶ cancelled
--
-- 'expired' is not written: it is read off expires_at (undecided) or claimable_until (confirmed) and the time.
-- Every change is one UPDATE ... WHERE id = ? AND version = ?, and moves version on by one.
-- Times are milliseconds since the Unix epoch.

CREATE TABLE IF NOT EXISTS sessions (
    id              BLOB    NOT NULL PRIMARY KEY,  -- SHA-256 of the browser's secret
    code            BLOB    NOT NULL UNIQUE,       -- SHA-256 of the code in the QR picture
    version         BIGINT  NOT NULL,
    state           TEXT    NOT NULL
                    CHECK (state IN ('pending', 'scanned', 'confirmed', 'claimed', 'rejected', 'cancelled')),
    created_at      BIGINT  NOT NULL,
    expires_at      BIGINT  NOT NULL,

    -- who asks, as the server saw it
    client_ip       TEXT    NOT NULL,
    client_browser  TEXT,
    client_os       TEXT,
    client_origin   TEXT,
    client_info     TEXT,

    -- who scanned or decided
    user_id         TEXT,
    user_name       TEXT,
    user_picture    TEXT,

    -- a yes: what the token says (never the token), and until when it may be fetched
    decided_at      BIGINT,
    claimable_until BIGINT,
    token_grant     TEXT,

    CHECK ((user_id IS NULL) = (state IN ('pending', 'cancelled'))),
    CHECK ((token_grant IS NOT NULL) = (state IN ('confirmed', 'claimed')))
);

-- For the sweeper. It never changes, so no update has to touch an index.
CREATE INDEX IF NOT EXISTS sessions_by_expires_at ON sessions (expires_at);
