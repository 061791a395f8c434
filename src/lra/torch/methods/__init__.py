"""The methods for torch: a file for each method, and the two files that they share."""
