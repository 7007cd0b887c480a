"""Time into reports: what the information driver says of its hosts, and when. Knows no cloud, and no action."""
