"""Makes user data from a VM's CONTEXT, in the form that the guest's own program reads; no I/O."""
