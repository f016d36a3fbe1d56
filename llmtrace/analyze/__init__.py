"""Many traces: reading them from wherever they are, and what they say together."""
