"""EC2's Query API on the simulated cloud, over HTTP: for trying the `ec2` provider, and tools, without an account.

No driver imports this: a program that wants it asks for it.
"""
