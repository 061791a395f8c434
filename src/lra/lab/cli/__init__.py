"""The command `lra`."""
