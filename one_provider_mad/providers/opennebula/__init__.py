"""A partner's OpenNebula as a cloud: its VMs are our instances. Only its public API is used."""
