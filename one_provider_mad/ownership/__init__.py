"""Decide which VM an instance belongs to, and find the instance of a VM, for each kind of action.

deploying: `instance_for_deploy`, `instance_of_earlier_deploy`. locating: `locate`. destroying: `to_destroy`.
debt_instances: `debt_instances`.
"""
