"""Degradation operators by name, and task files: y = A(x) + n. Noises: `guided_diffusion.noises`.

An operator is built from its task file, the images' size (H, W) and the side of the prior's images.
`draw(rng, device)` samples what is random in it, a mask or a kernel per image, and returns (A,
operator_state): a differentiable function from (B, 3, H, W) in [-1, 1] to measurements, and
{"mask": (B, 1, H, W)}, {"kernel": (B, k, k)} or {}.

Solvers only call A. One that is partly unknown implements `guided_diffusion.blind.UnknownOperator`.

To add a task, write a class here under @operator("name") and configs/tasks/<task>_config.yaml with
that name (docs/operators.md).
"""

import os

import numpy as np
import torch
import torch.nn.functional as F

from bkse.models.kernel_encoding.kernel_wizard import KernelWizard
from guided_diffusion import noises  # noqa: F401  fills NOISES
from guided_diffusion.blind import UnknownBlur, nearest_moved
from guided_diffusion.jpeg import BLOCK, JPEG, Component, tables
from guided_diffusion.kernels import (
    bicubic_matrix,
    blurring,
    gaussian_kernel,
    motion_kernel,
    smooth_field,
    warping,
)
from guided_diffusion.physics import in_our_range, load_physics
from guided_diffusion.registry import NOISES, OPERATORS, operator
from util.config import Section, above_0, at_least_0, load_yaml
from util.files import UserError, project, read_state_dict, say


def load_task(path):
    """A task file's content, without the DPS repository's sections `conditioning` and `data`."""
    config = load_yaml(path)
    ignored = [key for key in ("conditioning", "data") if key in config]
    if ignored:
        say(f"{path}: {' and '.join(ignored)} ignored, use --preset and --data")
    return {key: value for key, value in config.items() if key not in ignored}


def degradation(config):
    """What a task file's content degrades with: the names of its operator, of its kernel, mask or
    physics, and of its noise; None for a missing one."""

    def section(key):
        measurement = config.get("measurement")
        values = measurement.get(key) if isinstance(measurement, dict) else None
        return values if isinstance(values, dict) else {}

    name, noise_name = section("operator").get("name"), section("noise").get("name")
    if name in Blur.NAMED_BY_KERNEL:  # another name of blind_blur
        return "blind_blur", Blur.NAMED_BY_KERNEL[name], noise_name
    mask, physics = section("mask_opt").get("mask_type"), section("operator").get("physics")
    return name, config.get("kernel") or mask or physics, noise_name


def load_measurement(config, path, size, prior_size):
    """A task file's content and path -> (operator, noise) for images of `size` (H, W); prior_size:
    the side of the prior's images. Raises UserError, with file and key, for invalid content."""
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
    """Whether `pair` is two numbers of `kind`, not decreasing, in low … high."""
    is_pair = len(pair) == 2 and all(isinstance(v, kind) for v in pair)
    return is_pair and low <= pair[0] <= pair[1] <= high


def check_side(section, key, side, size, prior_size):
    """Raise UserError if a task file's side contradicts the prior's. Published task files repeat
    it; it does not apply to images of another size."""
    if size == (prior_size, prior_size) and side != prior_size:
        prior = f"the prior's images are {prior_size} x {prior_size}"
        raise section.error(key, f"is {side}, but {prior}; remove or correct it")


class Operator:
    """The base class of operators.

    nearest(x, truth): (the image, (3, H, W), nearest to truth among those with x's measurement,
    what distinguishes it from x); None if A has no such symmetry.
    """

    nearest = None

    def blind_operator(self, device):
        """The `guided_diffusion.blind.UnknownOperator` for solvers; None: they know A."""
        return None


# --------------------------------------------------------------------------------------- inpainting


MARGIN = 16  # px between a box and the border (DPS, mask_generator)


def random_mask(size, missing_range, rng):
    """(H, W) float32 mask, 0 at random px, whose share is uniform in `missing_range`."""
    area = size[0] * size[1]
    mask = np.ones(area, np.float32)
    missing = int(area * rng.uniform(*missing_range))
    mask[rng.choice(area, missing, replace=False)] = 0
    return mask.reshape(size)


