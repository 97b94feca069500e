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


class SometimesNaN(Brightness):
    """NaN for the first image of each call."""

    def __call__(self, images, prompts):
        first = torch.arange(len(images)) == 0
        return torch.where(first, torch.nan, super().__call__(images, prompts))


class AlwaysNaN(Brightness):
    def __call__(self, images, prompts):
        return super().__call__(images, prompts) * torch.nan


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
