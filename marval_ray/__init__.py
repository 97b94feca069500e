"""marval_ray: one-step distillation (GSIM) and reinforcement learning of masked auto-regressive image models."""
