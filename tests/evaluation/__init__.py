"""What ``make bench``, ``accuracy``, ``diagnose-eval`` and ``gpu`` run: measurements, and their tools' own tests."""
