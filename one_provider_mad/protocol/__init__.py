"""The wire, purely: bytes and text in, frozen values out, and back. No clock, no I/O, no exceptions for bad input."""
