"""Pictures that were measured, with their masks or kernels, as a command line names them: Problems without a truth."""
import hashlib
import math
import os

import numpy as np
import torch

from experiment.pictures import kernel_picture, picture
from experiment.problem import Problem, chosen, refuse_small
from guided_diffusion.blind import UnknownBlur
from guided_diffusion.kernels import FILTERS, correlating, lit_beyond_white
from guided_diffusion.measurements import masking, reducing
from util.files import UserError
from util.images import find_images, load_image, say_unread
from util.kernel_files import load_kernel
from util.masks import HALF_GONE, around_holes, load_mask, mask_of, without_masks
from util.noise import estimate_noise
from util.photographs import read_photograph

LEAST_SIGMA = 1 / 255  # of an 8-bit file, in units of [-1, 1]: half a level
STEP = 1.1  # between two estimates that count as different; they err by more
LARGEST_SIGMA = 0.5  # beyond it what an estimate finds is no noise
CLIPPED = 1 - 1 / 255  # what is brighter, in all channels, may have been brighter than white
NOT_WHITE = {
    "coloured": "its noise is not white (a camera's, a JPEG's, a resized picture's) and is not removed well; reduce the picture by two first, or say a "
    "sigma that suits you with --sigma",
    "dithered": "its pixels differ by more than noise, as those of dithered or black and white pictures do; reduce it by four first, or say --sigma",
    "hidden": "no place in it is flat enough to tell noise from texture; its sigma holds for white noise, say --sigma for a JPEG or a resized picture",
}
LASTING = ("scale", "blind", "sigma", "stop")  # settings that have to be the same when a run goes on; and, where they are given:
LASTING_GIVEN = ("filter", "invert_mask", "grow", "centre_kernel", "linear", "keep_observed")


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
            return {"mask": visible}, ["what is transparent is missing"] if not visible.all() else [], []
        file = mask_of(self.masks, path, name)
        mask, said = load_mask(file, self.invert, self.grow)
        if mask.shape[-2:] != photo.x.shape[-2:]:
            sizes = [f"{x.shape[-1]} x {x.shape[-2]}" for x in (mask, photo.x)]
            raise UserError(f"{file}: is {sizes[0]}, {path} is {sizes[1]}; make the mask of the picture's size")
        share = 1 - mask.mean().item()
        told = [f"{os.path.basename(file)}: {said}"] if said else []
        told += [] if visible.all() else ["what is transparent is missing, too"]
        hint = [] if share <= HALF_GONE or self.invert else [f"{file}: {share:.0%} of {path} is missing; if this mask is white where the hole is, give "
                                                             "--invert-mask"]
        return {"mask": mask * visible}, told, hint


class Deblurring(Denoising):
    """Blurred by a kernel. What lies beyond the border has been blurred into the picture and is restored along with it, half a kernel
    wide: nothing has to be assumed of it."""

    factor = 1

    def __init__(self, args):
        self.kernels, self.flip, self.centre = args.kernel, args.flip_kernel, args.centre_kernel

    def given(self, path, name, photo):
        file = beside("kernel", self.kernels, path, name)
        kernel, warnings = load_kernel(file, self.flip, self.centre)
        (h, w), (height, width) = kernel.shape[-2:], [side * self.factor for side in photo.x.shape[-2:]]
        if h > height or w > width:
            raise UserError(f"{file}: this kernel, {w} x {h}, is larger than {path}, {width} x {height}; cut its dark border off")
        return {"kernel": kernel}, [f"kernel {w} x {h}"], [f"{file}: {one}" for one in warnings]

    def unclipped(self, photo, given):
        """A lamp brighter than white shines into what is around it more than any picture in [-1, 1] can say."""
        clipped = (photo.x > CLIPPED).all(1, keepdim=True).float()
        return 1 - lit_beyond_white(photo.x, given["kernel"], clipped) if clipped.any() else 1 - clipped

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
            raise UserError(f"--blind {self.largest}: is too large a kernel for {path}, {width} x {height}; half a side is the most")
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
        return [self.factor * side + 2 * more for side, more in zip(y.shape[-2:], self.border(given))]

    def operator(self, given, size, device):
        blur, border = super().operator(given, size, device), self.border(given)
        reduce = self.reduction.operator(given, [side - 2 * more for side, more in zip(size, border)], device)
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
    """The file that belongs to the picture `path`, called `name`: `given` itself or, in that folder, the one of the same path or name."""
    if not os.path.isdir(given):
        return given
    for stem in dict.fromkeys((name, os.path.basename(name))):
        folder, stem = os.path.split(os.path.join(given, stem))
        files = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        found = [file for file in files if os.path.splitext(file)[0] == stem]
        if found:
            return os.path.join(folder, found[0])
    raise UserError(f"--{option} {given}: has no file called {os.path.basename(name)}, for {path}; put it there or name one file for all")


