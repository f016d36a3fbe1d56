"""How right the phases are: the blind client against engines that know the truth. Run as ``python -m accuracy``."""
