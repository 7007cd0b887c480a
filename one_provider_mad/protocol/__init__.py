"""The wire format: bytes and text to frozen values, and back. No clock, no I/O, no exceptions for bad input."""
