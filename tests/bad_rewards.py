"""Reward plug-ins that misbehave."""

import time


class Misbehaving:
    """Does what `score` does; differentiable, as it says."""

    differentiable = True

    def __init__(self, score):
        self.score, self.calls = score, 0

    def __call__(self, images, prompts):
        self.calls += 1
        return self.score(self, images.mean((1, 2, 3)))


def explode(reward, means):
    raise RuntimeError("reward model exploded")


def late():
    return Misbehaving(lambda reward, means: explode(reward, means) if reward.calls > 2 else means)


def columns():
    return Misbehaving(lambda reward, means: means[:, None].repeat(1, 3))


def detached():
    return Misbehaving(lambda reward, means: means.detach())


def nothing():
    return Misbehaving(lambda reward, means: None)


def constructor():
    raise RuntimeError("cannot load my model")


def ends():
    raise SystemExit(3)


def number():
    return 42


def hangs():
    return Misbehaving(lambda reward, means: time.sleep(10_000))
