"""Where this process computes."""

import torch


def own_device() -> torch.device:
    """Return the GPU that this process sees, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def worker_device(threads: int) -> torch.device:
    """Return the GPU that Ray gave this process, or the CPU, for which it sets the number of threads."""
    device = own_device()
    if device.type == "cpu":
        torch.set_num_threads(threads)
    return device