def box_mask(size, length_range, rng):
    """(H, W) float32 mask, 0 in a random box of sides low … high - 1; length_range: (low, high)."""
    height, width = rng.randint(*length_range), rng.randint(*length_range)
    top = rng.randint(MARGIN, size[0] - MARGIN - height)
    left = rng.randint(MARGIN, size[1] - MARGIN - width)
    mask = np.ones(size, np.float32)
    mask[top : top + height, left : left + width] = 0
    return mask


def extreme_mask(size, length_range, rng):
    """(H, W) float32 mask, 0 outside a random box."""
    return 1 - box_mask(size, length_range, rng)


def masking(mask):
    """The function x * mask; mask: (B, 1, H, W), 0 where px are missing, else 1."""
    return lambda x: x * mask


@operator("inpainting")
class Inpainting(Operator):
    """x * mask, the same mask for all channels: random px or a box (Chung et al. 2023, DPS)."""

    MASKS = {"random": random_mask, "box": box_mask, "extreme": extreme_mask}

    def __init__(self, task, size, prior_size):
        options = task.section("measurement").section("mask_opt")
        side = options.take("image_size", int, default=prior_size)
        check_side(options, "image_size", side, size, prior_size)
        kind = options.take("mask_type", str, self.MASKS.__contains__, "random, box or extreme")
        self.mask, self.size = self.MASKS[kind], size
        if kind == "random":
            key, numbers, low, high = "mask_prob_range", (int, float), 0, 1
            hint = "a range [p, q] within 0 … 1"
        else:
            key, numbers, low, high = "mask_len_range", int, 1, min(size) - 2 * MARGIN
            hint = f"a range [low, high] of px with 0 < low < high <= {high}"

        def valid(pair):
            return is_range(pair, numbers, low, high) and (kind == "random" or pair[0] < pair[1])

        self.range = options.take(key, tuple, valid, hint)
        for other in ("mask_prob_range", "mask_len_range"):  # published files have both
            options.take(other, tuple, default=())

    def draw(self, rng, device):
        masks = [self.mask(self.size, self.range, r) for r in rng.numpy]
        mask = torch.from_numpy(np.stack(masks))[:, None].to(device)
        return masking(mask), {"mask": mask}


# --------------------------------------------------------------------------------- super-resolution


def reducing(size, factor, device, matrix=bicubic_matrix):
    """Reduction by an integer factor: a function (B, 3, H, W) -> (B, 3, H / factor, W / factor).
    size: (H, W); matrix: one of `guided_diffusion.kernels.FILTERS`."""
    by_height, by_width = (matrix(side, factor).to(device) for side in size)

    def reduce(x):
        # Height first, and (B, H, C, W) in memory, as the published operator does: the memory order
        # assigns noise values to px (BatchRandom.randn_like).
        rows = (by_height @ x).transpose(1, 2)
        return (rows @ by_width.T).transpose(1, 2)

    return reduce


@operator("super_resolution")
class SuperResolution(Operator):
    """Bicubic reduction by an integer factor that divides both sides."""

    def __init__(self, task, size, prior_size):
        options = task.section("measurement").section("operator")

        def square(shape):
            return len(shape) == 4 and shape[2] == shape[3]

        def divides(factor):
            return factor >= 1 and not any(side % factor for side in size)

        own = (1, 3, prior_size, prior_size)
        shape = options.take("in_shape", tuple, square, "[1, 3, height, width]", own)
        check_side(options, "in_shape", shape[-1], size, prior_size)
        hint = f"an integer that divides {' and '.join(map(str, dict.fromkeys(size)))}"
        self.size, self.factor = size, options.take("scale_factor", int, divides, hint)

    def draw(self, rng, device):
        return reducing(self.size, self.factor, device), {}


# --------------------------------------------------------------------------------- blur by a kernel


def kernel_fits(size):
    """Whether mirrored borders suffice for a kernel's side, as a function; size: (H, W)."""
    return lambda side: 1 <= side and side // 2 < min(size)


def sample_kernels(kernel, side, intensity, rng, device):
    """A kernel of `guided_diffusion.kernels` for each image, (B, side, side) float32."""
    pairs = zip(rng.numpy, rng.torch)
    kernels = np.stack([kernel(side, intensity, *pair) for pair in pairs])
    return torch.from_numpy(kernels).float().to(device)


