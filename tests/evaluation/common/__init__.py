"""What every measurement shares: where it ran and on which code, tables, quantiles, bars, and writing a page."""
