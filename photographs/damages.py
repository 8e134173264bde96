"""The kinds of damage to photographs: the files given with one, and the operator they define."""

import os

import torch

from experiment.library import network
from experiment.runner import choose_gpu
from guided_diffusion.blind import UnknownBlur, moved
from guided_diffusion.ddim import Chain
from guided_diffusion.jpeg import JPEG, SIGMA, Component, ReducedJPEG
from guided_diffusion.kernels import FAMILIES, FILTERS, correlating, lit_beyond_white
from guided_diffusion.measurements import reducing
from guided_diffusion.tiles import AnySize, choose_tile
from photographs.infrared import dust_mask, read_infrared
from photographs.jpeg import UPRIGHT, quality_of, read_jpeg, stored_turn
from photographs.kernels import family_numbers, kernel_of_family, load_kernel, off_centre
from photographs.masks import HALF_GONE, grown, load_mask
from photographs.noise import estimate_noise
from photographs.pairing import file_for
from photographs.reading import LUMA, UNUSED
from solvers.defects import THRESHOLD, WIDEST, find_defects
from solvers.edges import find_kernel, find_of_family
from util.files import PictureError, UserError
from util.rng import BatchRandom

# Standard deviation that the error of an estimated kernel adds to y, 1.5 of 255 in grey.
KERNEL_ERROR = 4.5 / 255
LARGEST_FAMILY = 33  # px a side of a kernel that --blind motion, disk or gauss looks for
COARSE = 75  # quality of JPEGs from which on --jpeg is worth a trial; what many programs write
CLIPPED = 1 - 1 / 255  # brighter values, in all channels, may have been brighter than white


class Denoising:
    """The photograph itself plus noise; the base class of every kind of damage.

    options: a `photographs.arguments.Options`. knows_mask: whether px can be left out of y;
    is_pointwise: whether px of y are px of x; assumed: a remark on the operator, or None; noise:
    (sigma, its source) where it is not estimated, or None; copied: a remark on a photograph that is
    complete; operator_error: standard deviation in y due to the operator's own error, in units of
    [-1, 1].
    """

    knows_mask, assumed, noise, copied, is_pointwise = True, None, None, None, True
    operator_error = 0.0

    def __init__(self, options):
        pass

    def state_of(self, path, name, photo):
        """(the operator's state for one photograph, see `experiment.problem.Batch`; remarks;
        warnings)."""
        quality = quality_of(path)
        coarse = quality is not None and quality <= COARSE
        return {}, [f"a JPEG of quality {quality}; try --jpeg"] if coarse else [], []

    def measured(self, photo, state):
        """y of one photograph; removes from its state what is no part of the operator's."""
        return photo.x * state.get("mask", 1)

    def is_complete(self, state):
        """Whether nothing is to be restored, so that the photograph is copied."""
        return False

    def unclipped(self, photo, state):
        """(1, 1, h, w), 0 where light was lost that the operator would need."""
        return torch.ones_like(photo.x[:, :1])

    def shared(self, state):
        """What photographs of one batch must have in common in addition to their size."""
        return ()

    def border(self, state):
        """Rows above and below, and columns left and right, that x has in addition to y."""
        return 0, 0

    def picture(self, x, state):
        """The photograph in x, (…, H, W): without its border, upright."""
        rows, columns = self.border(state)
        return x[..., rows : x.shape[-2] - rows, columns : x.shape[-1] - columns]

    def size(self, y, state):
        """(H, W) of x."""
        rows, columns = self.border(state)
        return y.shape[-2] + 2 * rows, y.shape[-1] + 2 * columns

    def operator(self, state, size, device):
        """A, a function of (B, 3, H, W) in [-1, 1]."""
        return lambda x: x


