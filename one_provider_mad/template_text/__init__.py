"""OpenNebula's template text: its grammar, two readers and two writers. Text to values, and back; calls nothing."""
