"""Samples by annealing: the network guesses the picture at falling noise levels, and each guess is drawn to the measurement."""

import torch

from guided_diffusion.ddim import predict_x0

PIXEL_VARIANCE = 0.25  # of a picture in [-1, 1]
LEARNT = 0.15  # the share of what one level says of how unusual a picture is that counts
MOST_UNUSUAL = 1.3  # times the usual error, or as much less
GRADIENT_SHARE = 0.5  # of the way that the network's gradient points: all of it diverges in inpainting (docs/LOG.md)
JACOBIAN_SHARE = 0.75  # of the covariance that moves a draw's guess: the same


def guided(task, z, x0, level, sigma):
    """The guess x0 of the picture behind z, (B, 3, H, W), moved by what the measurement says of it: pixels that the network ties to a
    measured one move along.

    Source: PiGDM (Song et al. 2023), x0 + C A^T (r A A^T + sigma^2)^-1 (y - A x0), where C, the covariance of the picture given z, is
    spread times the network's Jacobian, and r stands for it where it would have to be inverted: that of white pixels of PIXEL_VARIANCE.
    """
    spread = (1 - level.abar) / level.abar
    r = 1 / (1 / spread + 1 / PIXEL_VARIANCE)
    step = task.drawn_to(x0.detach(), sigma**2 / r) - x0.detach()
    return x0.detach() + level.abar**0.5 * spread / r * torch.autograd.grad(x0, z, step)[0]


def as_they_are(x0s, level):
    """The guesses of a level as the network has made them, and no doubt about the operator: `annealed`'s usual `before_data`."""
    return x0s, 0.0


@torch.no_grad()
def annealed(g, task, zs, sigma, zeta, on_step, by_gradient=False, before_data=as_they_are):
    """Samples of the pictures behind a task's measurement, a list of (B, 3, H, W) in [-1, 1], one for each of zs: at each level the
    network guesses the picture, the guess is drawn to the measurement by what it may err, and noise, partly the old one, takes it to
    the next level.

    zs: of (B, 3, H, W), at the chain's first noise level; sigma: the measurement's noise; zeta: the share of fresh noise, 0 … 1;
    by_gradient: draw by `guided`; before_data(x0s, level): the guesses before the measurement has a say, and the variance by which
    the operator itself is in doubt.
    Source: DiffPIR (Zhu et al. 2023, Algorithm 1) with lambda = 1, which does not differentiate the network.
    """
    for step, level in enumerate(g.levels):
        with torch.set_grad_enabled(by_gradient):
            zs = [z.detach().requires_grad_(by_gradient) for z in zs]
            x0s = [predict_x0(z, g.eps(z, level), level.abar) for z in zs]
        x0s, doubt = before_data(x0s, level)
        if by_gradient:
            samples = [guided(task, z, x0, level, sigma).clamp(-1, 1) for x0, z in zip(x0s, zs)]
        else:  # without noise, the number of conjugate gradient steps alone keeps this from dividing by zero
            damping = (sigma**2 + doubt) * level.abar / (1 - level.abar)
            samples = [task.drawn_to(x0, damping).clamp(-1, 1) for x0 in x0s]
        zs = [noised_on(X, z.detach(), level, zeta, g.rng) for X, z in zip(samples, zs)]
        on_step(step + 1, len(g), sum((task.operator(X) - task.y).square().sum() for X in samples))
    return samples


def noised_on(X, z, level, zeta, rng):
    """X at the noise level that follows, (B, 3, H, W), with the noise of z, of which zeta is replaced by fresh one."""
    eps = (z - level.abar**0.5 * X) / (1 - level.abar) ** 0.5
    noise = (1 - zeta) ** 0.5 * eps + zeta**0.5 * rng.randn(X.shape[1:], X.device)
    return level.abar_prev**0.5 * X + (1 - level.abar_prev) ** 0.5 * noise


def is_grey(y):
    """Which images of y, (B, C, …), have three channels that are alike: (B,)."""
    return (y == y[:, :1]).flatten(1).all(1) & (y.shape[1] == 3)


