"""Degradation operators and noises by name: y = A(x) + n. Everything particular to a task ends in this file.

An operator is built from its task file, the pictures' size (H, W), and the side of the prior's. `draw(rng, device)` makes the random choices of a batch
(a mask, a kernel: one for every image) and returns (A, drawn): a differentiable function from (B, 3, H, W) in [-1, 1] to the
measurements, and those choices that can be looked at, {"mask": (B, 1, H, W)}, {"kernel": (B, k, k)} or {}. A noise is called with
a measurement and the batch's `util.rng.BatchRandom`; its `sigma` is the standard deviation in units of [-1, 1].

A solver knows an operator by calling it. One that has to find a part of itself has a contract, `guided_diffusion.blind.UnknownOperator`, by
which `solvers.unknown` and DMPlug alone ask more of it.

To add a task: write a class here under @operator("name"), and configs/tasks/<task>_config.yaml with that name
(docs/operators.md).
"""

import math
import os

import numpy as np
import torch
import torch.nn.functional as F

from bkse.models.kernel_encoding.kernel_wizard import KernelWizard
from guided_diffusion.blind import UnknownBlur, nearest_moved
from guided_diffusion.kernels import (
    bicubic_matrix,
    blurring,
    gaussian_kernel,
    motion_kernel,
    smooth_field,
    warping,
)
from guided_diffusion.physics import in_our_range, load_physics
from util.config import Section, load_yaml
from util.files import UserError, project, read_state_dict, say

OPERATORS, NOISES = {}, {}


def registering(table, name):
    """Class decorator: table[name] is the class. Raises UserError where another class has that name; the same one, defined anew in a notebook,
    takes its place."""
    place = lambda cls: f"{cls.__module__}.{cls.__qualname__}"

    def register(cls):
        if name in table and place(table[name]) != place(cls):
            raise UserError(
                f"{name}, asked for by {place(cls)}, is the name of {place(table[name])}; choose another one"
            )
        table[name] = cls
        return cls

    return register


def operator(name):
    """Class decorator: `name` is what a task file says under measurement.operator.name. Raises UserError for a taken one."""
    return registering(OPERATORS, name)


def noise(name):
    """Class decorator: `name` is what a task file says under measurement.noise.name. Raises UserError for a taken one."""
    return registering(NOISES, name)


def load_task(path):
    """A task file's content, without the sections of the DPS repository's files that say how and of what to sample there."""
    config = load_yaml(path)
    passed_over = [key for key in ("conditioning", "data") if key in config]
    if passed_over:
        say(f"{path}: {' and '.join(passed_over)} passed over; --preset and --data say that here")
    return {key: value for key, value in config.items() if key not in passed_over}


def nature(config):
    """What a task file's content degrades with: the names of its operator, of its kernel, mask or physics, and of its noise. None for what it
    does not say."""
    measurement = config.get("measurement")
    part = lambda key: (
        found
        if isinstance(measurement, dict) and isinstance(found := measurement.get(key), dict)
        else {}
    )
    name = part("operator").get("name")
    if name in Blur.NAMED_BY_KERNEL:  # another name for the same
        return "blind_blur", Blur.NAMED_BY_KERNEL[name], part("noise").get("name")
    kind = (
        config.get("kernel") or part("mask_opt").get("mask_type") or part("operator").get("physics")
    )
    return name, kind, part("noise").get("name")


def load_measurement(config, path, size, prior_size):
    """A task file's content and path -> (operator, noise) for pictures of `size` (H, W); prior_size: the side of those that the
    prior was trained on. Raises UserError, naming file and key, for anything wrong."""
    task = Section(config, path)
    measurement = task.section("measurement")
    known_operator = f"one of {', '.join(OPERATORS)}"
    name = measurement.section("operator").take("name", str, OPERATORS.__contains__, known_operator)
    chosen_operator = OPERATORS[name](task, size, prior_size)
    known_noise = f"one of {', '.join(NOISES)}"
    name = measurement.section("noise").take("name", str, NOISES.__contains__, known_noise)
    chosen_noise = NOISES[name](measurement.section("noise"))
    task.finish()
    return chosen_operator, chosen_noise


