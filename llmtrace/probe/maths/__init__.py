"""What the probe makes of its numbers: pure functions, without clocks, clients or files."""
