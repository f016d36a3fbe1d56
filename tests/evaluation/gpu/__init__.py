"""Every check that needs a GPU. Run as ``python -m tests.evaluation.gpu``."""
