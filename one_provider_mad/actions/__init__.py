"""The action driver's requests: each of oned's lines gets exactly one reply. Nothing here knows a certain cloud."""
