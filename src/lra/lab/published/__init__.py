"""Published results: set-ups as data, training them as published, and the page of what came out."""
