"""The attacks of benchmarks/attack.py: corrupt files and killed processes."""
