"""MAR: masked auto-regressive generation with a diffusion head (arXiv 2406.11838)."""
