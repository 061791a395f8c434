"""The methods for torch: a file for each, and what they share."""