class Inpainting(Denoising):
    """Missing where a mask is not white or the photograph is transparent."""

    copied = "its mask has no hole: copied"

    def __init__(self, options):
        self.masks, self.invert, self.grow = options.mask, options.invert_mask, options.grow or 0

    def state_of(self, path, name, photo):
        photo.alpha, visible = None, photo.visible  # transparent areas are filled
        if self.masks is None:
            remarks = [] if visible.all() else ["transparent areas are missing"]
            return {"mask": visible}, remarks, []
        file = file_for("mask", self.masks, path, name)
        mask, remark = load_mask(file, self.invert, self.grow)
        if mask.shape[-2:] != photo.x.shape[-2:]:
            sizes = [f"{x.shape[-1]} x {x.shape[-2]}" for x in (mask, photo.x)]
            raise UserError(
                f"{file}: is {sizes[0]}, {path} is {sizes[1]}; make the mask as large as the image"
            )
        share, warnings = 1 - mask.mean().item(), []
        remarks = [f"{os.path.basename(file)}: {remark}"] if remark else []
        remarks += [] if visible.all() else ["transparent areas are missing, too"]
        if share > HALF_GONE and not self.invert:
            warnings.append(
                f"{file}: {share:.0%} of {path} is missing; if this mask is white where the hole "
                "is, give --invert-mask"
            )
        return {"mask": mask * visible}, remarks, warnings

    def is_complete(self, state):
        return self.masks is not None and bool(state["mask"].all())


class Defects(Inpainting):
    """Missing where `solvers.defects` finds px that no noise explains, which are estimated with the
    run's network when the photograph is inspected."""

    copied = "no defects found: copied"

    def __init__(self, options, args):
        self.options, self.prior, self.cuda, self.found = options, args.dataset, args.cuda, {}
        self.sigma = args.sigma

    def state_of(self, path, name, photo):
        if name not in self.found:  # asked again when the photograph is restored
            self.found[name] = self._find(photo)
        mask = grown(self.found[name], self.options.grow or 0)
        photo.alpha, visible = None, photo.visible
        return {"mask": mask * visible}, [f"{int((mask == 0).sum())} px are defects"], []

    def _find(self, photo):
        noise = estimate_noise(photo.x, photo.visible)
        sigma = self.sigma or max(noise.sigma if noise else 0, 1 / 255)
        device = choose_gpu(self.cuda, tf32=True)
        model, side = network(self.prior, device)
        tile = choose_tile(model, photo.x.shape[-2:], side, 1, device)
        g = Chain(AnySize(model, tile), 1, BatchRandom([0]))
        limits = self.options.widest or WIDEST, self.options.threshold or THRESHOLD
        return find_defects(g, photo.x.to(device), photo.visible.to(device), sigma, *limits)

    def is_complete(self, state):
        return bool(state["mask"].all())


class Dust(Inpainting):
    """Missing where a scan's infrared channel, to which film is transparent, shows dust."""

    copied = "no dust in its infrared channel: copied"

    def __init__(self, options):
        self.grow = options.grow or 0

    def state_of(self, path, name, photo):
        infrared = read_infrared(path)
        if infrared.shape != photo.x.shape[-2:]:
            raise PictureError(f"{path}: its infrared channel has another size than its colours")
        photo.remarks = [one for one in photo.remarks if one != UNUSED]
        mask = grown(dust_mask(infrared), self.grow)
        return {"mask": mask}, [f"dust in {(mask == 0).float().mean():.2%} of its infrared"], []

    def is_complete(self, state):
        return bool(state["mask"].all())


