"""Reward plug-ins for tests."""

import os
import time
from pathlib import Path

import torch


class Brightness:
    """Pays for light images."""

    differentiable = True

    def __call__(self, images, prompts):
        return images.mean((1, 2, 3))


class Darkness(Brightness):
    """Pays for dark images, and tells no gradient."""

    differentiable = False

    def __call__(self, images, prompts):
        return -super().__call__(images, prompts)


class FadesToNaN(Brightness):
    """NaN for the first image of each call, and for all from the seventh call on."""

    calls = 0

    def __call__(self, images, prompts):
        self.calls += 1
        lost = (torch.arange(len(images)) == 0) | (self.calls > 6)
        return torch.where(lost, torch.nan, super().__call__(images, prompts))


class HangsOnce(Brightness):
    """The fifth call of all in which the file HANG_MARKER is missing writes it and never comes back."""

    calls = 0

    def __call__(self, images, prompts):
        self.calls += 1
        marker = Path(os.environ["HANG_MARKER"])
        if self.calls == 5 and not marker.exists():
            marker.touch()
            time.sleep(3600)
        return super().__call__(images, prompts)
