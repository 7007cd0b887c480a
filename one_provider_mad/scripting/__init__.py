"""Runs the operator's scripts as processes, and builds their environment."""
