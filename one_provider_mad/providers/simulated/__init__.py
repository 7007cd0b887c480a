"""The embedded cloud: small, in one SQLite file shared by all its processes."""