def measured_files(args):
    """(paths, what the names are relative to or None, {folder: what else is in it}) of --measured: files, and the images of folders, without the
    masks that lie beside them."""
    paths, unread = [], {}
    for one in args.measured:
        if os.path.isdir(one):
            found, unread[one] = find_images(one, "--measured")
            paths += [os.path.join(one, name) for name in found]
        else:
            paths.append(one)
    paths = without_masks(paths) if args.mask else paths
    if len(args.measured) == 1 and os.path.isdir(args.measured[0]):
        return paths, args.measured[0], unread
    own_names = {os.path.splitext(os.path.basename(path))[0].lower() for path in paths}
    if len(own_names) == len(paths):
        return paths, None, unread
    return paths, os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]), unread


def digest(y):
    return hashlib.blake2b(np.ascontiguousarray(y).tobytes(), digest_size=16).digest()


class Measured:
    """The pictures of --measured; what a run asks of them stands at `experiment.problem.Simulated`. Each is read at the beginning, to tell what
    will be done with it, and again when its turn comes: none is kept. `failed`: {name: why} of those that cannot be restored while others
    can; `report` has a line a picture, `warnings` what is worth a warning. Raises UserError for a file that cannot be what the command line
    says, and where no picture is left."""

    def __init__(self, args, prior_size):
        if args.sigma == 0:
            raise UserError("--sigma 0: no file is without noise, of 8 bits it is 1/255 at least; leave the option out for an estimate")
        self.args, self.kind, self.margin = args, kind_of(args), prior_size // 2
        self.lasting = {"measured": True, **{key: getattr(args, key) for key in LASTING}}
        self.lasting.update({key: getattr(args, key) for key in LASTING_GIVEN if getattr(args, key)})
        paths, folder, unread = measured_files(args)
        self.paths = chosen(args, paths, folder)
        for one, others in unread.items():
            say_unread(one, others)
        self.keys, self.digests, self.failed, self.report, self.warnings = {}, {}, {}, [], []
        for name, path in self.paths.items():
            try:
                photo = read_photograph(path, args.linear)
                refuse_small(path, [side * (args.scale or 1) for side in photo.x.shape[-2:]], prior_size)
            except UserError as error:
                self.failed[name] = str(error)
                continue
            self._look_at(name, path, photo)
        if not self.keys:
            raise UserError(next(iter(self.failed.values())))
        self.names = list(self.keys)

    def _measurement(self, name, photo):
        """(y, what the kind is given of it, what is told of that, warnings)."""
        given, told, warnings = self.kind.given(self.paths[name], name, photo)
        if self.kind.knows_mask and "mask" not in given:
            visible, unclipped = photo.visible, self.kind.unclipped(photo, given)
            parts = [(visible, "transparent"), (unclipped, "lit by lamps brighter than white")]
            told += [f"{1 - part.mean().item():.1%} {why} and left out of the measurement" for part, why in parts if not part.all()]
            given["mask"] = visible * unclipped
        if "mask" in given and not given["mask"].any():
            raise UserError(f"{self.paths[name]}: nothing of it is left to restore it from; it is transparent or clipped where its mask is white")
        return photo.x * given.get("mask", 1), given, told, warnings

    def _window(self, given):
        """(rows, columns) of the picture that are worked through: where the rest stays as it is, what lies around the holes."""
        if not self.args.keep_observed or given["mask"].all():
            return slice(None), slice(None)
        return around_holes(given["mask"], self.margin)

    def _look_at(self, name, path, photo):
        y, given, told, warnings = self._measurement(name, photo)
        mask, whole = given.get("mask", torch.ones_like(y[:, :1])), y.shape[-2:]
        complete = isinstance(self.kind, Inpainting) and self.args.mask is not None and bool(mask.all())
        sigma, source, kind = self._sigma(path, y, mask, complete)
        warnings += [f"{path}: {NOT_WHITE[kind]}"] if kind in NOT_WHITE else []
        y, share = y[(..., *self._window(given))], 1 - mask.mean().item()
        told += [f"{y.shape[-1]} x {y.shape[-2]} around the holes worked through"] if y.shape[-2:] != whole else []
        self.keys[name] = (tuple(self.kind.size(y, given)), tuple(y.shape), sigma, photo.grey, complete)
        self.digests[name] = digest(y[0].numpy())
        about = "its mask has no hole: nothing to do, copied" if complete else f"sigma {sigma:.4f} ({source})"
        missing = [f"{share:.1%} missing"] if isinstance(self.kind, Inpainting) and not mask.all() else []
        form = f"{'grey' if photo.grey else 'RGB'}{' with opacity' if photo.alpha is not None else ''}, {photo.bits} bits"
        assumed = [self.kind.assumed] if self.kind.assumed else []
        parts = [f"{whole[1]} x {whole[0]}", self.args.task, about, *missing, *told, *assumed, form, *photo.remarks]
        self.report.append(f"{name}: {', '.join(parts)}")
        self.warnings += [one for one in warnings if one not in self.warnings]

    def _sigma(self, path, y, mask, complete):
        """(the noise's standard deviation, an estimate in steps of STEP, so that pictures of one camera share batches; where it is from; of what
        kind)."""
        if self.args.sigma:
            return self.args.sigma, "--sigma", None
        noise = None if complete else estimate_noise(y, mask)
        if noise is None and not complete:
            raise UserError(f"{path}: too few neighbouring pixels are observed to estimate the noise; say it with --sigma")
        if complete or noise.sigma < LEAST_SIGMA:
            return LEAST_SIGMA, "an 8-bit file's least", noise and noise.kind
        sigma = min(noise.sigma, LARGEST_SIGMA)
        kind = noise.kind if sigma == noise.sigma else "dithered"
        return STEP ** round(math.log(sigma, STEP)), "estimated" if mask.all() else "estimated from the observed pixels", kind

    def key(self, name):
        return self.keys[name]

    def problem(self, names, rng, device):
        """rng is not drawn from: the measurement is there."""
        size, _, sigma, grey, complete = self.keys[names[0]]
        photos = [read_photograph(self.paths[name], self.args.linear) for name in names]
        ys, given, *_ = zip(*(self._measurement(name, photo) for name, photo in zip(names, photos)))
        windows = [self._window(one) for one in given]
        ys = [y[(..., *window)] for y, window in zip(ys, windows)]
        cut = lambda key, value, window: value[(..., *window)] if key == "mask" else value
        drawn = {key: torch.cat([cut(key, one[key], window) for one, window in zip(given, windows)]).to(device) for key in given[0]}
        A = self.kind.operator(drawn, size, device)
        if "mask" in drawn:
            seen = masking(drawn["mask"])
            if drawn["mask"].all():
                del drawn["mask"]
        brought = [{"bits": photo.bits, "alpha": photo.alpha, "tags": photo.tags, "whole": photo.x[0], "window": window}
                   for photo, window in zip(photos, windows)]
        operator = (lambda x: seen(A(x))) if "mask" in drawn else A
        return Problem(names, operator, torch.cat(ys).to(device), sigma, drawn, size, None, self.kind.border(drawn), grey, complete,
                       brought=brought, linear=self.args.linear, keep=self.args.keep_observed)

    def refuse_others(self, directory):
        """Raise UserError where a run's folder has begun one of the pictures with another measurement or kernel."""
        for name in self.names:
            folder = os.path.dirname(picture(directory, name, "measurement"))
            path = os.path.join(folder, "measurement.npy")
            if not os.path.exists(path):
                continue
            if digest(np.load(path)) != self.digests[name]:
                raise UserError(f"{path}: is not the measurement that {name} is now; rename the new one or choose another --name NAME")
            path = os.path.join(folder, "kernel.png")
            if os.path.exists(path) and self.args.kernel is not None:
                kernel = load_kernel(beside("kernel", self.args.kernel, self.paths[name], name), self.args.flip_kernel, self.args.centre_kernel)[0]
                then, now = load_image(path)[0, :1], kernel_picture(kernel[0])
                if then.shape != now.shape or (then - now).abs().max() > 2 / 255:
                    raise UserError(f"{path}: is not the kernel that {name} has now; choose another --name NAME")
