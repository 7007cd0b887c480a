"""VMs whose costs have reached max_per_month of `[budget]`: announced, then powered off through OpenNebula."""
