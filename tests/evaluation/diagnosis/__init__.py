"""How right the diagnosis is: faults injected into simulated and real traffic, verdicts counted (docs/diagnosis.md)."""
