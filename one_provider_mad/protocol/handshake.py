"""The core's first line and its answer, in a module of their own: nothing else is imported before them."""

INIT = b"INIT\n"

INIT_SUCCESS = b"INIT SUCCESS\n"
"""oned 6.0 and later reads it with one read of 31 bytes (include/Driver.h start_driver)."""