def channel_noise(y, sigma):
    """The standard deviation that the noise in each channel of y, (B, C, …), is to be taken for, an image each: (B, 1, …). In the three channels of
    a grey picture it is one noise: that is what three independent measurements say, if each has sqrt(3) sigma."""
    return sigma * torch.where(is_grey(y), 3**0.5, 1.0).view(-1, *[1] * (y.dim() - 1))


def scaled(errors, factor):
    """`guided_diffusion.errors.Errors.around`'s (S, S^T, S^-T) of errors that are larger by a factor, (B, 1, 1, 1)."""
    root, transposed, inverse = errors
    return (
        lambda u: factor * root(u),
        lambda v: factor * transposed(v),
        lambda u: inverse(u) / factor,
    )


def learnt(factor, told, usual):
    """How much more the network errs about each picture than usual, (B, 1, 1, 1), by one more level. told: how far guesses have to move for
    the measurement; usual: how far for one of a picture with the errors that were taken; lists of (B, 3, H, W)."""
    power = lambda us: sum(u.flatten(1).square().sum(1) for u in us)[:, None, None, None]
    more = (power(told) / power(usual).clamp(min=1e-20)) ** (LEARNT / 2)
    return (factor * more).clamp(1 / MOST_UNUSUAL, MOST_UNUSUAL)


@torch.no_grad()
def opposite_draws(g, task, begun, sigma, levels, by_gradient, data_steps, on_step):
    """Two draws from the pictures behind a task's measurement, (B, 3, H, W) in [-1, 1] each, all of whose noise is opposite. begun: the
    picture, (B, 3, H, W), that is noised to the first of the levels.

    At each of the falling noise levels the network guesses the picture, of which a draw is taken: from a Gaussian around the guess whose
    covariance is the network's error (`guided_diffusion.errors`), given the measurement. What is unknown and what is measured are disturbed
    alike, and the system is solved (Papandreou & Yuille, NIPS 2010). Fresh noise takes the draw to the next level (decoupled annealing: DAPS,
    Zhang et al., CVPR 2025). How much more the network errs about this picture than usual is learnt on the way, from how much more has to
    move for the measurement than for one that is made of a usual error.

    by_gradient: the guess first moves by GRADIENT_SHARE of what the network's gradient makes of the measurement, see `drawn`.
    """
    in_each, noise = (
        channel_noise(task.y, sigma),
        lambda like: g.rng.randn(like.shape[1:], like.device),
    )
    fresh, found, factor = noise(task.like), [begun, begun], 1.0
    for step, level in enumerate(levels):
        zs = [x + sign * level * fresh for x, sign in zip(found, (1, -1))]
        white, of_y, fresh = noise(task.like), noise(task.y), noise(task.like)
        found, told, usual = [], [], []
        for z, sign in zip(zs, (1, -1)):
            with torch.set_grad_enabled(by_gradient):
                guess = g.denoised(z.requires_grad_(by_gradient), level)
            x = guess.detach()
            root, transposed, inverse = scaled(g.errors.around(x, level), factor)
            move = lambda x, y: task.innovation(
                x, root, transposed, in_each.view(-1, 1, 1, 1), y, data_steps
            )
            told.append(move(x, task.y))
            usual.append(move(x, task.operator(x + sign * root(white)) + sign * in_each * of_y))
            u = told[-1]
            if by_gradient:
                x = (
                    x + GRADIENT_SHARE * level**2 * torch.autograd.grad(guess, z, inverse(u))[0]
                ).clamp(-1, 1)
                u = move(x, task.y)
            found.append((x + root(sign * white + u - usual[-1])).clamp(-1, 1))
        factor = learnt(factor, told, usual)
        on_step(
            step + 1, len(levels), sum((task.operator(x) - task.y).square().sum() for x in found)
        )
    return found


