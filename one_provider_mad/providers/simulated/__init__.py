"""The embedded cloud: small, in one SQLite file, shared by every process that opens it."""
