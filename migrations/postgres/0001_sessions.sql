-- pending ──scan──▶ scanned ──confirm──▶ confirmed ──receipt──▶ claimed
--    │                 │ └────reject───▶ rejected
--    └──confirm/reject─┘
--    pending, scanned ──cancel──▶ cancelled
--
-- 'expired' is not written: it is read off expires_at (undecided) or claimable_until (confirmed) and the time.
-- Every change is one UPDATE ... WHERE id = ? AND version = ?, and moves version on by one.
-- Times are milliseconds since the Unix epoch, on this server's clock.

-- What every node goes by. After a lock has been waited for, it shows when that was over.
CREATE FUNCTION qrlogin.now_millis() RETURNS bigint LANGUAGE sql VOLATILE
    AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;

-- A row lives for minutes, and changes some four times. No column that changes is indexed, and every page has room for
-- its rows' next versions, so that no change touches an index (HOT) and old versions go at the next visit of the page.
CREATE TABLE qrlogin.sessions (
    id              bytea   NOT NULL PRIMARY KEY,  -- SHA-256 of the browser's secret
    code            bytea   NOT NULL UNIQUE,       -- SHA-256 of the code in the QR picture
    version         bigint  NOT NULL,
    state           text    NOT NULL
                    CHECK (state IN ('pending', 'scanned', 'confirmed', 'claimed', 'rejected', 'cancelled')),
    created_at      bigint  NOT NULL,
    expires_at      bigint  NOT NULL,

    -- where the browser waits: the node it came to last, and how often it has come
    node            text,
    attachment      bigint  NOT NULL DEFAULT 0,

    -- who asks, as the server saw it
    client_ip       text    NOT NULL,
    client_browser  text,
    client_os       text,
    client_origin   text,
    client_info     text,

    -- who scanned or decided
    user_id         text,
    user_name       text,
    user_picture    text,

    -- a yes: what the token says (never the token), and until when it may be fetched
    decided_at      bigint,
    claimable_until bigint,
    token_grant     text,

    CHECK ((user_id IS NULL) = (state IN ('pending', 'cancelled'))),
    CHECK ((token_grant IS NOT NULL) = (state IN ('confirmed', 'claimed')))
) WITH (
    fillfactor = 60,
    -- By count, not by share: what matters is how much is dead, however much lives.
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_scale_factor = 0.2, autovacuum_vacuum_insert_threshold = 10000,
    autovacuum_analyze_scale_factor = 0.1, autovacuum_analyze_threshold = 2000,
    autovacuum_vacuum_cost_delay = 1
);

-- For the sweeper. It never changes, so no update has to touch an index.
CREATE INDEX sessions_by_expires_at ON qrlogin.sessions (expires_at);

-- What a node has still to look at: written with the change, removed when its browser has been told, or is not there.
CREATE TABLE qrlogin.untold (
    node            text    NOT NULL,
    id              bytea   NOT NULL,              -- the session's
    version         bigint  NOT NULL,
    attachment      bigint  NOT NULL,              -- connections with a smaller number are no longer told
    since           bigint  NOT NULL,
    PRIMARY KEY (node, id)
) WITH (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000,
    autovacuum_vacuum_cost_delay = 1
);
