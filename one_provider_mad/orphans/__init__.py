"""What is paid for and belongs to nobody: found by comparing the cloud with the local OpenNebula, and put right.

OpenNebula tells no driver when it terminates a VM that is powered off, suspended, stopped or undeployed
(OpenNebula/one#1243): its instance lives on. `verdicts` and `machine` are pure; `reconciler` looks, tells and destroys.
"""
