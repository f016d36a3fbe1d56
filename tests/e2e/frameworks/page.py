def record(result): pass
