"""What `one-provider cost` computes from ledgers: merged spans, sums by group, forecasts; no files, no clock."""
