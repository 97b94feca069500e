"""Models on disk: the one export format, and what is read from it."""
