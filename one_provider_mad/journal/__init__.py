"""The journal: the driver's state that survives a crash, in one SQLite file per configuration NAME (decision 12).

records: the values; schema: the tables; statements: the SQL; writer: the action driver's access; reader: the access of
every other process; upkeep: the changes that a person may make.
"""
