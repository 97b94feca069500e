"""Where this process computes."""

import torch


def own_device() -> torch.device:
    """Return the GPU that this process sees, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
