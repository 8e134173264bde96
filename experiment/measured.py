"""Pictures that were measured, with their masks or kernels, as a command line names them: Problems without a truth."""
import os

import numpy as np
import pywt
import torch
import torch.nn.functional as F
from skimage.restoration import estimate_sigma

from experiment.pictures import kernel_picture, picture
from experiment.problem import Problem, chosen, refuse_small
from guided_diffusion.blind import UnknownBlur
from guided_diffusion.kernels import correlating
from guided_diffusion.measurements import masking, reducing
from util.files import UserError
from util.images import is_grey, list_images, load_image, load_kernel, load_mask

LEAST_SIGMA = 1 / 255  # of an 8-bit file, in units of [-1, 1]: half a level
ENOUGH = 100  # blocks of pixels from whose median the noise is told
TO_SIGMA = 0.6744897501960817  # the median of |n|, n standard normal (Donoho & Johnstone 1994)


def sigma_of_observed(y, mask):
    """The noise's standard deviation, in y's units, from observed pixels alone; y: (1, 3, H, W), mask: (1, 1, H, W).

    The median size of what a wavelet's diagonal high pass (Daubechies 2, as skimage's estimate_sigma takes it; the shorter Haar
    where little is left) says of blocks that lack no pixel. None where there are too few of those, too.
    """
    for wavelet in ("db2", "haar"):
        taps = torch.tensor(pywt.Wavelet(wavelet).dec_hi)
        n = len(taps)
        whole = F.conv2d(mask, torch.ones(1, 1, n, n)) == n * n
        if whole.sum() >= ENOUGH:
            details = F.conv2d(y.transpose(0, 1), torch.outer(taps, taps)[None, None])
            return details.masked_select(whole).abs().median().item() / TO_SIGMA
    return None


class Denoising:
    """The picture itself, under noise; the other kinds of measurement say what differs.

    given(path, y): what the command line's files say of one picture, as a Problem's `drawn`; size(y, given): (H, W) of the picture
    that is restored; operator(given, size, device): A; border: see Problem; sigma(y, given): an estimate of the noise, or None.
    """

    estimated = "estimated"

    def __init__(self, args):
        pass

    def given(self, path, y):
        return {}

    def border(self, given):
        return 0, 0

    def size(self, y, given):
        rows, columns = self.border(given)
        return y.shape[-2] + 2 * rows, y.shape[-1] + 2 * columns

    def operator(self, given, size, device):
        return lambda x: x

    def sigma(self, y, given):
        return float(estimate_sigma(y[0].numpy(), channel_axis=0, average_sigmas=True))


def beside(option, given, path):
    """The file that belongs to the picture `path`: `given` itself or, in that folder, the one of the same name."""
    if not os.path.isdir(given):
        return given
    name = os.path.splitext(os.path.basename(path))[0]
    found = sorted(file for file in os.listdir(given) if os.path.splitext(file)[0] == name)
    if not found:
        raise UserError(f"--{option} {given}: has no file called {name}, for {path}; put it there or name one file for all")
    return os.path.join(given, found[0])


class Inpainting(Denoising):
    """Pixels are missing where a mask is dark."""

    estimated = "estimated from the observed pixels"

    def __init__(self, args):
        self.masks = args.mask

    def given(self, path, y):
        file = beside("mask", self.masks, path)
        mask = load_mask(file)
        if mask.shape[-2:] != y.shape[-2:]:
            sizes = [f"{x.shape[-1]} x {x.shape[-2]}" for x in (mask, y)]
            raise UserError(f"{file}: is {sizes[0]}, {path} is {sizes[1]}; make the mask of the picture's size")
        return {"mask": mask}

    def operator(self, given, size, device):
        return masking(given["mask"].to(device))

    def sigma(self, y, given):
        return sigma_of_observed(y, given["mask"])


class Deblurring(Denoising):
    """Blurred by a kernel. What lies beyond the border has been blurred into the picture and is restored along with it, half a kernel
    wide: nothing has to be assumed of it."""

    def __init__(self, args):
        self.kernels, self.flip = args.kernel, args.flip_kernel

    def given(self, path, y):
        file = beside("kernel", self.kernels, path)
        kernel = load_kernel(file, self.flip)
        (h, w), (height, width) = kernel.shape[-2:], y.shape[-2:]
        if h > height or w > width:
            raise UserError(f"{file}: this kernel, {w} x {h}, is larger than {path}, {width} x {height}; cut its dark border off")
        return {"kernel": kernel}

    def border(self, given):
        h, w = given["kernel"].shape[-2:]
        return h // 2, w // 2

    def operator(self, given, size, device):
        return correlating(given["kernel"].to(device), size)


