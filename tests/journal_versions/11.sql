PRAGMA auto_vacuum = INCREMENTAL;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS writers (
    pid INTEGER NOT NULL, start TEXT NOT NULL, parent_pid INTEGER NOT NULL, parent_start TEXT NOT NULL,
    seen_at REAL NOT NULL, PRIMARY KEY (pid, start));
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY, vm_id INTEGER NOT NULL, action TEXT NOT NULL, is_two_blank INTEGER NOT NULL,
    payload BLOB NOT NULL, opened_at REAL NOT NULL, pid INTEGER NOT NULL, start TEXT NOT NULL,
    takers INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS attempts (
    token TEXT PRIMARY KEY, owner TEXT NOT NULL, vm_id INTEGER NOT NULL, stime INTEGER NOT NULL, seq INTEGER NOT NULL,
    host_id INTEGER NOT NULL, number INTEGER NOT NULL, parameters TEXT NOT NULL, state TEXT NOT NULL,
    deploy_id TEXT NOT NULL, sent_at REAL NOT NULL, answered_at REAL NOT NULL, detail TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS attempts_of_vm ON attempts (owner, vm_id);
CREATE INDEX IF NOT EXISTS attempts_sent ON attempts (sent_at);
CREATE INDEX IF NOT EXISTS attempts_answered ON attempts (answered_at);
CREATE INDEX IF NOT EXISTS attempts_finished ON attempts (sent_at, answered_at) WHERE state IN ('gone', 'refused');
CREATE TABLE IF NOT EXISTS moments (token TEXT PRIMARY KEY, at REAL NOT NULL, steady REAL NOT NULL, boot TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS debts (
    id INTEGER PRIMARY KEY, deploy_id TEXT NOT NULL, token TEXT NOT NULL, owner TEXT NOT NULL, vm_id INTEGER NOT NULL,
    stime INTEGER NOT NULL, seq INTEGER NOT NULL, host_id INTEGER NOT NULL, reason TEXT NOT NULL, since REAL NOT NULL,
    tries INTEGER NOT NULL, last_error TEXT NOT NULL, UNIQUE (deploy_id, token, vm_id, stime));
CREATE TABLE IF NOT EXISTS parked (deploy_id TEXT PRIMARY KEY, vm_id INTEGER NOT NULL, since REAL NOT NULL);
CREATE TABLE IF NOT EXISTS soft_ends (
    deploy_id TEXT PRIMARY KEY, at REAL NOT NULL, steady REAL NOT NULL, boot TEXT NOT NULL,
    is_refused INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS imported (deploy_id TEXT PRIMARY KEY, vm_id INTEGER NOT NULL, stime INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS asked (key TEXT PRIMARY KEY, is_token INTEGER NOT NULL, asked TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answered (
    vm_id INTEGER PRIMARY KEY, action TEXT NOT NULL, at REAL NOT NULL, has_ended INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS instances (deploy_id TEXT PRIMARY KEY, vm_id INTEGER NOT NULL, ended_at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS instances_of_vm ON instances (vm_id);
CREATE TABLE IF NOT EXISTS recreations (
    vm_id INTEGER PRIMARY KEY, stime INTEGER NOT NULL, seq INTEGER NOT NULL, at REAL NOT NULL, reason TEXT NOT NULL,
    is_interrupted INTEGER NOT NULL, tries INTEGER NOT NULL, recreated_seq INTEGER NOT NULL,
    recreated_at REAL NOT NULL);
PRAGMA user_version = 11;
