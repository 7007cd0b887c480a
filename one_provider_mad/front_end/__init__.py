"""The OpenNebula that the drivers serve, as its configuration files and its API show it."""
