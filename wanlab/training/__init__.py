"""Training of every network that the project ships."""