def is_range(pair, kind, low, high):
    """Is `pair` two numbers of `kind`, rising (or equal) and within low … high?"""
    return (
        len(pair) == 2
        and all(isinstance(v, kind) for v in pair)
        and low <= pair[0] <= pair[1] <= high
    )


def check_side(section, key, side, size, prior_size):
    """Published task files repeat the side of the prior's pictures; one that contradicts it would be a silent surprise. Of
    pictures of another size they say nothing."""
    if size == (prior_size, prior_size) and side != prior_size:
        raise section.error(
            key,
            f"says {side}, the prior's images are {prior_size} x {prior_size}; remove or correct it",
        )


class Operator:
    """What every class under @operator is.

    nearest(x, truth): where a measurement cannot tell pictures apart, (the one of x's, (3, H, W), nearest to truth, which it is).
    """

    nearest = None

    def unknowing(self, device):
        """The `guided_diffusion.blind.UnknownOperator` that the solver is given in place of A; None where it is told A."""
        return None


# ---------------------------------------------------------------------------------------------------- inpainting


MARGIN = 16  # pixels that a box keeps clear of the border (DPS, mask_generator)


def random_mask(size, missing_range, rng):
    """(H, W) float32 mask, 0 at a share of pixels from `missing_range`, drawn without replacement."""
    pixels = size[0] * size[1]
    mask = np.ones(pixels, np.float32)
    missing = int(pixels * rng.uniform(*missing_range))
    mask[rng.choice(pixels, missing, replace=False)] = 0
    return mask.reshape(size)


def box_mask(size, length_range, rng):
    """(H, W) float32 mask, 0 in a box whose sides are drawn from low … high - 1 of `length_range`."""
    height, width = rng.randint(*length_range), rng.randint(*length_range)
    top, left = (
        rng.randint(MARGIN, size[0] - MARGIN - height),
        rng.randint(MARGIN, size[1] - MARGIN - width),
    )
    mask = np.ones(size, np.float32)
    mask[top : top + height, left : left + width] = 0
    return mask


def extreme_mask(size, length_range, rng):
    """(H, W) float32 mask, 0 everywhere but in a box."""
    return 1 - box_mask(size, length_range, rng)


def masking(mask):
    """x * mask as a function; mask: (B, 1, H, W), 0 where a pixel is missing, else 1."""
    return lambda x: x * mask


@operator("inpainting")
class Inpainting(Operator):
    """x * mask, one mask for the three channels, of random pixels or a box (Chung et al. 2023, DPS: mask_generator)."""

    MASKS = {"random": random_mask, "box": box_mask, "extreme": extreme_mask}

    def __init__(self, task, size, prior_size):
        options = task.section("measurement").section("mask_opt")
        check_side(
            options,
            "image_size",
            options.take("image_size", int, default=prior_size),
            size,
            prior_size,
        )
        kind = options.take("mask_type", str, self.MASKS.__contains__, "random, box or extreme")
        self.mask, self.size = self.MASKS[kind], size
        if kind == "random":
            key, hint = "mask_prob_range", "a range [p, q] within 0 … 1"
            valid = lambda r: is_range(r, (int, float), 0, 1)
        else:
            longest = min(size) - 2 * MARGIN
            key, hint = (
                "mask_len_range",
                f"a range [low, high] of pixels with 0 < low < high <= {longest}",
            )
            valid = lambda r: is_range(r, int, 1, longest) and r[0] < r[1]
        self.range = options.take(key, tuple, valid, hint)
        for other in (
            "mask_prob_range",
            "mask_len_range",
        ):  # published files have both, for whichever kind
            options.take(other, tuple, default=())

    def draw(self, rng, device):
        masks = [self.mask(self.size, self.range, r) for r in rng.numpy]
        mask = torch.from_numpy(np.stack(masks))[:, None].to(device)
        return masking(mask), {"mask": mask}


