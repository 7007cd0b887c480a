"""The answer to INIT, OpenNebula's first line; a module of its own, so that INIT is answered before slow imports."""

INIT = b"INIT\n"

INIT_SUCCESS = b"INIT SUCCESS\n"
"""The answer to INIT. oned 6.0 and later reads it with one read of 31 bytes (include/Driver.h start_driver), so nothing
else may be written with it."""
