"""Modules converted by intercepting the torch functions that their forward calls."""
