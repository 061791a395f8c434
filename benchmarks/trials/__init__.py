"""The trials of the study: its contests, how they run, and what is reported."""