@torch.no_grad()
def drawn(g, task, sigma, levels, zeta, data_steps, on_step):
    """A draw from the pictures behind a task's measurement, (B, 3, H, W) in [-1, 1]: by falling noise levels, of whose noise a share zeta is
    fresh, the rest the old one (DDIM).

    At each level the network guesses the picture, and the guess moves to the mean of the pictures that the measurement leaves open: x + C A^T (A C
    A^T + sigma^2)^-1 (y - A x). Of the covariance C to the left JACOBIAN_SHARE is level^2 J, J the network's Jacobian: that of this very picture
    (Tweedie's formula). The rest, and C inside, is that of the network's usual error (`guided_diffusion.errors`), which only knows
    frequencies and edges. PiGDM (Song et al. 2023) takes white pixels inside. At the last level, where all of C is the usual error's, a draw is
    taken: what is unknown and what is measured are disturbed, and the system is solved (Papandreou & Yuille, NIPS 2010). How much more the
    network errs about this picture than usual is learnt on the way, as in `opposite_draws`.
    """
    in_each, noise = (
        channel_noise(task.y, sigma),
        lambda like: g.rng.randn(like.shape[1:], like.device),
    )
    z, factor = levels[0] * noise(task.like), 1.0
    for step, level in enumerate(levels):
        with torch.enable_grad():
            guess = g.denoised(z.requires_grad_(), level)
        root, transposed, inverse = scaled(g.errors.around(guess.detach(), level), factor)
        move = lambda y: task.innovation(
            guess.detach(), root, transposed, in_each.view(-1, 1, 1, 1), y, data_steps
        )
        white = noise(task.like)
        u, usual = (
            move(task.y),
            move(task.operator(guess.detach() + root(white)) + in_each * noise(task.y)),
        )
        if step + 1 < len(levels):
            by_gradient = level**2 * torch.autograd.grad(guess, z, inverse(u))[0]
            x = (
                guess.detach() + JACOBIAN_SHARE * by_gradient + (1 - JACOBIAN_SHARE) * root(u)
            ).clamp(-1, 1)
            old = (z.detach() - x) / level
            z = x + levels[step + 1] * ((1 - zeta) ** 0.5 * old + zeta**0.5 * noise(task.like))
        else:
            x = (guess.detach() + root(white + u - usual)).clamp(-1, 1)
        factor = learnt(factor, [u], [usual])
        on_step(step + 1, len(levels), (task.operator(x) - task.y).square().sum())
    return x


@torch.no_grad()
def plug_and_play(g, task, z, levels, to_measurement, on_step):
    """The picture, (B, 3, H, W), that denoising at falling noise levels finds, with a step to the measurement between any two: half-quadratic
    splitting with a network (Zhang et al., TPAMI 2021, DPIR). z: where it begins; to_measurement(x, level): that step."""
    for step, level in enumerate(levels):
        x = g.denoised(z, level)
        if step + 1 < len(levels):
            z = to_measurement(x, level)
        on_step(step + 1, len(levels), (task.operator(x) - task.y).square().sum())
    return x


@torch.no_grad()
def denoised(g, y, sigma, runs):
    """The mean of the pictures behind y, (B, 3, H, W) with noise of sigma in each channel. Of a grey picture the noise is the same in all
    channels, where the network expects three: to it y is the mean over three channels whose noise is sqrt(3) sigma. What they would differ by
    is drawn `runs` times, in opposite pairs, and the results are averaged. Grey and coloured pictures may share a batch."""
    grey = is_grey(y)
    if not grey.any():
        return g.denoised(y, sigma)
    found, grey_ones, in_each = torch.zeros_like(y), y[grey], 3**0.5 * sigma
    if not grey.all():
        found[~grey] = g.denoised(y[~grey], sigma)
    for k in range(runs):
        if k % 2 == 0:
            colours = g.rng.randn(y.shape[1:], y.device)[grey]
            colours = in_each * (colours - colours.mean(1, keepdim=True))
        found[grey] += g.denoised(grey_ones + (-1) ** k * colours, in_each) / runs
    return found


@torch.no_grad()
def explaining_best(samples, task):
    """Of the samples, (B, 3, H, W) each, every image's with the smallest residual. One that is not finite explains nothing."""
    best = least = None
    for X in samples:
        residual = (
            (task.operator(X) - task.y)
            .flatten(1)
            .square()
            .sum(1)[:, None, None, None]
            .nan_to_num(nan=torch.inf)
        )
        best = X if best is None else torch.where(residual < least, X, best)
        least = residual if least is None else torch.minimum(residual, least)
    return best
