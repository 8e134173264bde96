"""The images of a run: `Problem`, the input of a solver; `Batch`, a Problem with what the recorder
needs; `Simulated`, images with ground truth that the run degrades itself."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from experiment.folder import Folder
from guided_diffusion.coloured import ColouredNoise
from guided_diffusion.measurements import load_measurement, load_task
from report.records import picture
from util.files import PictureError, UserError, say
from util.images import find_images, image_names, is_grey, load_image, say_unread

SMALLEST = 32  # px a side: AlexNet, which computes LPIPS, needs as many


@dataclass(frozen=True)
class Problem:
    """Measurements y = operator(x) + noise of B images, as a solver is given them.

    operator: A, a differentiable function of x, (B, 3, H, W) in [-1, 1]; y: (B, …); sigma: the
    standard deviation of the noise in units of [-1, 1]; size: (H, W) of x; complete: whether y
    already is the image and nothing is left to restore; noise: None if it is white and the same
    everywhere.
    """

    operator: Callable
    y: torch.Tensor
    sigma: float
    size: tuple
    complete: bool = False
    noise: ColouredNoise | None = None


class Window(NamedTuple):
    """A part of a photograph that is restored, as slices of it; of its rows only those of `inner`
    are used."""

    rows: slice
    columns: slice
    inner: slice

    @property
    def width(self):
        return self.columns.stop - self.columns.start


def side_by_side(x, windows):
    """The windows of x, (…, H, W), all of one height, as one image; without windows x itself."""
    return torch.cat([x[..., w.rows, w.columns] for w in windows], -1) if windows else x


@dataclass(frozen=True)
class Source:
    """The file of a photograph.

    save: arguments of `util.images.save_image` for its result (bits, alpha, tags); before: as it
    was read, (3, H', W') or, grey, (1, H', W') in [-1, 1]; whole: its pixel values around the
    result, (3, H', W') in [-1, 1]; windows: the Windows of `whole` that are restored, none: all.
    """

    save: dict
    before: torch.Tensor
    whole: torch.Tensor
    windows: tuple = ()

    def pasted(self, whole, x):
        """(C, H', W') with x, (C, h, w), the windows side by side, in their positions."""
        whole, left = whole.clone(), 0
        for w in self.windows:
            top, height = w.inner.start - w.rows.start, w.inner.stop - w.inner.start
            piece = x[:, top : top + height, left : left + w.width]
            whole[:, w.inner, w.columns] = piece.to(whole)
            left += w.width
        return whole


@dataclass(frozen=True)
class Case:
    """One image of a Batch, as it is recorded; y: (…); truth: (3, H, W), (1, H, W) or None."""

    name: str
    y: torch.Tensor
    sigma: float
    operator_state: dict
    truth: torch.Tensor | None = None
    nearest: Callable | None = None
    source: Source | None = None


@dataclass(frozen=True)
class Batch:
    """A Problem and everything about its B images that no solver is given.

    names: B names; truth: (B, 3, H, W) in [-1, 1], None where it is unknown; operator_state: the
    randomness of the operator for each image, {"mask": (B, 1, H, W)}, {"kernel": (B, k, k)},
    {"kernel_true": (B, k, k)} for blind operators, or {}; grey: images of one channel, repeated
    three times in x and y; nearest: where the measurement cannot distinguish certain images,
    a function (x, truth), each (3, H, W), -> (the one of them closest to truth, which it is);
    known_operator: for a blind operator, the true one; postprocess: a function of x,
    (B, 3, H, W), -> what is saved of it, None: all; sources: B Source of photographs; keep:
    measured px are copied from the photograph; widths: of the windows that lie side by side in x
    and are independent images to the network, none: x is one image.
    """

    problem: Problem
    names: list
    operator_state: dict = field(default_factory=dict)
    truth: torch.Tensor | None = None
    grey: bool = False
    nearest: Callable | None = None
    known_operator: Callable | None = None
    postprocess: Callable | None = None
    sources: list | None = None
    keep: bool = False
    widths: tuple = ()

    def output(self, x):
        """The part of x, (B, 3, H, W), that is saved: (B, 3, h, w) in sRGB, grey (B, 1, h, w)."""
        x = self.postprocess(x) if self.postprocess else x
        return x.mean(1, keepdim=True) if self.grey else x

    def case(self, i):
        """Image i as a Case."""
        return Case(
            self.names[i],
            self.problem.y[i],
            self.problem.sigma,
            {key: value[i] for key, value in self.operator_state.items()},
            None if self.truth is None else self.output(self.truth)[i],
            self.nearest,
            self.sources[i] if self.sources else None,
        )


def select(args, paths, folder, where):
    """{name: path} of the files selected by -n, -bn and -en; prints a line unless it is all.

    folder: names are relative to it; where: the source, for errors. Raises UserError if none is
    selected.
    """
    end = None if args.end_number == -1 else args.end_number
    total, paths = len(paths), paths[: args.number]
    # Names are checked before slicing: of two equal ones, one may be in another slice.
    names = image_names(paths, folder)[args.begin_number : end]
    if not names:
        slices = f"-n {args.number} -bn {args.begin_number} -en {args.end_number}"
        raise UserError(f"{slices} choose none of the images in {where}")
    if len(names) < total:
        options = "-n" if len(names) == args.number else "-n, -bn, -en"
        say(f"{len(names)} of {total} images ({options})")
    return dict(zip(names, paths[args.begin_number : end]))


def refuse_small(path, size, prior_size):
    """Raise PictureError for an image of `size` (H, W), too small for the network or metrics."""
    smallest = min(SMALLEST, prior_size)
    if min(size) < smallest:
        raise PictureError(
            f"{path}: {size[1]} x {size[0]} px are too few to restore, "
            f"{smallest} x {smallest} are the least; enlarge it first"
        )


class Simulated:
    """Images with known ground truth, degraded as a task file specifies.

    The interface a run expects of its images, also implemented by
    `photographs.problems.Photographs`: names; key(name): images with equal keys can share a batch,
    its first entry is the (H, W) restored; batch(names, rng, device) -> Batch; folder(args, name)
    -> Folder; lasting: settings that must not change when a run is resumed; options: further ones
    for the summary; failed: {name: reason} of unreadable files; report, warnings: lines to print;
    has_truth; refuse_others(folder); mismatches(records) -> {name: warning}.
    """

    has_truth = True

    def __init__(self, args, prior_size):
        self.task = load_task(args.task_config)
        if args.sigma is not None and isinstance(self.task.get("measurement"), dict):
            noise = self.task["measurement"].get("noise")
            if isinstance(noise, dict) and noise.get("name") not in ("gaussian", "clean"):
                raise UserError(
                    f"--sigma {args.sigma}: sets Gaussian noise, but {args.task_config} has "
                    f"{noise.get('name')} noise; leave the option out"
                )
            self.task["measurement"]["noise"] = {"name": "gaussian", "sigma": args.sigma}
        self.lasting = {"data": args.data, "resize": args.resize, **self.task}
        self.options, self.report, self.warnings, self.failed = {}, [], [], {}
        files, others = find_images(args.data)
        paths = [os.path.join(args.data, name) for name in files]
        paths = select(args, paths, args.data, args.data)
        say_unread(args.data, others)
        self.side = prior_size if args.resize else None
        self.paths, self.names = paths, list(paths)
        self.measurements, self.keys = {}, {}
        for name, path in paths.items():  # read here for errors, again in `batch`: no run holds all
            size = tuple(self._image(name).shape[-2:])
            refuse_small(path, size, prior_size)
            if size not in self.measurements:  # (operator, noise)
                self.measurements[size] = self._measurement(
                    path, args.task_config, size, prior_size
                )
            self.keys[name] = (size, is_grey(path))

    def _image(self, name):
        return load_image(self.paths[name], self.side)

    def _measurement(self, path, task_config, size, prior_size):
        try:
            return load_measurement(self.task, task_config, size, prior_size)
        except UserError as error:
            if size == (prior_size, prior_size):
                raise
            raise UserError(f"{path}: {size[1]} x {size[0]}: {error}") from error

    def key(self, name):
        return self.keys[name]

    def batch(self, names, rng, device):
        size, grey = self.keys[names[0]]
        x = torch.cat([self._image(name) for name in names]).to(device)
        return simulate(names, x, *self.measurements[size], rng, grey)

    def folder(self, args, name):
        return Folder(os.path.join(args.logdir, args.dataset, args.task, name))

    def refuse_others(self, folder):
        """Raise UserError where the run's folder holds another image under the same name."""
        for name in self.names:
            path = picture(folder.files, name, "origin")
            if os.path.exists(path) and not torch.equal(load_image(path), self._image(name)):
                raise UserError(
                    f"{path}: is not the image that {name} is now; rename the new one or choose "
                    "another --name NAME"
                )

    def mismatches(self, records):
        return {}


def simulate(names, x, operator, noise, rng, grey=False):
    """Measure images x, (B, 3, H, W) in [-1, 1] -> Batch.

    operator, noise: as loaded by `guided_diffusion.measurements`; rng: the batch's BatchRandom,
    used first by the operator and then by the noise, the published order; grey: the channels of x
    are equal, and those of its noise have to be.
    """
    A, operator_state = operator.draw(rng, x.device)
    # The memory order of an image file, as in the published code, on which the noise depends.
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        clean = A(x)
        y = noise(clean, rng)
        if grey and clean.shape[1:2] == (3,):  # an operator may leave no channels
            y = clean + (y - clean)[:, :1]
        y = y.contiguous()  # or that order would spread to everything computed from y
    blind = operator.blind_operator(x.device)
    problem = Problem(blind or A, y, noise.sigma, tuple(x.shape[-2:]))
    known = A if blind else None
    return Batch(problem, names, operator_state, x, grey, operator.nearest, known)
