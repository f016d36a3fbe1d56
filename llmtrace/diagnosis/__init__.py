"""Which cause made a call slow or odd, judged from what its route did before: pure arithmetic, microseconds a call."""
