"""The parts of benchmarks/attack.py: files that are not sound, and processes that are killed."""