@operator("blind_blur")
@operator("gaussian_blur")
@operator("motion_blur")
class Blur(Operator):
    """Blur by a Gaussian or a random motion kernel, known to the solver.

    Named blind_blur, as in the published code, the kernel's options are at the top of the task
    file; named by its kernel, as in the DPS repository, they are below measurement.operator.
    """

    KERNELS = {"gaussian": gaussian_kernel, "motion": motion_kernel}
    NAMED_BY_KERNEL = {"gaussian_blur": "gaussian", "motion_blur": "motion"}

    def __init__(self, task, size, prior_size):
        options = task.section("measurement").section("operator")
        kind = self.NAMED_BY_KERNEL.get(options.values["name"])
        given, names = (options, ()) if kind else (task, self.KERNELS)
        kind = kind or task.take("kernel", str, names.__contains__, "gaussian or motion")
        fits, hint = kernel_fits(size), f"an integer, half of it below the image's {min(size)}"
        self.kernel, self.image_size = self.KERNELS[kind], size
        self.size = given.take("kernel_size", int, fits, hint)
        hint = "0 or more: sigma in px (gaussian), erraticness (motion)"
        self.intensity = given.take("intensity", float, at_least_0, hint)
        if options.take("kernel_size", int, fits, hint, self.size) != self.size:
            raise options.error("kernel_size", f"differs from the file's kernel_size {self.size}")
        try:
            self.kernel(self.size, self.intensity, np.random.RandomState(0), torch.Generator())
        except ValueError as error:
            raise UserError(f"{task.path}: kernel_size, intensity: {error}") from error

    def draw(self, rng, device):
        kernels = sample_kernels(self.kernel, self.size, self.intensity, rng, device)
        return blurring(kernels, self.image_size), {"kernel": kernels}


@operator("unknown_blur")
class BlindBlur(Blur):
    """Blur by a kernel of which the solver knows the size only (`blind_operator`). The measurement
    does not determine the shift between kernel and image, so results are compared up to a shift."""

    nearest = staticmethod(nearest_moved)

    def __init__(self, task, size, prior_size):
        super().__init__(task, size, prior_size)
        if self.size % 2 == 0:
            raise UserError(
                f"{task.path}: kernel_size: is {self.size}, must be odd for a blind kernel; add one"
            )

    def draw(self, rng, device):
        A, operator_state = super().draw(rng, device)
        return A, {"kernel_true": operator_state["kernel"]}

    def blind_operator(self, device):
        return UnknownBlur(self.size, self.image_size, device, mirror=True)


# --------------------------------------------------------------------------------------------- JPEG


@operator("jpeg")
class JPEGCompression(Operator):
    """The DCT coefficients of a JPEG in steps of libjpeg's tables (`guided_diffusion.jpeg.JPEG`);
    both sides of the images must be multiples of the MCU's."""

    # The blocks of luma in an MCU, vertical and horizontal; of chroma there is one.
    SAMPLINGS = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2), "4:4:0": (2, 1)}

    def __init__(self, task, size, prior_size):
        options = task.section("measurement").section("operator")
        hint = "a whole number from 1 to 100"
        quality = options.take("quality", int, lambda q: 1 <= q <= 100, hint)
        known = f"one of {', '.join(self.SAMPLINGS)}"
        sampling = options.take("sampling", str, self.SAMPLINGS.__contains__, known, "4:2:0")
        luma, chroma = tables(quality)
        blocks, self.size = self.SAMPLINGS[sampling], size
        self.components = (Component(luma, blocks), *[Component(chroma, (1, 1))] * 2)
        if any(side % (BLOCK * count) for side, count in zip(size, blocks)):
            raise options.error(
                "sampling",
                f"is {sampling}, which needs sides that are multiples of "
                f"{BLOCK * blocks[0]} x {BLOCK * blocks[1]} px, not {size[0]} x {size[1]}",
            )

    def draw(self, rng, device):
        return JPEG(self.components, self.size, device), {}


# ----------------------------------------------------------------------------------- nonlinear blur


