"""What surrounds a method's search: the part of the chain it searches, where it begins, the form in which it sees the
measurement, and how often it is repeated. Everything here is off in the published settings."""
from dataclasses import dataclass, field

import torch

from guided_diffusion.ddim import TRAINING_STEPS
from solvers.least_squares import preconditioned, smooth_least_squares


@dataclass(frozen=True, kw_only=True)
class Start:
    """The keys that a row of any configs/<method>.yaml may have; those left out are as published.

    chain_steps: DDIM steps of the chain; layers: how many of its last layers are used; start_smoothness: 0 begins at
    noise, more at the noised smooth least squares picture with that weight; damping: 0 leaves the measurement as it is,
    more shows the method a preconditioned one (`preconditioned`); starts: searches from different noise, averaged.

    sigma: the noise's standard deviation in units of [-1, 1], the problem's: no row sets it.
    """

    chain_steps: int = 3
    layers: int = TRAINING_STEPS
    start_smoothness: float = 0.0
    damping: float = 0.0
    starts: int = 1
    sigma: float = field(default=0.0, metadata={"row": False})


def search(solver, g, operator, y, latents, h, on_step, state=None):
    """Run a solver as its row h says. Yields what it yields or, with several starts, the mean of their results so far.

    g: the chain; operator, y: the task; latents: standard normal (B, 3, H, W), at least h.starts of them; state: a yielded
    one to go on from. The mean of several restorations lies nearer to the truth, in squares, than any one of them.
    """
    z_0s = latents[: h.starts]
    if h.start_smoothness:
        picture = smooth_least_squares(operator, y, latents[0], h.start_smoothness)
        z_0s = [g.noised(picture, z) for z in z_0s]
    if h.damping:
        operator, y = preconditioned(operator, y, latents[0], h.damping)
    if h.starts == 1:
        yield from solver(g, operator, y, z_0s[0], h, on_step, state)
        return
    state = state or {"starts": 0, "mean": torch.zeros_like(latents[0])}
    mean = state["mean"]
    for n in range(state["starts"], h.starts):
        for name, X, _ in solver(g, operator, y, z_0s[n], h, on_step):
            if n == 0 and name == "init":
                yield name, X, None
        mean = mean + (X - mean) / (n + 1)
        yield f"{n}_after", mean, {"starts": n + 1, "mean": mean}
