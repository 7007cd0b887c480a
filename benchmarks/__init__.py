"""The figures of both daemons, measured beside bare programs that do the same work."""
