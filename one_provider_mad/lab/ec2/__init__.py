"""EC2's Query API on the simulated cloud, over HTTP: to try the `ec2` provider, and tools, without an account.

No driver imports this package.
"""
