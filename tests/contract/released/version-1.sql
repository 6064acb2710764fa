-- The ledger of the first release, as sqlite3's .dump gives it: no version is kept.
CREATE TABLE runs (run_id VARCHAR(32) NOT NULL, command VARCHAR(64) NOT NULL, started_at VARCHAR(32) NOT NULL, ended_at VARCHAR(32), exit_code INTEGER, counts JSON, PRIMARY KEY (run_id));
CREATE INDEX ix_runs_command ON runs (command);
CREATE TABLE attempts (item VARCHAR(512) NOT NULL, tries INTEGER NOT NULL, last_at VARCHAR(32) NOT NULL, last_error TEXT NOT NULL, PRIMARY KEY (item));
INSERT INTO runs VALUES('0123456789abcdef0123456789abcdef','nightly','2026-11-22T02:15:00.000Z','2026-11-22T02:16:00.000Z',0,'{"replies": 4}');
INSERT INTO runs VALUES('fedcba9876543210fedcba9876543210','copy-media','2026-11-22T02:30:00.000Z',NULL,NULL,NULL);
INSERT INTO attempts VALUES('acme/a1.mkv',3,'2026-11-22T02:16:00.000Z','503');
