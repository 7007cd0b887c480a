"""XML-RPC calls to an OpenNebula. Rule: it knows the form of calls and the meaning of errors, not the callers' aims."""
