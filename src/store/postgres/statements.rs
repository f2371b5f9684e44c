//! The statements of the tables `sessions` and `untold`. Each statement is one transaction.

use std::sync::LazyLock;

use crate::store::row::{SESSION_COLUMNS, select_largest_network};

pub(super) const INSERT: &str = "INSERT INTO qrlogin.sessions (id, code, version, state, created_at, expires_at,
         client_ip, client_browser, client_os, client_origin, client_info, client_network, oauth_request)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";

pub(super) static READ: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {SESSION_COLUMNS} FROM qrlogin.sessions WHERE id = ANY($1::bytea[])"));

/// Statement that selects a session and where its browser waits.
pub(super) static FIND_BY_KEY: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {SESSION_COLUMNS}, node, attachment FROM qrlogin.sessions WHERE id = $1"));

pub(super) static FIND_BY_CODE: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {SESSION_COLUMNS}, node, attachment FROM qrlogin.sessions WHERE code = $1"));

/// Statement that attaches connections. It locks the rows, so a concurrent decision either finds this node in the row
/// or is contained in the result.
///
/// It attaches no session after the deadline `$4`. The caller has given up by then, so no connection would hold the new
/// attachment number, and a connection that the browser has opened since would be superseded by it.
pub(super) static ATTACH: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH found AS MATERIALIZED (
             SELECT id AS found_id, node AS before FROM qrlogin.sessions
             WHERE id = ANY($1::bytea[]) ORDER BY id FOR NO KEY UPDATE
         ), timed AS MATERIALIZED (
             SELECT found_id, before, qrlogin.now_millis() < $4 AS is_in_time FROM found
         ), attached AS (
             UPDATE qrlogin.sessions SET node = $2, attachment = attachment + 1
             FROM timed WHERE id = found_id AND is_in_time
             RETURNING {SESSION_COLUMNS}, attachment, nullif(before, $2) AS left_behind
         ), untold AS (
             INSERT INTO qrlogin.untold (node, id, version, attachment, since)
             SELECT left_behind, id, version, attachment, qrlogin.now_millis() FROM attached
             WHERE left_behind IS NOT NULL
             ON CONFLICT (node, id) DO UPDATE SET
                 version = greatest(untold.version, excluded.version),
                 attachment = greatest(untold.attachment, excluded.attachment)
         )
         SELECT {SESSION_COLUMNS}, attachment, left_behind, CASE WHEN $3 AND left_behind IS NOT NULL THEN
             pg_notify('qrlogin_' || left_behind, encode(id, 'base64') || ':' || version || ':' || attachment) IS NULL
         END, qrlogin.now_millis() AS now, (SELECT count(*) FROM timed WHERE NOT is_in_time) AS overdue
         FROM (VALUES (1)) AS always LEFT JOIN attached ON true"
    )
});

/// Statement that reads sessions and then the time. The time is read while all rows are locked, so it is later than
/// every decision in them.
pub(super) static READ_SETTLED: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH locked AS MATERIALIZED (
             SELECT {SESSION_COLUMNS} FROM qrlogin.sessions WHERE id = ANY($1::bytea[]) ORDER BY id FOR SHARE
         ), instant AS MATERIALIZED (
             SELECT count(*) AS locked, qrlogin.now_millis() AS now FROM locked
         )
         SELECT {SESSION_COLUMNS}, now FROM instant LEFT JOIN locked ON true"
    )
});

/// Statement that writes a change. The time is read while the row is locked, so the wait for the lock does not prolong
/// the session.
pub(super) const REPLACE: &str = "WITH locked AS MATERIALIZED (
         SELECT id AS locked_id FROM qrlogin.sessions WHERE id = $1 AND version = $2 FOR NO KEY UPDATE
     ), timed AS MATERIALIZED (
         SELECT locked_id, qrlogin.now_millis() AS now FROM locked
     ), written AS (
         UPDATE qrlogin.sessions SET version = version + 1, state = $3, user_id = $4, user_name = $5,
             user_picture = $6, decided_at = $7, claimable_until = $8, token_grant = $9, scanned_at = $10, reason = $11
         FROM timed WHERE id = locked_id AND now < $14
         RETURNING id, version, state, node, attachment
     ), untold AS (
         INSERT INTO qrlogin.untold (node, id, version, attachment, since)
         SELECT node, id, version, attachment, qrlogin.now_millis() FROM written
         WHERE node IS NOT NULL AND state <> 'claimed'
         ON CONFLICT (node, id) DO UPDATE SET
             version = greatest(untold.version, excluded.version),
             attachment = greatest(untold.attachment, excluded.attachment)
     )
     SELECT node, attachment, CASE WHEN $12 AND node <> $13 AND state <> 'claimed' THEN
         pg_notify('qrlogin_' || node, encode(id, 'base64') || ':' || version || ':' || attachment) IS NULL
     END FROM written";

pub(super) static SWEEP: LazyLock<String> = LazyLock::new(|| {
    format!(
        "DELETE FROM qrlogin.sessions WHERE id = ANY(ARRAY(
             SELECT id FROM qrlogin.sessions WHERE expires_at < $1
             ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
         )) RETURNING {SESSION_COLUMNS}"
    )
});

pub(super) static LARGEST_NETWORK: LazyLock<String> = LazyLock::new(|| select_largest_network("qrlogin.sessions"));

/// Statement that selects the time, and whether the server is read-only. A standby is, and a managed server may be when
/// its disk is nearly full.
pub(super) const PING: &str = "SELECT qrlogin.now_millis() AS now,
    CAST(current_setting('transaction_read_only') = 'on' AS integer)::bigint AS is_read_only";

/// Statement that deletes up to `$2` entries of nodes that are gone. It scans the table, because `since` has no index.
/// It skips entries that another node deletes at the same time, because two scans may lock them in different orders.
pub(super) const SWEEP_UNDELIVERED: &str = "DELETE FROM qrlogin.untold WHERE (node, id) IN (
         SELECT node, id FROM qrlogin.untold WHERE since < $1 LIMIT $2 FOR UPDATE SKIP LOCKED
     )";

/// Statement that selects the undelivered changes of a node, with their sessions if these exist.
pub(super) static UNDELIVERED: LazyLock<String> = LazyLock::new(|| {
    let columns = SESSION_COLUMNS.replace("id, code, version,", "session.id, code, session.version,");
    format!(
        "SELECT {columns}, untold.id AS changed_id, untold.version AS changed_version,
             untold.attachment AS changed_attachment, qrlogin.now_millis() AS now
         FROM (VALUES (1)) AS always LEFT JOIN (
             SELECT id, version, attachment FROM qrlogin.untold WHERE node = $1 LIMIT $2
         ) AS untold ON true LEFT JOIN qrlogin.sessions AS session ON session.id = untold.id"
    )
});

/// Statement that deletes delivered changes. It skips entries that another transaction has locked; the next read finds
/// them again.
pub(super) const DELETE_DELIVERED: &str = "DELETE FROM qrlogin.untold WHERE (node, id) IN (
         SELECT node, id FROM qrlogin.untold JOIN
             unnest($2::bytea[], $3::bigint[], $4::bigint[]) AS told (told_id, told_version, told_attachment)
             ON id = told_id AND version <= told_version AND attachment <= told_attachment
         WHERE node = $1 ORDER BY id FOR UPDATE SKIP LOCKED
     )";
