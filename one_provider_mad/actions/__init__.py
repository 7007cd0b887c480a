"""One request in, exactly one reply out. Knows no cloud."""
