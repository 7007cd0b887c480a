"""Amazon EC2, and clouds that speak its Query API: nothing here is imported before a configuration names it."""