@operator("nonlinear_blur")
class NonlinearBlur(Operator):
    """Blur by a random code of a learned kernel space (Tran et al., CVPR 2021), clamped to [-1, 1].

    Its network halves images seven times, so both sides must be multiples of 128.
    """

    STRIDE = 128

    def __init__(self, task, size, prior_size):
        options = task.section("measurement").section("operator")
        path = options.take("opt_yml_path", str, hint="the path of bkse's options file")
        if any(side % self.STRIDE for side in size):
            raise options.error(
                "name",
                f"is nonlinear_blur, which needs each side to be a multiple of {self.STRIDE}, not "
                f"{size[0]} x {size[1]}",
            )
        config = Section(load_yaml(project(path)), path).section("KernelWizard")
        weights = config.take("pretrained", str, hint="a checkpoint's path below bkse/")
        weights = os.path.join(project("bkse"), weights)
        if not os.path.isfile(weights):
            raise UserError(
                f"{weights}: no such checkpoint; download GOPRO_wVAE.pth there (bkse/README.md)"
            )
        state = read_state_dict(weights)
        try:
            self.wizard = KernelWizard(config.values)
            self.wizard.load_state_dict(state)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problem = f"an option is missing or invalid ({error}); restore the published file"
            raise UserError(f"{path}: {problem}") from error
        except RuntimeError as error:
            raise UserError(f"{weights}: is not the checkpoint that {path} describes") from error
        self.wizard.eval().requires_grad_(False)
        self.code_shape = (config.values["kernel_dim"], *(side // self.STRIDE for side in size))

    def draw(self, rng, device):
        wizard, code = self.wizard.to(device), 1.2 * rng.randn(self.code_shape, device)
        return lambda x: (2 * wizard.adaptKernel((x + 1) / 2, code) - 1).clamp(-1, 1), {}


@operator("turbulence")
class Turbulence(Operator):
    """Air turbulence, known to the solver and linear: a smooth random warp, then a Gaussian blur.

    Source: Li et al. 2024 (DMPlug), after Chung et al. 2023 (BlindDPS), where both are unknown.
    """

    def __init__(self, task, size, prior_size):
        options = task.section("measurement").section("operator")
        hint = "px, 0 or more: the root mean square of the shift"
        self.tilt = options.take("tilt", float, at_least_0, hint)
        hint = "px, above 0: the standard deviation of the Gaussian that smooths the shifts"
        self.smoothness = options.take("smoothness", float, above_0, hint)
        hint = f"an odd number, half of it below the image's {min(size)}"
        fits = kernel_fits(size)
        odd = options.take("kernel_size", int, lambda k: k % 2 == 1 and fits(k), hint)
        hint = "px, above 0: the standard deviation of the blur"
        self.intensity = options.take("intensity", float, above_0, hint)
        self.size, self.kernel_size = size, odd

    def draw(self, rng, device):
        options = self.size, self.tilt, self.smoothness
        fields = np.stack([smooth_field(*options, r) for r in rng.numpy])
        warp = warping(torch.from_numpy(fields).float().to(device))
        kernels = sample_kernels(gaussian_kernel, self.kernel_size, self.intensity, rng, device)
        blur = blurring(kernels, self.size)
        return lambda x: blur(warp(x)), {"kernel": kernels}


# -------------------------------------------------------- denoising, dynamic range, phase retrieval


@operator("noise")
class Identity(Operator):
    """x itself: denoising."""

    def __init__(self, task, size, prior_size):
        pass

    def draw(self, rng, device):
        return lambda x: x, {}


@operator("hdr")
class HighDynamicRange(Operator):
    """clamp(scale x, -1, 1), which clips |x| > 1 / scale (Mardani et al. 2024, RED-diff)."""

    def __init__(self, task, size, prior_size):
        options = task.section("measurement").section("operator")
        self.scale = options.take("scale", float, above_0, "a number above 0", 2.0)

    def draw(self, rng, device):
        return lambda x: (self.scale * x).clamp(-1, 1), {}


@operator("phase_retrieval")
class PhaseRetrieval(Operator):
    """The amplitude of the centred, orthonormal Fourier transform of x, zero-padded by oversample /
    8 of its size on each side (Chung et al. 2023, DPS). Invariant to rotation by 180
    degrees."""

    @staticmethod
    def nearest(x, truth):
        """(x or x rotated by 180 degrees, (…, H, W), the one nearer to truth; whether rotated)."""
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


# ------------------------------------------------------------------------------------------ deepinv


@operator("deepinv")
class DeepinvPhysics(Operator):
    """A physics of deepinv by its class, with its arguments as further keys (`load_physics`)."""

    def __init__(self, task, size, prior_size):
        self.physics = load_physics(task.section("measurement").section("operator"), size)

    def draw(self, rng, device):
        return in_our_range(self.physics.to(device)), {}
