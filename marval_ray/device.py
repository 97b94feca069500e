"""Where this process computes."""

from contextlib import AbstractContextManager, nullcontext

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


def autocast_on_gpu(device: torch.device) -> AbstractContextManager:
    """Return what rounds to bfloat16 in matrix products on a GPU, and leaves all as it is elsewhere."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