# ---------------------------------------------------------------------------------------------- super-resolution


def reducing(size, factor, device, matrix=bicubic_matrix):
    """Reduction by an integer factor as a function: (B, 3, H, W) -> (B, 3, H / factor, W / factor); size: (H, W); matrix: one of
    `guided_diffusion.kernels.FILTERS`."""
    by_height, by_width = (matrix(side, factor).to(device) for side in size)

    def reduce(x):
        # Height first, and the result laid out as (B, H, C, W) in memory: the published operator's order, which
        # decides which noise value meets which pixel (BatchRandom.randn_like).
        rows = (by_height @ x).transpose(1, 2)
        return (rows @ by_width.T).transpose(1, 2)

    return reduce


@operator("super_resolution")
class SuperResolution(Operator):
    """Bicubic reduction by an integer factor that divides both sides."""

    def __init__(self, task, size, prior_size):
        options = task.section("measurement").section("operator")
        square = lambda shape: len(shape) == 4 and shape[2] == shape[3]
        shape = options.take(
            "in_shape", tuple, square, "[1, 3, height, width]", (1, 3, prior_size, prior_size)
        )
        check_side(options, "in_shape", shape[-1], size, prior_size)
        divides = lambda factor: factor >= 1 and not any(side % factor for side in size)
        sides = " and ".join(map(str, dict.fromkeys(size)))
        self.size, self.factor = (
            size,
            options.take("scale_factor", int, divides, f"a whole number that divides {sides}"),
        )

    def draw(self, rng, device):
        return reducing(self.size, self.factor, device), {}


# ---------------------------------------------------------------------------------------------- blur by a kernel


@operator("blind_blur")
@operator("gaussian_blur")
@operator("motion_blur")
class Blur(Operator):
    """Blur by a Gaussian or a random motion kernel, known to the solver: `blind_blur` with the kernel's options at the top of the task
    file or, as the DPS repository has it, under the kernel's name with its options below measurement.operator."""

    KERNELS = {"gaussian": gaussian_kernel, "motion": motion_kernel}
    NAMED_BY_KERNEL = {"gaussian_blur": "gaussian", "motion_blur": "motion"}

    def __init__(self, task, size, prior_size):
        fits = lambda k: 1 <= k and k // 2 < min(size)
        hint = f"a whole number, and half of it less than the image's {min(size)}"
        options = task.section("measurement").section("operator")
        kind = self.NAMED_BY_KERNEL.get(options.values["name"])
        given = options if kind else task
        self.kernel = self.KERNELS[
            kind or task.take("kernel", str, self.KERNELS.__contains__, "gaussian or motion")
        ]
        self.size, self.image_size = given.take("kernel_size", int, fits, hint), size
        self.intensity = given.take(
            "intensity",
            float,
            lambda i: 0 <= i < math.inf,
            "0 or more: sigma (gaussian), crookedness (motion)",
        )
        if options.take("kernel_size", int, fits, hint, self.size) != self.size:
            raise options.error("kernel_size", f"differs from the file's kernel_size {self.size}")
        try:
            self.kernel(self.size, self.intensity, np.random.RandomState(0), torch.Generator())
        except ValueError as error:
            raise UserError(f"{task.path}: kernel_size, intensity: {error}") from error

    def draw(self, rng, device):
        kernels = np.stack(
            [self.kernel(self.size, self.intensity, *pair) for pair in zip(rng.numpy, rng.torch)]
        )
        kernels = torch.from_numpy(kernels).float().to(device)
        return blurring(kernels, self.image_size), {"kernel": kernels}


