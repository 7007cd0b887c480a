"""Everything that serves trying and testing: demonstrations, and EC2's API on the simulated cloud.

It ships with the package, and nothing else of the package imports it; `one-provider` finds the command `demo` by its
entry point.
"""
