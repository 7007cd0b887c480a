"""The conformance suite, for the tests of a provider: see docs/providers.md. It needs the extra `testing`."""