@operator("unknown_blur")
class BlindBlur(Blur):
    """Blur by a kernel that the solver is not told, but for its size: `draw` gives what blurs, `unknowing` what the solver gets. Kernel and
    picture may move against each other; a picture is compared with the truth as it is and moved by up to four pixels."""

    nearest = staticmethod(nearest_moved)

    def __init__(self, task, size, prior_size):
        super().__init__(task, size, prior_size)
        if self.size % 2 == 0:
            raise UserError(
                f"{task.path}: kernel_size: is {self.size}, must be odd where the kernel is to be found; one more is the next"
            )

    def draw(self, rng, device):
        A, drawn = super().draw(rng, device)
        return A, {"kernel_true": drawn["kernel"]}

    def unknowing(self, device):
        return UnknownBlur(self.size, self.image_size, device, mirror=True)


# ------------------------------------------------------------------------------------------------ nonlinear blur


@operator("nonlinear_blur")
class NonlinearBlur(Operator):
    """Blur by a random code of a learned kernel space (Tran et al., CVPR 2021); output clamped to [-1, 1].

    Its network halves the image seven times, so both sides must be multiples of 128.
    """

    STRIDE = 128

    def __init__(self, task, size, prior_size):
        options = task.section("measurement").section("operator")
        path = options.take("opt_yml_path", str, hint="the path of bkse's options file")
        if any(side % self.STRIDE for side in size):
            said = f"nonlinear_blur needs images whose side is a multiple of {self.STRIDE}, not {size[0]} x {size[1]}"
            raise options.error("name", said)
        config = Section(load_yaml(project(path)), path).section("KernelWizard")
        weights = os.path.join(
            project("bkse"), config.take("pretrained", str, hint="a checkpoint's path below bkse/")
        )
        if not os.path.isfile(weights):
            raise UserError(
                f"{weights}: no such checkpoint; put the published GOPRO_wVAE.pth there (bkse/README.md)"
            )
        state = read_state_dict(weights)
        try:
            self.wizard = KernelWizard(config.values)
            self.wizard.load_state_dict(state)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: an option is missing or wrong ({error}); restore the published file"
            ) from error
        except RuntimeError as error:
            raise UserError(f"{weights}: is not the checkpoint that {path} describes") from error
        self.wizard.eval().requires_grad_(False)
        self.code_shape = (config.values["kernel_dim"], *(side // self.STRIDE for side in size))

    def draw(self, rng, device):
        wizard, code = self.wizard.to(device), 1.2 * rng.randn(self.code_shape, device)
        return lambda x: (2 * wizard.adaptKernel((x + 1) / 2, code) - 1).clamp(-1, 1), {}


@operator("turbulence")
class Turbulence(Operator):
    """Air turbulence, known to the solver: every pixel is taken from a place beside its own, by a smooth random field, and the picture
    is blurred by a Gaussian kernel. Linear. Source: Li et al. 2024 (DMPlug), after Chung et al. 2023 (BlindDPS); there both are unknown."""

    def __init__(self, task, size, prior_size):
        options = task.section("measurement").section("operator")
        above_zero = lambda value: 0 < value < math.inf
        self.tilt = options.take(
            "tilt",
            float,
            lambda t: 0 <= t < math.inf,
            "pixels, 0 or more: the root mean square of the shift",
        )
        self.smoothness = options.take(
            "smoothness",
            float,
            above_zero,
            "pixels, above 0: of the Gaussian that smooths the shifts",
        )
        fits = lambda k: k % 2 == 1 and 1 <= k and k // 2 < min(size)
        self.kernel_size = options.take(
            "kernel_size",
            int,
            fits,
            f"an odd number, and half of it less than the image's {min(size)}",
        )
        self.intensity = options.take(
            "intensity", float, above_zero, "pixels, above 0: the blur's standard deviation"
        )
        self.size = size

    def draw(self, rng, device):
        fields = np.stack(
            [smooth_field(self.size, self.tilt, self.smoothness, r) for r in rng.numpy]
        )
        kernels = np.stack(
            [
                gaussian_kernel(self.kernel_size, self.intensity, *pair)
                for pair in zip(rng.numpy, rng.torch)
            ]
        )
        kernels = torch.from_numpy(kernels).float().to(device)
        warp, blur = (
            warping(torch.from_numpy(fields).float().to(device)),
            blurring(kernels, self.size),
        )
        return lambda x: blur(warp(x)), {"kernel": kernels}


# ------------------------------------------------------------------------ denoising, dynamic range, phase retrieval


@operator("noise")
class Identity(Operator):
    """x itself: denoising."""

    def __init__(self, task, size, prior_size):
        pass

    def draw(self, rng, device):
        return lambda x: x, {}


@operator("hdr")
class HighDynamicRange(Operator):
    """clamp(scale x, -1, 1): what is brighter or darker than 1 / scale is lost (Mardani et al. 2024, RED-diff)."""

    def __init__(self, task, size, prior_size):
        options = task.section("measurement").section("operator")
        self.scale = options.take(
            "scale", float, lambda s: 0 < s < math.inf, "a number above 0", 2.0
        )

    def draw(self, rng, device):
        return lambda x: (self.scale * x).clamp(-1, 1), {}


@operator("phase_retrieval")
class PhaseRetrieval(Operator):
    """The amplitude of the centred, orthonormal Fourier transform of x, zero-padded by oversample / 8 of its sides at
    every side (Chung et al. 2023, DPS). Not unique: x turned by 180 degrees has the same amplitude."""

    @staticmethod
    def nearest(x, truth):
        """(x, (…, H, W), or its turn, which no measurement tells apart, whichever is nearer to truth; was it turned?)"""
        turned = (x.flip(-2, -1) - truth).square().mean() < (x - truth).square().mean()
        return (x.flip(-2, -1) if turned else x), bool(turned)

    def __init__(self, task, size, prior_size):
        options = task.section("measurement").section("operator")
        oversample = options.take("oversample", float, lambda o: 0 <= o <= 16, "a number, 0 … 16")
        rows, columns = (int(oversample / 8 * side) for side in size)
        self.pad = [columns, columns, rows, rows]

    def draw(self, rng, device):
        def amplitude(x):
            padded = torch.fft.ifftshift(F.pad(x, self.pad), dim=(-2, -1))
            return torch.fft.fftshift(torch.fft.fft2(padded, norm="ortho"), dim=(-2, -1)).abs()

        return amplitude, {}


# -------------------------------------------------------------------------------------------------------- deepinv


@operator("deepinv")
class DeepinvPhysics(Operator):
    """A physics of deepinv by the name of its class, with its arguments beside it (`guided_diffusion.physics`)."""

    def __init__(self, task, size, prior_size):
        self.physics = load_physics(task.section("measurement").section("operator"), size)

    def draw(self, rng, device):
        return in_our_range(self.physics.to(device)), {}


# ---------------------------------------------------------------------------------------------------------- noise


@noise("gaussian")
class GaussianNoise:
    """y + sigma * n, n standard normal; sigma in units of the [-1, 1] range."""

    def __init__(self, options):
        self.sigma = options.take(
            "sigma", float, lambda s: 0 <= s < math.inf, "a number, 0 or more"
        )

    def __call__(self, y, rng):
        return y + self.sigma * rng.randn_like(y)


@noise("poisson")
class PoissonNoise:
    """Photon counts: Poisson of mean 255 * rate * (y in [0, 1]), back to [-1, 1] and clamped."""

    def __init__(self, options):
        self.rate = options.take("rate", float, lambda r: 0 < r < math.inf, "a number above 0")
        self.sigma = (2 / (255 * self.rate)) ** 0.5  # at medium grey, y = 0

    def __call__(self, y, rng):
        expected = ((y + 1) / 2).clamp(0, 1).cpu().numpy() * 255 * self.rate
        counts = np.stack([r.poisson(image) for r, image in zip(rng.numpy, expected)])
        return (torch.from_numpy(counts / 255 / self.rate).to(y) * 2 - 1).clamp(-1, 1)


@noise("clean")
class NoNoise:
    """y itself."""

    sigma = 0.0

    def __init__(self, options):
        pass

    def __call__(self, y, rng):
        return y
