"""Limits on what a cloud may cost: their rules, the store that drivers share, the admission before each call."""