class Deblurring(Denoising):
    """Blurred by a known kernel. x extends half a kernel beyond y, as light from there was blurred
    into y; nothing is assumed about the border."""

    factor, is_pointwise = 1, False

    def __init__(self, options):
        self.kernels = options.kernel
        self.flip, self.centre = options.flip_kernel, options.centre_kernel

    def state_of(self, path, name, photo):
        if family_numbers(self.kernels):
            file, kernel, warnings = self.kernels, kernel_of_family(self.kernels), []
            before = kernel.shape[-2:]
        else:
            file = file_for("kernel", self.kernels, path, name)
            kernel, before, warnings = load_kernel(file, self.flip, self.centre)
        h, w = kernel.shape[-2:]
        height, width = (side * self.factor for side in photo.x.shape[-2:])
        whole = f"{before[1]} x {before[0]}"
        if h > height or w > width:
            raise UserError(
                f"{file}: this kernel, {whole}, is larger than {path}, {width} x {height}; crop it"
            )
        remark = f"kernel {w} x {h}"
        remark += f", trimmed from {whole}" if h < before[0] or w < before[1] else ""
        return {"kernel": kernel}, [remark], [f"{file}: {one}" for one in warnings]

    def unclipped(self, photo, state):
        """A lamp brighter than white lights its surroundings more than any x in [-1, 1] could."""
        clipped = (photo.x > CLIPPED).all(1, keepdim=True).float()
        if not clipped.any():
            return 1 - clipped
        return 1 - lit_beyond_white(photo.x, state["kernel"], clipped)

    def border(self, state):
        h, w = state["kernel"].shape[-2:]
        return h // 2, w // 2

    def operator(self, state, size, device):
        return correlating(state["kernel"].to(device), size)


def refuse_large(side, largest, path, photo):
    """Raise UserError for a kernel of --blind that a photograph is too small for."""
    height, width = photo.x.shape[-2:]
    if side > min(height, width) // 2:
        raise UserError(
            f"--blind {largest}: is too large a kernel for {path}, {width} x {height}; "
            "half a side is the most"
        )


