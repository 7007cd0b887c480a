"""The figures of the action daemon, measured beside a bare program that does the same work."""
