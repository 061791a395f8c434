"""Rules compared: a grid of runs, a search of settings, tables, pictures and a report."""
