"""The optimiser of a training, and its learning rate."""

import torch
from torch import nn

WARM_UP = 200  # steps of increasing learning rate
COOL_DOWN = 0.3  # share of the steps, at the end, with decreasing learning rate


def learning_rate_factor(step, steps):
    """Linear warm-up, constant, linear cool-down to zero. Before the cool-down, a training can be
    resumed with more steps."""
    return min((step + 1) / WARM_UP, 1.0, (steps - step) / (COOL_DOWN * steps))


@torch.no_grad()
def orthogonal(matrices):
    """(B, m, n) with singular values moved to about 1, by Newton-Schulz steps (Jordan et al. 2024).
    torch.optim.Muon's run in bfloat16, which takes nine times longer on a CPU without it."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        powers = torch.baddbmm(gram, gram, gram, beta=-4.775, alpha=2.0315)
        x = torch.baddbmm(x, powers, x, beta=3.4445)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon in float32, matrices of one shape at once. Updates have AdamW's magnitude,
    so that both use the same learning rate."""

    def __init__(self, params, lr=1e-3, weight_decay=0.01, momentum=0.95):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = {}
            for p in group["params"]:
                by_shape.setdefault(p.shape, []).append(p)
            for shape, params in by_shape.items():
                self.update(group, shape, params)

    def update(self, group, shape, params):
        for p in params:
            self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        gradients, buffers = zip(*((p.grad, self.state[p]["momentum_buffer"]) for p in params))
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        nesterov = torch._foreach_lerp(gradients, buffers, group["momentum"])
        updates = orthogonal(torch.stack(nesterov)).unbind()
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, updates, alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)


class Optimizer:
    """Muon (Jordan et al. 2024) for the inner convolutions, AdamW for all other parameters.

    Muon accepts matrices only, so each weight (out, in, 3, 3) is a matrix (out, in 9)
    that shares its memory.
    """

    def __init__(self, model, lr):
        self.lr = lr
        outer = {model.input_blocks[0][0].weight, model.out[2].weight}
        self.convolutions = [p for p in model.parameters() if p.ndim > 2 and p not in outer]
        self.matrices = [nn.Parameter(p.detach().flatten(1)) for p in self.convolutions]
        by_muon = set(self.convolutions)
        self.optimizers = [
            torch.optim.AdamW([p for p in model.parameters() if p not in by_muon], fused=True),
            Muon(self.matrices),
        ]

    def step(self, factor):
        """Make a step with the learning rate times `factor`, and clear the gradients."""
        for matrix, p in zip(self.matrices, self.convolutions):
            matrix.grad, p.grad = p.grad.flatten(1), None
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr * factor
            optimizer.step()
            optimizer.zero_grad()

    def state_dict(self):
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states):
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)
