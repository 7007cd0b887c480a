"""Find instances that no VM needs any more, report them, and schedule their termination.

OpenNebula tells no driver when it terminates a VM that is powered off, suspended, stopped or undeployed
(OpenNebula/one#1243): its instance lives on. `verdicts` judges each instance; `reconciler` lists the
instances, reports orphans and schedules their termination.
"""
