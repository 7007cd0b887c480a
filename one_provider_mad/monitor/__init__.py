"""The information driver's reports on its hosts, and when to send them. Knows no particular cloud, no action."""
