"""The information driver's reports on its hosts, and their times. Knows no cloud, and no action."""
