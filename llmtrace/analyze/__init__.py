"""Reads many traces from wherever they are, and makes reports over all of them."""
