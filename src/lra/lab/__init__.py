"""The workbench: data, training, runs on disk, and the `lra` command."""
