-- code now is the SHA-256 of what all codes of a session have in common: codes rotate, and rows do not.

-- When a phone first scanned or decided: from here on the session's codes stay.
ALTER TABLE qrlogin.sessions ADD COLUMN scanned_at bigint;
-- Why it was cancelled, if the browser did not: 'overload'.
ALTER TABLE qrlogin.sessions ADD COLUMN reason text;
-- What counts as one client: its address, of IPv6 the first 64 bits.
ALTER TABLE qrlogin.sessions ADD COLUMN client_network text;
