"""Training: data, network and optimizer, step by step."""
