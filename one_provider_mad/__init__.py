"""OpenNebula drivers that present a whole cloud as one host."""

__version__ = "0.1.0"
