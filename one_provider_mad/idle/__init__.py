"""VMs that nobody uses: warned, then powered off through OpenNebula, if they or their group ask for it."""