class BlindDeblurring(Denoising):
    """Blurred by a kernel that nobody knows, of at most --blind pixels a side; the border as in `Deblurring`."""

    def __init__(self, args):
        self.largest, self.side = args.blind, (args.blind - 1) | 1  # odd

    def given(self, path, y):
        if self.side > min(y.shape[-2:]) // 2:
            raise UserError(f"--blind {self.largest}: is too large a kernel for {path}, {y.shape[-1]} x {y.shape[-2]}; half a side is the most")
        return {}

    def border(self, given):
        return self.side // 2, self.side // 2

    def operator(self, given, size, device):
        return UnknownBlur(self.side, size, device, mirror=False)


class SuperResolution(Denoising):
    """Bicubically reduced by a whole factor."""

    def __init__(self, args):
        self.factor = args.scale

    def size(self, y, given):
        return y.shape[-2] * self.factor, y.shape[-1] * self.factor

    def operator(self, given, size, device):
        return reducing(size, self.factor, device)


KINDS = {"mask": Inpainting, "kernel": Deblurring, "blind": BlindDeblurring, "scale": SuperResolution}


def measured_files(given):
    """The paths of --measured: files, and the images of folders."""
    return [path for one in given for path in (list_images(one) if os.path.isdir(one) else [one])]


class Measured:
    """The pictures of --measured; what a run asks of them stands at `experiment.problem.Simulated`. Raises UserError for a file that
    cannot be what the command line says. `report` has a line a picture."""

    def __init__(self, args, prior_size):
        if args.sigma == 0:
            raise UserError("--sigma 0: no file is without noise, of 8 bits it is 1/255 at least; leave the option out for an estimate")
        self.kind = next((kind for option, kind in KINDS.items() if getattr(args, option) is not None), Denoising)(args)
        self.lasting = {"measured": True, "scale": args.scale, "blind": args.blind, "sigma": args.sigma, "stop": args.stop}
        paths = chosen(args, measured_files(args.measured), None)
        self.names, self.y, self.given, self.keys, self.report = list(paths), {}, {}, {}, []
        for name, path in paths.items():
            y = load_image(path)
            self.given[name] = given = self.kind.given(path, y)
            complete = "mask" in given and bool(given["mask"].all())
            size = self.kind.size(y, given)
            refuse_small(path, size, prior_size)
            sigma, source = (args.sigma, "--sigma") if args.sigma else self._estimate(path, y, given, complete)
            self.y[name] = y * given.get("mask", 1)
            self.keys[name] = (size, tuple(y.shape), sigma, is_grey(path), complete)
            about = "its mask has no hole: nothing to do, copied" if complete else f"sigma {sigma:.4f} ({source})"
            self.report.append(f"{name}: {y.shape[-1]} x {y.shape[-2]}, {args.task}, {about}")

    def _estimate(self, path, y, given, complete):
        sigma = 0.0 if complete else self.kind.sigma(y, given)
        if sigma is None:
            raise UserError(f"{path}: too few neighbouring pixels are observed to estimate the noise; say it with --sigma")
        if sigma < LEAST_SIGMA:
            return LEAST_SIGMA, "an 8-bit file's least"
        return sigma, self.kind.estimated

    def key(self, name):
        return self.keys[name]

    def problem(self, names, rng, device):
        """rng is not drawn from: the measurement is there."""
        size, _, sigma, grey, complete = self.keys[names[0]]
        drawn = {key: torch.cat([self.given[name][key] for name in names]).to(device) for key in self.given[names[0]]}
        y = torch.cat([self.y[name] for name in names]).to(device)
        border = self.kind.border(drawn)
        return Problem(names, self.kind.operator(drawn, size, device), y, sigma, drawn, size, None, border, grey, complete)

    def refuse_others(self, directory):
        """Raise UserError where a run's folder has begun one of the pictures with another measurement or kernel."""
        for name, y in self.y.items():
            folder = os.path.dirname(picture(directory, name, "measurement"))
            path = os.path.join(folder, "measurement.npy")
            if os.path.exists(path) and not np.array_equal(np.load(path), y[0].numpy()):
                raise UserError(f"{path}: is not the measurement that {name} is now; rename the new one or choose another --name NAME")
            path = os.path.join(folder, "kernel.png")
            if os.path.exists(path) and "kernel" in self.given[name]:
                then, now = load_image(path)[0, :1], kernel_picture(self.given[name]["kernel"][0])
                if then.shape != now.shape or (then - now).abs().max() > 2 / 255:
                    raise UserError(f"{path}: is not the kernel that {name} has now; choose another --name NAME")
