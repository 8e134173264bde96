"""Coloured noise for methods that assume white noise of constant standard deviation."""

from dataclasses import dataclass, replace

import torch

from guided_diffusion.coloured import ColouredNoise
from util.rng import LAST_SEED, BatchRandom

# The noise that is added has seeds of its own, far from those of further samples.
ADDED, SECOND = 1 << 30, 1 << 31


@dataclass(frozen=True)
class Whitened:
    """A Problem with white noise instead of its `noise`, twice, and the way back from its result.

    To y, whose growth of noise with brightness is undone, the noise is added that it lacks to be
    white, and in a second copy of the batch subtracted: the mean of the two results has a smaller
    error. problem: B or 2B images; rng: their BatchRandom; noise: what was made white.
    """

    problem: object
    rng: BatchRandom
    noise: ColouredNoise
    copies: int

    @classmethod
    def of(cls, problem, rng, twice=True):
        """twice: whether to make the second copy; not where the results are samples."""
        noise = problem.noise
        y = noise.growth.stabilised(problem.y) if noise.growth else problem.y
        seeds = [(seed + ADDED) % LAST_SEED for seed in rng.seeds]
        lacking = noise.lacking(BatchRandom(seeds).randn(y.shape[1:], y.device))
        if not (twice and lacking.any()):
            return cls(replace(problem, y=y + lacking, sigma=noise.level), rng, noise, 1)
        both = BatchRandom([*rng.seeds, *((seed + SECOND) % LAST_SEED for seed in rng.seeds)])
        both.torch[: len(y)], both.numpy[: len(y)] = rng.torch, rng.numpy

        def operator(x):
            return torch.cat([problem.operator(copy) for copy in x.split(len(y))])

        ys = torch.cat([y + lacking, y - lacking])
        return cls(replace(problem, operator=operator, y=ys, sigma=noise.level), both, noise, 2)

    def result(self, x):
        """The B images, (B, 3, H, W), behind a method's result for `problem`."""
        x = x.unflatten(0, (self.copies, -1)).mean(0)
        return self.noise.growth.original(x) if self.noise.growth else x
