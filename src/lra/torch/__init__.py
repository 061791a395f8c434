"""The rules for PyTorch. Users reach everything here through `lra` itself."""