class FromEdges(Deblurring):
    """Blurred by an unknown kernel, of at most --blind px a side or of a family, which is estimated
    before the restoration (`solvers.edges`). A photograph whose kernel cannot be trusted is
    complete; its kernel is a single px."""

    operator_error = KERNEL_ERROR

    def __init__(self, options):
        self.blind, self.estimates = options.blind, {}

    def state_of(self, path, name, photo):
        if name not in self.estimates:  # asked again when the photograph is restored
            self.estimates[name] = self._find(path, photo)
        kernel, remark = self.estimates[name]
        return {"kernel": kernel[None]}, [remark], []

    def _find(self, path, photo):
        """(the kernel, (k, k); a remark)."""
        noise = estimate_noise(photo.x, photo.visible)
        grey = 1 if photo.grey else sum(one**2 for one in LUMA) ** 0.5  # of the noise that is left
        sigma = max(noise.sigma if noise else 0, 1 / 255) / 2 * grey
        y = (torch.tensordot(torch.tensor(LUMA), photo.x[0], 1) + 1) / 2
        if self.blind in FAMILIES:
            name, side = self.blind, min(LARGEST_FAMILY, min(photo.x.shape[-2:]) // 2)
            estimate, numbers = find_of_family(name, y, sigma, side)
        else:
            side = (self.blind - 1) | 1  # odd
            refuse_large(side, self.blind, path, photo)
            estimate, name, numbers = find_kernel(y, side, sigma)
        remark = f"kernel {side} x {side} from edges (doubt {estimate.doubt:.2f})"
        if name:
            remark = f"kernel {name} {' '.join(f'{number:.3g}' for number in numbers)}"
        if not estimate.is_trusted:
            reason = "explains it hardly better than none" if estimate.is_idle else "is doubtful"
            return torch.ones(1, 1), f"returned unchanged: the best {remark} {reason}"
        return estimate.kernel, remark

    def is_complete(self, state):
        return state["kernel"].numel() == 1

    def unclipped(self, photo, state):
        complete = self.is_complete(state)
        return torch.ones_like(photo.x[:, :1]) if complete else super().unclipped(photo, state)

    def picture(self, x, state):
        """Moved back by the fraction of a px that the kernel's centre of mass is off its middle."""
        kernels = state["kernel"].cpu().numpy()
        shifts = [[-off for off in off_centre(kernel)] for kernel in kernels]
        return super().picture(torch.stack([moved(*one) for one in zip(x, shifts)]), state)


class BlindDeblurring(Denoising):
    """Blurred by an unknown kernel of at most --blind px a side, which the method estimates
    together with the picture; the border as in `Deblurring`."""

    knows_mask, is_pointwise = False, False  # the kernel is estimated from all of y

    def __init__(self, options):
        self.largest, self.side = options.blind, (options.blind - 1) | 1  # odd

    def state_of(self, path, name, photo):
        refuse_large(self.side, self.largest, path, photo)
        return {}, [], []

    def border(self, state):
        return self.side // 2, self.side // 2

    def operator(self, state, size, device):
        return UnknownBlur(self.side, size, device, mirror=False)


class Compression(Denoising):
    """A JPEG, whose coefficients are known to within half a step of its tables, perhaps of a
    reduced picture. x is the picture as it is stored, extended to whole MCUs."""

    knows_mask, is_pointwise = False, False
    noise = SIGMA, "rounding, in steps of its tables"

    def __init__(self, options):
        self.reduction = None if options.scale is None else SuperResolution(options)
        self.factor = options.scale or 1
        self.assumed = self.reduction and self.reduction.assumed

    def state_of(self, path, name, photo):
        jpeg = read_jpeg(path)
        photo.grey = jpeg.grey
        blocks = [one.blocks for one in jpeg.components]
        state = {
            "y": jpeg.y,
            "tables": torch.stack([one.table for one in jpeg.components])[None],
            "layout": torch.tensor([[*jpeg.size, stored_turn(path), *sum(blocks, ())]]),
        }
        return state, [f"quality {jpeg.quality}", jpeg.sampling], []

    def measured(self, photo, state):
        return state.pop("y")

    def shared(self, state):
        return tuple(state["layout"][0].tolist()), state["tables"].numpy().tobytes()

    def _components(self, state):
        blocks = state["layout"][0, 3:].reshape(-1, 2).tolist()
        return tuple(Component(*one) for one in zip(state["tables"][0].cpu(), map(tuple, blocks)))

    def size(self, y, state):
        return [self.factor * side for side in JPEG.padded(self._components(state), y)]

    def picture(self, x, state):
        height, width, turn = state["layout"][0, :3].tolist()
        x = x[..., : self.factor * height, : self.factor * width]
        return UPRIGHT.get(turn, lambda x: x)(x)

    def operator(self, state, size, device):
        stored = [side // self.factor for side in size]
        jpeg = JPEG(self._components(state), stored, device)
        if self.reduction is None:
            return jpeg
        return ReducedJPEG(jpeg, self.factor, self.reduction.matrix, device)


class SuperResolution(Denoising):
    """Reduced by an integer factor with one of FILTERS."""

    is_pointwise = False

    def __init__(self, options):
        name = options.filter or "bicubic"
        self.factor, self.matrix = options.scale, FILTERS[name]
        self.assumed = f"assumed to be reduced by --filter {name}"

    def size(self, y, state):
        return y.shape[-2] * self.factor, y.shape[-1] * self.factor

    def operator(self, state, size, device):
        return reducing(size, self.factor, device, self.matrix)


class BlurredAndReduced(Deblurring):
    """Blurred by a known kernel, then reduced, as by a camera."""

    def __init__(self, options):
        super().__init__(options)
        self.reduction = SuperResolution(options)
        self.factor, self.assumed = options.scale, self.reduction.assumed

    def unclipped(self, photo, state):
        return torch.ones_like(photo.x[:, :1])

    def size(self, y, state):
        borders = zip(y.shape[-2:], self.border(state))
        return [self.factor * side + 2 * border for side, border in borders]

    def operator(self, state, size, device):
        blur = super().operator(state, size, device)
        inner = [side - 2 * border for side, border in zip(size, self.border(state))]
        reduce = self.reduction.operator(state, inner, device)
        return lambda x: reduce(blur(x))


def damage_of(options, args):
    """The kind of damage that a command line describes. args: the run's Arguments."""
    if options.defects:
        return Defects(options, args)
    if options.infrared:
        return Dust(options)
    if options.jpeg:
        return Compression(options)
    if options.kernel is not None:
        return Deblurring(options) if options.scale is None else BlurredAndReduced(options)
    if options.blind is not None:
        return BlindDeblurring(options) if options.by_method else FromEdges(options)
    if options.scale is not None:
        return SuperResolution(options)
    is_holed = options.mask is not None or options.transparent
    return Inpainting(options) if is_holed else Denoising(options)
