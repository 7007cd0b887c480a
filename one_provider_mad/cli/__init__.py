"""The operator's tool `one-provider`; no daemon imports it."""
