"""XML-RPC calls to an OpenNebula: the form of calls and the meaning of errors, without knowledge of the callers."""
