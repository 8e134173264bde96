"""The kinds of damage to photographs: the files given with one, and the operator they define."""

import os

import torch

from guided_diffusion.blind import UnknownBlur
from guided_diffusion.kernels import FILTERS, correlating, lit_beyond_white
from guided_diffusion.measurements import reducing
from photographs.kernels import load_kernel
from photographs.masks import HALF_GONE, load_mask
from photographs.pairing import file_for
from util.files import UserError

CLIPPED = 1 - 1 / 255  # brighter values, in all channels, may have been brighter than white


class Denoising:
    """The photograph itself plus noise; the base class of every kind of damage.

    options: a `photographs.arguments.Options`. knows_mask: whether px can be left out of y;
    assumed: a remark on the operator, or None.
    """

    knows_mask, assumed = True, None

    def __init__(self, options):
        pass

    def state_of(self, path, name, photo):
        """(the operator's state for one photograph, see `experiment.problem.Batch`; remarks;
        warnings)."""
        return {}, [], []

    def unclipped(self, photo, state):
        """(1, 1, h, w), 0 where light was lost that the operator would need."""
        return torch.ones_like(photo.x[:, :1])

    def border(self, state):
        """Rows above and below, and columns left and right, that x has in addition to y."""
        return 0, 0

    def size(self, y, state):
        """(H, W) of x."""
        rows, columns = self.border(state)
        return y.shape[-2] + 2 * rows, y.shape[-1] + 2 * columns

    def operator(self, state, size, device):
        """A, a function of (B, 3, H, W) in [-1, 1]."""
        return lambda x: x


class Inpainting(Denoising):
    """Missing where a mask is not white or the photograph is transparent."""

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


class Deblurring(Denoising):
    """Blurred by a known kernel. x extends half a kernel beyond y, as light from there was blurred
    into y; nothing is assumed about the border."""

    factor = 1

    def __init__(self, options):
        self.kernels = options.kernel
        self.flip, self.centre = options.flip_kernel, options.centre_kernel

    def state_of(self, path, name, photo):
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


class BlindDeblurring(Denoising):
    """Blurred by an unknown kernel of at most --blind px a side; the border as in `Deblurring`."""

    knows_mask = False  # the kernel is estimated from all of y

    def __init__(self, options):
        self.largest, self.side = options.blind, (options.blind - 1) | 1  # odd

    def state_of(self, path, name, photo):
        height, width = photo.x.shape[-2:]
        if self.side > min(height, width) // 2:
            raise UserError(
                f"--blind {self.largest}: is too large a kernel for {path}, {width} x {height}; "
                "half a side is the most"
            )
        return {}, [], []

    def border(self, state):
        return self.side // 2, self.side // 2

    def operator(self, state, size, device):
        return UnknownBlur(self.side, size, device, mirror=False)


class SuperResolution(Denoising):
    """Reduced by an integer factor with one of FILTERS."""

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


def damage_of(options):
    """The kind of damage that a command line describes."""
    if options.kernel is not None:
        return Deblurring(options) if options.scale is None else BlurredAndReduced(options)
    if options.blind is not None:
        return BlindDeblurring(options)
    if options.scale is not None:
        return SuperResolution(options)
    is_holed = options.mask is not None or options.transparent
    return Inpainting(options) if is_holed else Denoising(options)
