"""How good images are: features, their statistics, scores, and sweeps over the number of loops."""
