"""The clouds. They receive values and return values, and never see a line of the wire."""
