"""What a crash must not forget, in one SQLite file a NAME (decision 12).

records: the values; schema: the tables; statements: the SQL; writer: the action driver's access; reader: that of every
other process; upkeep: what a person may change.
"""
