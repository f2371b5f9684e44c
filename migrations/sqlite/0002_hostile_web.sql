-- code now is the SHA-256 of what all codes of a session have in common: codes rotate, and rows do not.

-- When a phone first scanned or decided: from here on the session's codes stay.
ALTER TABLE sessions ADD COLUMN scanned_at BIGINT;
-- Why it was cancelled, if the browser did not: 'overload'.
ALTER TABLE sessions ADD COLUMN reason TEXT;
-- What counts as one client: its address, of IPv6 the first 64 bits.
ALTER TABLE sessions ADD COLUMN client_network TEXT;
