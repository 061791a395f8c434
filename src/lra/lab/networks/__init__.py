"""The workbench's networks."""
