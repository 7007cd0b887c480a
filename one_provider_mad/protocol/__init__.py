"""The lines between OpenNebula and the drivers: bytes to frozen values, and back. No clock, no I/O, no asyncio."""
