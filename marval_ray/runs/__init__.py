"""A run: its folder, its stages, its figures and its report."""
