"""Whose an instance is, and how a VM's own one is found; one function for each question of the actions.

deploying: `instance_for_deploy`, `instance_of_earlier_deploy`. locating: `locate`. destroying: `to_destroy`. owed:
`owed_instances`.
"""
