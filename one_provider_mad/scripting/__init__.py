"""Somebody else's scripts as processes: how they are run, and in which environment."""
