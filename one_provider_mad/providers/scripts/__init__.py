"""An existing directory of action scripts, run unchanged: a drop-in for upstream's one_vmm_sh."""
