"""The study's trials: which networks and rules meet, how they are run, what is reported."""
