"""Posterior sampling: at falling noise levels, condition on the measurement a Gaussian around the
network's estimate, with the covariance of the network's error."""

import torch

ERROR_RATE = 0.15  # exponent by which one sigma_t updates the error scale
ERROR_SCALE_MAX = 1.3  # upper bound of the error scale; its lower bound is the reciprocal
GRADIENT_SHARE = (
    0.5  # of the network's gradient step: all of it diverges in inpainting (docs/LOG.md)
)
JACOBIAN_SHARE = 0.75  # weight of the Jacobian in the outer covariance of `posterior_sample`


def has_equal_channels(y):
    """Whether each image of y, (B, C, …), has three equal channels: (B,)."""
    return (y == y[:, :1]).flatten(1).all(1) & (y.shape[1] == 3)


def channel_noise(y, sigma):
    """The sigma, (B, 1, …), to assume in each channel of y, (B, C, …). The three channels of a grey
    image contain the same noise; three channels with independent noise sqrt(3) sigma are equally
    informative."""
    factor = torch.where(has_equal_channels(y), 3**0.5, 1.0)
    return sigma * factor.view(-1, *[1] * (y.dim() - 1))


def scaled(errors, factor):
    """(S, S^T, S^-T) of `guided_diffusion.errors.Errors.around`, for errors that are larger by
    `factor`, (B, 1, 1, 1)."""
    root, transposed, inverse = errors
    return (
        lambda u: factor * root(u),
        lambda v: factor * transposed(v),
        lambda u: inverse(u) / factor,
    )


def updated_scale(error_scale, updates, expected):
    """The error scale of each image, (B, 1, 1, 1), updated after one sigma_t. updates: whitened
    updates towards the measurement; expected: those for simulated errors; lists of (B, 3, H, W)."""

    def power(us):
        return sum(u.flatten(1).square().sum(1) for u in us)[:, None, None, None]

    ratio = (power(updates) / power(expected).clamp(min=1e-20)) ** (ERROR_RATE / 2)
    return (error_scale * ratio).clamp(1 / ERROR_SCALE_MAX, ERROR_SCALE_MAX)


@torch.no_grad()
def antithetic_samples(g, task, init, sigma, sigmas, by_gradient, data_steps, on_step):
    """Two posterior samples, (B, 3, H, W) in [-1, 1] each, with antithetic noise throughout.

    At each sigma_t, the image is sampled from the Gaussian around the network's estimate, with
    the covariance of its error (`guided_diffusion.errors`), conditioned on the measurement: image
    and measurement are perturbed, and the linear system is solved (Papandreou & Yuille, NIPS 2010).
    Fresh noise leads to the next sigma_t (decoupled annealing: DAPS, Zhang et al., CVPR 2025). The
    error scale of each image is estimated from the ratio of the whitened updates to those for
    simulated errors.

    init: (B, 3, H, W), noised to the first of `sigmas`, the falling noise levels in units of
    [-1, 1]; by_gradient: whether the estimate first moves by GRADIENT_SHARE of the network's
    gradient of the residual, see `posterior_sample`; data_steps: conjugate gradient steps.
    """

    def noise(like):
        return g.rng.randn(like.shape[1:], like.device)

    in_each = channel_noise(task.y, sigma)
    fresh, xs, error_scale = noise(task.like), [init, init], 1.0
    for step, sigma_t in enumerate(sigmas):
        zs = [x + sign * sigma_t * fresh for x, sign in zip(xs, (1, -1))]
        white, of_y, fresh = noise(task.like), noise(task.y), noise(task.like)
        xs, updates, expected = [], [], []
        for z, sign in zip(zs, (1, -1)):
            with torch.set_grad_enabled(by_gradient):
                x0_hat = g.denoised(z.requires_grad_(by_gradient), sigma_t)
            x = x0_hat.detach()
            root, transposed, inverse = scaled(g.errors.around(x, sigma_t), error_scale)
            of_each = root, transposed, in_each.view(-1, 1, 1, 1)
            u = task.whitened_update(x, *of_each, task.y, data_steps)
            y = task.operator(x + sign * root(white)) + sign * in_each * of_y
            updates.append(u)
            expected.append(task.whitened_update(x, *of_each, y, data_steps))
            if by_gradient:
                gradient = torch.autograd.grad(x0_hat, z, inverse(u))[0]
                x = (x + GRADIENT_SHARE * sigma_t**2 * gradient).clamp(-1, 1)
                u = task.whitened_update(x, *of_each, task.y, data_steps)
            xs.append((x + root(sign * white + u - expected[-1])).clamp(-1, 1))
        error_scale = updated_scale(error_scale, updates, expected)
        on_step(step + 1, len(sigmas), sum((task.operator(x) - task.y).square().sum() for x in xs))
    return xs


@torch.no_grad()
def posterior_sample(g, task, sigma, sigmas, zeta, data_steps, on_step):
    """A posterior sample, (B, 3, H, W) in [-1, 1], by DDIM at falling noise levels `sigmas`, with a
    share zeta of fresh noise at each of them.

    The network's estimate x moves to the posterior mean x + C A^T (A C A^T + sigma^2)^-1 (y - A x).
    The inner C, inside the inverse, is the covariance of the network's error by frequency and near
    edges (`guided_diffusion.errors`); PiGDM (Song et al. 2023) assumes white errors there. The
    outer C is a weighted mean of this covariance and, with the weight JACOBIAN_SHARE, of
    sigma_t^2 J, where J is the network's Jacobian (Tweedie's formula), which depends on the image.
    At the last sigma_t both are the covariance of the error, and the image is sampled as in
    `antithetic_samples`, which defines the error scale.
    """

    def noise(like):
        return g.rng.randn(like.shape[1:], like.device)

    in_each = channel_noise(task.y, sigma)
    z, error_scale = sigmas[0] * noise(task.like), 1.0
    for step, sigma_t in enumerate(sigmas):
        with torch.enable_grad():
            x0_hat = g.denoised(z.requires_grad_(), sigma_t)
        x = x0_hat.detach()
        root, transposed, inverse = scaled(g.errors.around(x, sigma_t), error_scale)
        of_each = root, transposed, in_each.view(-1, 1, 1, 1)
        white = noise(task.like)
        u = task.whitened_update(x, *of_each, task.y, data_steps)
        y = task.operator(x + root(white)) + in_each * noise(task.y)
        expected = task.whitened_update(x, *of_each, y, data_steps)
        if step + 1 < len(sigmas):
            gradient = sigma_t**2 * torch.autograd.grad(x0_hat, z, inverse(u))[0]
            x = x + JACOBIAN_SHARE * gradient + (1 - JACOBIAN_SHARE) * root(u)
            x = x.clamp(-1, 1)
            eps = (z.detach() - x) / sigma_t
            fresh = noise(task.like)
            z = x + sigmas[step + 1] * ((1 - zeta) ** 0.5 * eps + zeta**0.5 * fresh)
        else:
            x = (x + root(white + u - expected)).clamp(-1, 1)
        error_scale = updated_scale(error_scale, [u], [expected])
        on_step(step + 1, len(sigmas), (task.operator(x) - task.y).square().sum())
    return x
