"""Runs on disk: the files of a run's folder, and what is read from them."""
