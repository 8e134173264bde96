"""What a solver is given: a measurement, the operator that made it, and what else is known. Nobody behind this file needs to know
whether there is a truth."""

import os
from dataclasses import dataclass

import torch

from guided_diffusion.measurements import load_measurement, load_task
from photographs.reading import from_linear
from report.records import picture
from util.files import PictureError, UserError, say
from util.images import find_images, image_names, is_grey, load_image, say_unread

SMALLEST = 32  # pixels a side; AlexNet, which measures LPIPS, needs as many


@dataclass(frozen=True)
class Problem:
    """A batch of pictures to restore from y = operator(x) + noise.

    names: what they are called, B of them; operator: A, a differentiable function of (B, 3, H, W) in [-1, 1]; y: (B, …);
    sigma: the noise's standard deviation in units of [-1, 1]; drawn: what the operator has drawn for each picture, {"mask":
    (B, 1, H, W)}, {"kernel": (B, k, k)}, {"kernel_true": …} where the
    operator has to find it, or {}; size: (H, W); truth: (B, 3, H, W) in [-1, 1], or None where nobody knows it.

    border: rows above and below, columns left and right that a restored picture has beyond the one that was measured; grey: is it
    a picture of one channel, which stands in x and y three times? complete: is y the picture already? nearest: where the
    measurement cannot tell pictures apart, a function of x and truth, (3, H, W): the one of them that is nearest to truth, and which it is.
    informed: where `operator` has to find a part of itself and somebody knows it, the operator with that part.
    brought: of photographs, what their results' files take over, {"bits", "alpha", "tags"} of `util.images.save_image` each, and the
    photograph and where x lies in it, {"whole": (3, H', W'), "window": (rows, columns)}; linear: are x and y in linear light? keep: are
    measured pixels of the result those of y?
    """

    names: list
    operator: callable
    y: torch.Tensor
    sigma: float
    drawn: dict
    size: tuple
    truth: torch.Tensor | None
    border: tuple = (0, 0)
    grey: bool = False
    complete: bool = False
    nearest: callable = None
    informed: callable = None
    brought: list = None
    linear: bool = False
    keep: bool = False

    def shown(self, x):
        """What of restored pictures x (B, 3, H, W) is kept: the measured part, in sRGB, and of a grey one the channels' mean."""
        rows, columns = self.border
        x = x[..., rows : x.shape[-2] - rows, columns : x.shape[-1] - columns]
        x = (
            torch.where(self.drawn["mask"] > 0, self.y, x)
            if self.keep and "mask" in self.drawn
            else x
        )
        x = from_linear(x) if self.linear else x
        return x.mean(1, keepdim=True) if self.grey else x


def chosen(args, paths, folder):
    """{name: path} of those files that -n, -bn and -en choose, with a line where it is not all of them. folder: what the names are
    relative to. Raises UserError if there are none."""
    end = None if args.end_number == -1 else args.end_number
    found, paths = len(paths), paths[: args.number]
    names = image_names(paths, folder)[
        args.begin_number : end
    ]  # of two that are called alike, one may be in another slice
    if not names:
        said = f"-n {args.number} -bn {args.begin_number} -en {args.end_number}"
        raise UserError(
            f"{said} choose none of the images in {args.data or ' '.join(args.measured)}"
        )
    if len(names) < found:
        say(
            f"{len(names)} of {found} images ({'-n' if len(names) == args.number else '-n, -bn, -en'})"
        )
    return dict(zip(names, paths[args.begin_number : end]))


def refuse_small(path, size, prior_size):
    """Raise UserError for a picture of `size` (H, W) that is too small for the network and the metrics."""
    smallest = min(SMALLEST, prior_size)
    if min(size) < smallest:
        raise PictureError(
            f"{path}: {size[1]} x {size[0]} pixels are too few to restore, {smallest} x {smallest} are the least; enlarge it first"
        )


class Simulated:
    """Pictures whose truth is known, degraded as a task file says.

    What a run asks of its pictures, here and in `photographs.problems`: names; key(name): what those of one batch must share,
    first of all the size (H, W) that is restored; problem(names, rng, device); lasting: what has to be the same when the run
    goes on; failed: {name: why} of what could not be read; refuse_others(directory).
    """

    def __init__(self, args, prior_size):
        self.lasting = load_task(args.task_config)
        if args.sigma is not None and isinstance(self.lasting.get("measurement"), dict):
            noise = self.lasting["measurement"].get("noise")
            if isinstance(noise, dict) and noise.get("name") not in ("gaussian", "clean"):
                raise UserError(
                    f"--sigma {args.sigma}: is of Gaussian noise, {args.task_config} has {noise.get('name')}; leave the option out"
                )
            self.lasting["measurement"]["noise"] = {"name": "gaussian", "sigma": args.sigma}
        found, others = find_images(args.data)
        paths = chosen(args, [os.path.join(args.data, name) for name in found], args.data)
        say_unread(args.data, others)
        self.images = {
            name: load_image(path, prior_size if args.resize else None)
            for name, path in paths.items()
        }
        self.measurements, self.keys, self.failed = {}, {}, {}
        for name, path in paths.items():
            size = tuple(self.images[name].shape[-2:])
            refuse_small(path, size, prior_size)
            if size not in self.measurements:  # (operator, noise)
                self.measurements[size] = self._measurement(
                    path, args.task_config, size, prior_size
                )
            self.keys[name] = (size, is_grey(path))
        self.names = list(paths)

    def _measurement(self, path, task_config, size, prior_size):
        try:
            return load_measurement(self.lasting, task_config, size, prior_size)
        except UserError as error:
            if size == (prior_size, prior_size):
                raise
            raise UserError(f"{path}: {size[1]} x {size[0]}: {error}") from error

    def key(self, name):
        return self.keys[name]

    def problem(self, names, rng, device):
        size, grey = self.keys[names[0]]
        x = torch.cat([self.images[name] for name in names]).to(device)
        return simulate(names, x, *self.measurements[size], rng, grey)

    def refuse_others(self, directory):
        """Raise UserError where a run's folder has begun one of the pictures with another one."""
        for name, x in self.images.items():
            path = picture(directory, name, "origin")
            if os.path.exists(path) and not torch.equal(load_image(path), x):
                raise UserError(
                    f"{path}: is not the picture that {name} is now; rename the new one or choose another --name NAME"
                )


def simulate(names, x, operator, noise, rng, grey=False):
    """The Problem that an operator and a noise of `guided_diffusion.measurements` make of the pictures x, (B, 3, H, W). rng: the
    batch's BatchRandom, from which first the operator draws and then the noise (the published order). grey: are the three channels
    one and the same? Their noise is then one, too."""
    A, drawn = operator.draw(rng, x.device)
    # The pixel order of an image file, in which the published code keeps its images: the noise depends on it.
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        clean = A(x)
        y = noise(clean, rng)
        if grey and clean.shape[1:2] == (3,):  # an operator may leave no channels
            y = clean + (y - clean)[:, :1]
        y = y.contiguous()  # or that order would spread to whatever is computed from y
    unknowing = operator.unknowing(x.device)
    given = {
        "operator": unknowing or A,
        "informed": A if unknowing else None,
        "nearest": operator.nearest,
    }
    return Problem(
        names=names,
        y=y,
        sigma=noise.sigma,
        drawn=drawn,
        size=tuple(x.shape[-2:]),
        truth=x,
        grey=grey,
        **given,
    )
