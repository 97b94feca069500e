"""Files of every kind that the project reads and writes."""
