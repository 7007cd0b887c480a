"""OpenNebula drivers that present a whole cloud as one host."""

__version__ = "0.2.0.dev0"
