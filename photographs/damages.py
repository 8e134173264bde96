"""The kinds of measurement that photographs can be: what is given beside a picture, and the operator that follows from it."""

import os

import torch

from guided_diffusion.blind import UnknownBlur
from guided_diffusion.kernels import FILTERS, correlating, lit_beyond_white
from guided_diffusion.measurements import reducing
from photographs.kernels import load_kernel
from photographs.masks import HALF_GONE, load_mask, mask_of
from util.files import UserError

CLIPPED = 1 - 1 / 255  # what is brighter, in all channels, may have been brighter than white


class Denoising:
    """The picture itself, under noise; the other kinds of measurement say what differs.

    given(path, name, photo): (what the command line's files say of one picture, as a Problem's `drawn`; what is told of it, warnings);
    size(y, given): (H, W) of the picture that is restored; operator(given, size, device): A; border: see Problem; knows_mask: can pixels be
    left out of y? assumed: what is told of A.
    """

    knows_mask, assumed = True, None

    def __init__(self, args):
        pass

    def given(self, path, name, photo):
        return {}, [], []

    def unclipped(self, photo, given):
        """(1, 1, h, w), 0 where light was lost that A would need."""
        return torch.ones_like(photo.x[:, :1])

    def border(self, given):
        return 0, 0

    def size(self, y, given):
        rows, columns = self.border(given)
        return y.shape[-2] + 2 * rows, y.shape[-1] + 2 * columns

    def operator(self, given, size, device):
        return lambda x: x


class Inpainting(Denoising):
    """Pixels are missing where a mask is not white, or where the picture is transparent."""

    def __init__(self, args):
        self.masks, self.invert, self.grow = args.mask, args.invert_mask, args.grow or 0

    def given(self, path, name, photo):
        photo.alpha, visible = None, photo.visible  # what is transparent is filled in
        if self.masks is None:
            return (
                {"mask": visible},
                ["what is transparent is missing"] if not visible.all() else [],
                [],
            )
        file = mask_of(self.masks, path, name)
        mask, said = load_mask(file, self.invert, self.grow)
        if mask.shape[-2:] != photo.x.shape[-2:]:
            sizes = [f"{x.shape[-1]} x {x.shape[-2]}" for x in (mask, photo.x)]
            raise UserError(
                f"{file}: is {sizes[0]}, {path} is {sizes[1]}; make the mask of the picture's size"
            )
        share = 1 - mask.mean().item()
        told = [f"{os.path.basename(file)}: {said}"] if said else []
        told += [] if visible.all() else ["what is transparent is missing, too"]
        hint = f"{file}: {share:.0%} of {path} is missing; if this mask is white where the hole is, give --invert-mask"
        return (
            {"mask": mask * visible},
            told,
            [hint] if share > HALF_GONE and not self.invert else [],
        )


class Deblurring(Denoising):
    """Blurred by a kernel. What lies beyond the border has been blurred into the picture and is restored along with it, half a kernel
    wide: nothing has to be assumed of it."""

    factor = 1

    def __init__(self, args):
        self.kernels, self.flip, self.centre = args.kernel, args.flip_kernel, args.centre_kernel

    def given(self, path, name, photo):
        file = beside("kernel", self.kernels, path, name)
        kernel, warnings = load_kernel(file, self.flip, self.centre)
        (h, w), (height, width) = (
            kernel.shape[-2:],
            [side * self.factor for side in photo.x.shape[-2:]],
        )
        if h > height or w > width:
            raise UserError(
                f"{file}: this kernel, {w} x {h}, is larger than {path}, {width} x {height}; cut its dark border off"
            )
        return {"kernel": kernel}, [f"kernel {w} x {h}"], [f"{file}: {one}" for one in warnings]

    def unclipped(self, photo, given):
        """A lamp brighter than white shines into what is around it more than any picture in [-1, 1] can say."""
        clipped = (photo.x > CLIPPED).all(1, keepdim=True).float()
        return (
            1 - lit_beyond_white(photo.x, given["kernel"], clipped)
            if clipped.any()
            else 1 - clipped
        )

    def border(self, given):
        h, w = given["kernel"].shape[-2:]
        return h // 2, w // 2

    def operator(self, given, size, device):
        return correlating(given["kernel"].to(device), size)


class BlindDeblurring(Denoising):
    """Blurred by a kernel that nobody knows, of at most --blind pixels a side; the border as in `Deblurring`."""

    knows_mask = False  # the kernel is told from all of y

    def __init__(self, args):
        self.largest, self.side = args.blind, (args.blind - 1) | 1  # odd

    def given(self, path, name, photo):
        height, width = photo.x.shape[-2:]
        if self.side > min(height, width) // 2:
            raise UserError(
                f"--blind {self.largest}: is too large a kernel for {path}, {width} x {height}; half a side is the most"
            )
        return {}, [], []

    def border(self, given):
        return self.side // 2, self.side // 2

    def operator(self, given, size, device):
        return UnknownBlur(self.side, size, device, mirror=False)


class SuperResolution(Denoising):
    """Reduced by a whole factor, through one of FILTERS."""

    def __init__(self, args):
        self.factor, self.matrix = args.scale, FILTERS[args.filter or "bicubic"]
        self.assumed = f"taken to be reduced by --filter {args.filter or 'bicubic'}"

    def size(self, y, given):
        return y.shape[-2] * self.factor, y.shape[-1] * self.factor

    def operator(self, given, size, device):
        return reducing(size, self.factor, device, self.matrix)


class BlurredAndReduced(Deblurring):
    """Blurred by a kernel, then reduced, as a camera does."""

    def __init__(self, args):
        super().__init__(args)
        self.reduction = SuperResolution(args)
        self.factor, self.assumed = args.scale, self.reduction.assumed

    def unclipped(self, photo, given):
        return torch.ones_like(photo.x[:, :1])

    def size(self, y, given):
        return [
            self.factor * side + 2 * more for side, more in zip(y.shape[-2:], self.border(given))
        ]

    def operator(self, given, size, device):
        blur, border = super().operator(given, size, device), self.border(given)
        reduce = self.reduction.operator(
            given, [side - 2 * more for side, more in zip(size, border)], device
        )
        return lambda x: reduce(blur(x))


def kind_of(args):
    """The kind of measurement that a command line means."""
    if args.kernel is not None:
        return Deblurring(args) if args.scale is None else BlurredAndReduced(args)
    if args.blind is not None:
        return BlindDeblurring(args)
    if args.scale is not None:
        return SuperResolution(args)
    return Inpainting(args) if args.mask is not None or args.transparent else Denoising(args)


def beside(option, given, path, name):
    """The file that belongs to the picture `path`, called `name`: `given` itself or, in that folder, the one of the same path or name. Raises
    UserError where there is none but the picture itself."""
    if not os.path.isdir(given):
        if os.path.exists(given) and os.path.samefile(given, path):
            raise UserError(f"--{option} {given}: is the picture itself; name another file")
        return given
    for stem in dict.fromkeys((name, os.path.basename(name))):
        folder, stem = os.path.split(os.path.join(given, stem))
        files = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        found = [os.path.join(folder, file) for file in files if os.path.splitext(file)[0] == stem]
        found = [file for file in found if not os.path.samefile(file, path)]
        if found:
            return found[0]
    raise UserError(
        f"--{option} {given}: has no file called {os.path.basename(name)}, for {path}; put it there or name one file for all"
    )
