"""Comparison of rules: a grid of runs, a search over settings, tables, plots and a report."""
