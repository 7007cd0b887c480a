"""For trials and tests: demonstrations, and EC2's API on the simulated cloud.

It is part of the package, but the rest of the package does not import it; `one-provider` finds the command `demo` by
its entry point.
"""
