"""What the core says first, and the answer. Apart from everything else: nothing is imported before it."""

INIT = b"INIT\n"

INIT_SUCCESS = b"INIT SUCCESS\n"
"""oned 6.0 and later reads it with one read of 31 bytes (include/Driver.h start_driver)."""
