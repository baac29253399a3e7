"""The exploration: that the rules hold, that it finds what is broken, and what it exports."""
