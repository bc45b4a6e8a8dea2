"""Ways to run an extraction other than in this process."""
