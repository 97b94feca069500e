"""DC-AR: masked generation of discrete codes from texts, and a diffusion head for what codes leave out (arXiv 2507.04947)."""
