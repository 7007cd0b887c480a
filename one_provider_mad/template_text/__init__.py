"""OpenNebula's template text: its grammar, two readers and two writers. Pure: text in, values out, and back."""
