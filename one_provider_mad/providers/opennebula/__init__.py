"""Another OpenNebula as a cloud: its VMs are our instances. Rule: the remote is asked by its public API alone."""
