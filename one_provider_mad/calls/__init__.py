"""Calls to a cloud: bounded in time, repeated where that is allowed, and shared where several actions ask the same."""
