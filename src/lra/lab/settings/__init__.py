"""Settings of a run: the configuration, names and specifications, recipes, schedules."""
