"""The operator's tool `one-provider`. Rule: no daemon imports it."""
