"""How right the phases are: the blind client against engines that know the truth. ``make accuracy`` runs it."""
