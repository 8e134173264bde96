"""Photographs given on the command line, as Batches without ground truth."""

import hashlib
import math
import os
from dataclasses import asdict
from functools import partial

import numpy as np
import torch

from experiment.folder import Folder
from experiment.problem import Batch, Problem, Source, refuse_small, select, side_by_side
from guided_diffusion.measurements import masking
from photographs.damages import Inpainting, damage_of
from photographs.kernels import family_numbers, load_kernel
from photographs.masks import area, around_holes
from photographs.noise import estimate_noise
from photographs.pairing import file_for, without_masks
from photographs.reading import from_linear, read_photograph
from photographs.spectrum import coloured_noise, read_frame
from report.pictures import kernel_picture
from report.records import picture
from solvers.defects import seems_defective
from util.files import PictureError, UserError
from util.images import find_images, listed, load_image, say_unread

LEAST_SIGMA = 1 / 255  # in units of [-1, 1]: half a step of an 8-bit file
LARGEST_SIGMA = 0.5  # a larger estimate is not noise
STEP = 1.05  # factor between distinct estimates of sigma, whose error is larger
LITTLE = 0.5  # share of a photograph around its holes up to which only that window is restored
MISMATCH = 2.0  # times sigma: a larger misfit means that the damage is another one
NOT_WHITE = {
    "coloured": "noise seems spatially correlated (camera, JPEG or resized image), but cannot be "
    "distinguished from texture; it is removed as white noise, weakly; set --sigma, or measure the "
    "noise with --noise",
    "dithered": "neighbouring px differ by more than noise, as in dithered or black and white "
    "images; downscale it by 4 first or set --sigma",
    "hidden": "no area is flat enough to separate noise from texture; sigma is estimated for white "
    "noise, set --sigma for a JPEG or a resized image",
}
IMPULSES = "seems to have hot or dead px, which --defects would find and fill"
ESTIMATED = "white", "coloured"  # kinds of noise whose spectrum or growth is estimated
# Settings that must not change when a run is resumed: these, and those that were given.
LASTING = ("scale", "blind")
LASTING_GIVEN = (
    "filter",
    "invert_mask",
    "grow",
    "centre_kernel",
    "linear",
    "keep_observed",
    "jpeg",
    "defects",
    "widest",
    "threshold",
    "infrared",
    "noise",
)


def photograph_files(options):
    """(paths, the folder that names are relative to or None, {folder: its other files}) of the
    photographs on the command line: files, and the images in folders except masks among them."""
    paths, unread = [], {}
    for one in options.photographs:
        if os.path.isdir(one):
            names, unread[one] = find_images(one, "restore.py")
            paths += [os.path.join(one, name) for name in names]
        else:
            paths.append(one)
    paths = without_masks(paths) if options.mask else paths
    if len(options.photographs) == 1 and os.path.isdir(options.photographs[0]):
        return paths, options.photographs[0], unread
    names = {os.path.splitext(os.path.basename(path))[0].lower() for path in paths}
    if len(names) == len(paths):
        return paths, None, unread
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    return paths, folder, unread


def digest(y):
    return hashlib.blake2b(np.ascontiguousarray(y).tobytes(), digest_size=16).digest()


def postprocess_of(y, mask, picture, options):
    """The function `postprocess` of a Batch: crops x to the picture, keeps measured px if asked
    for, and converts linear light to sRGB. picture: a function of x."""

    def postprocess(x):
        x = picture(x)
        if options.keep_observed and mask is not None:
            x = torch.where(mask > 0, y, x)
        return from_linear(x) if options.linear else x

    return postprocess


class Photographs:
    """Photographs given on the command line, as Batches without ground truth.

    Implements the interface of `experiment.problem.Simulated`. Files are read once to validate them
    and print a summary, and again when they are restored, so that memory does not grow with their
    number. options: a `photographs.arguments.Options`; args: the run's Arguments.

    Raises UserError for a file that contradicts the command line, and if no photograph is left;
    single unreadable ones are listed in `failed`.
    """

    has_truth = False

    def __init__(self, options, args, prior_size):
        if args.sigma == 0:
            raise UserError(
                "--sigma 0: every file has noise, 1/255 at least with 8 bits; leave the option out "
                "for an estimate"
            )
        self.set_options(options, args)
        self.damage, self.margin = damage_of(options, args), prior_size // 2
        paths, folder, unread = photograph_files(options)
        self.paths = select(args, paths, folder, " ".join(options.photographs))
        for one, others in unread.items():
            say_unread(one, others)
        self.keys, self.digests, self.noises = {}, {}, {}
        self.failed, self.report, self.warnings = {}, [], []
        self.frame = options.noise and read_frame(options.noise, options.linear)
        for name, path in self.paths.items():
            try:
                photo = read_photograph(path, options.linear, options.jpeg)
                if self.task == "denoising" and not photo.visible.all():
                    raise PictureError(
                        f"{path}: has transparent areas, which others of these files lack; restore "
                        "it alone to fill them"
                    )
                size = [side * (options.scale or 1) for side in photo.x.shape[-2:]]
                refuse_small(path, size, prior_size)
                self._inspect(name, path, photo)
            except PictureError as error:
                self.failed[name] = str(error)
        if not self.keys:
            raise PictureError(next(iter(self.failed.values())))
        self.names = list(self.keys)

    def set_options(self, options, args):
        self.known, self.sigma, self.task = options, args.sigma, args.task
        self.options = asdict(options)
        lasting = {"sigma": args.sigma, "stop": args.stop}
        lasting.update({key: self.options[key] for key in LASTING})
        given = {key: self.options[key] for key in LASTING_GIVEN if self.options[key]}
        self.lasting = {**lasting, **given}

    def _measurement(self, name, photo):
        """(y, the operator's state, remarks, warnings) of a photograph."""
        state, remarks, warnings = self.damage.state_of(self.paths[name], name, photo)
        if self.damage.knows_mask and "mask" not in state:
            visible, unclipped = photo.visible, self.damage.unclipped(photo, state)
            reasons = [(visible, "transparent"), (unclipped, "lit by lamps brighter than white")]
            remarks += [
                f"{1 - mask.mean().item():.1%} {why} and left out of the measurement"
                for mask, why in reasons
                if not mask.all()
            ]
            state["mask"] = visible * unclipped
        if "mask" in state and not state["mask"].any():
            raise PictureError(
                f"{self.paths[name]}: nothing is left to restore it from; it is transparent or "
                "clipped where its mask is white"
            )
        return self.damage.measured(photo, state), state, remarks, warnings

    def _windows(self, state):
        """The Windows that are restored: the surroundings of the holes, if they are small or the
        rest must not change; none: everything."""
        if not isinstance(self.damage, Inpainting) or state["mask"].all():
            return ()
        windows = around_holes(state["mask"], self.margin)
        is_little = area(windows) <= LITTLE * state["mask"].numel()
        return windows if is_little or self.known.keep_observed else ()

    def _inspect(self, name, path, photo):
        """Set the key and digest of a photograph and add its line to the report."""
        y, state, remarks, warnings = self._measurement(name, photo)
        mask, whole = state.get("mask", torch.ones_like(photo.x[:, :1])), photo.x.shape[-2:]
        is_inpainting = isinstance(self.damage, Inpainting)
        complete = self.damage.is_complete(state)
        sigma, source, kind = self._estimate_sigma(path, y, mask, complete)
        noise, remark = self._coloured(y, mask, photo.grey, kind)
        if noise:
            sigma, source, kind = noise.sigma, remark, None
        self.noises[name] = noise
        warnings += [f"{path}: {NOT_WHITE[kind]}"] if kind in NOT_WHITE else []
        warnings += [f"{path}: {one}" for one in photo.warnings]
        windows = self._windows(state)
        y = side_by_side(y, windows)
        if windows and y.shape[-2:] != whole:
            rest = "left as it is" if self.known.keep_observed else "denoised once by the network"
            sizes = listed([f"{one.width} x {y.shape[-2]}" for one in windows])
            remarks.append(f"{sizes} around the holes restored, the rest {rest}")
        size = tuple(self.damage.size(y, state))
        widths = tuple(one.width for one in windows)
        shared = self.damage.shared(state)
        of_noise = name if noise and not self.frame else None  # a spectrum of its own
        common = size, tuple(y.shape), sigma, photo.grey, complete, widths, of_noise
        self.keys[name] = (*common, *shared)
        self.digests[name] = digest(y[0].numpy())
        form = "grey" if photo.grey else "RGB"
        form += " with opacity" if photo.alpha is not None else ""
        items = [
            f"{whole[1]} x {whole[0]}",
            self.task,
            self.damage.copied if complete else f"sigma {sigma:.4f} ({source})",
            f"{1 - mask.mean().item():.1%} missing" if is_inpainting and not mask.all() else None,
            *remarks,
            self.damage.assumed,
            f"{form}, {photo.bits} bits",
            *photo.remarks,
            IMPULSES if self.task == "denoising" and seems_defective(photo.x) else None,
        ]
        self.report.append(f"{name}: {', '.join(filter(None, items))}")
        self.warnings += [one for one in warnings if one not in self.warnings]

    def _estimate_sigma(self, path, y, mask, complete):
        """(sigma, its source, the kind of noise). Estimates are rounded to powers of STEP, so that
        photographs of one camera share batches."""
        if self.sigma:
            return self.sigma, "--sigma", None
        if self.damage.noise:
            return *self.damage.noise, None
        noise = None if complete else estimate_noise(y, mask)
        if noise is None and not complete:
            raise PictureError(
                f"{path}: too few neighbouring px are observed to estimate the noise; set --sigma"
            )
        error = self.damage.operator_error
        if complete or max(noise.sigma, error) < LEAST_SIGMA:
            return LEAST_SIGMA, "minimum of an 8-bit file", noise and noise.kind
        sigma = min(math.hypot(noise.sigma, error), LARGEST_SIGMA)
        kind = noise.kind if noise.sigma <= LARGEST_SIGMA else "dithered"
        source = "estimated" if mask.all() else "estimated from the observed px"
        source += ", with the kernel's error" if error else ""
        return STEP ** round(math.log(sigma, STEP)), source, kind

    def _coloured(self, y, mask, grey, kind):
        """(the ColouredNoise of y or None for white noise, its source).

        kind: that of `estimate_noise`, or None where nothing is to be estimated.
        """
        if self.frame:
            return self.frame.noise_of(grey, self.damage.is_pointwise), "measured by --noise"
        if kind not in ESTIMATED or not self.damage.knows_mask or self.damage.operator_error:
            return None, None
        x = y[:, :1] if grey else y
        found = coloured_noise(x, mask, kind, self.damage.is_pointwise)
        if not found:
            return None, None
        remarks = ["estimated"] + ["correlated"] * found.is_coloured
        remarks += ["varies with brightness"] if found.noise.growth else []
        return found.noise, ", ".join(remarks)

    def key(self, name):
        return self.keys[name]

    def folder(self, args, name):
        return Folder(os.path.join(args.logdir, name), "run")

    def batch(self, names, rng, device):
        """rng is not used: the measurements exist."""
        size, _, sigma, grey, complete, widths, *_ = self.keys[names[0]]
        noise = self.noises[names[0]]
        known = self.known.linear, self.known.jpeg
        photos = [read_photograph(self.paths[name], *known) for name in names]
        ys, states, *_ = zip(
            *(self._measurement(name, photo) for name, photo in zip(names, photos))
        )
        windows = [self._windows(state) for state in states]
        y = torch.cat([side_by_side(y, some) for y, some in zip(ys, windows)]).to(device)
        state = {key: torch.cat([one[key] for one in states]) for key in states[0] if key != "mask"}
        if "mask" in states[0]:
            masks = [side_by_side(one["mask"], some) for one, some in zip(states, windows)]
            state["mask"] = torch.cat(masks)
        state = {key: value.to(device) for key, value in state.items()}
        operator = self.damage.operator(state, size, device)
        picture, mask = partial(self.damage.picture, state=state), state.get("mask")
        if mask is not None and mask.all():
            del state["mask"]
            mask = None
        if mask is not None:
            operator = masked(operator, mask)
        return Batch(
            Problem(operator, y, sigma, size, complete, noise),
            names,
            state,
            grey=grey,
            postprocess=postprocess_of(y, mask, picture, self.known),
            sources=[self._source(photo, some) for photo, some in zip(photos, windows)],
            keep=self.known.keep_observed,
            widths=widths,
        )

    def _source(self, photo, windows):
        """The Source of a Photograph of which `windows` are restored."""
        save = {"bits": photo.bits, "alpha": photo.alpha, "tags": photo.tags}
        before = from_linear(photo.x[0]) if self.known.linear else photo.x[0]
        return Source(save, before[:1] if photo.grey else before, photo.x[0], windows)

    def refuse_others(self, folder):
        """Raise UserError where the run's folder holds another measurement or kernel under the name
        of a photograph."""
        for name in self.names:
            path = picture(folder.files, name, "measurement").replace(".png", ".npy")
            if not os.path.exists(path):
                continue
            if digest(np.load(path)) != self.digests[name]:
                raise UserError(
                    f"{path}: is not the measurement that {name} is now; rename the new one or "
                    "choose another --name NAME"
                )
            path = picture(folder.files, name, "kernel")
            given = self.known.kernel
            if os.path.exists(path) and given is not None and not family_numbers(given):
                self._refuse_kernel(path, name)

    def _refuse_kernel(self, path, name):
        file = file_for("kernel", self.known.kernel, self.paths[name], name)
        kernel = load_kernel(file, self.known.flip_kernel, self.known.centre_kernel)[0]
        then, now = load_image(path)[0, :1], kernel_picture(kernel[0])
        if then.shape != now.shape or (then - now).abs().max() > 2 / 255:
            raise UserError(
                f"{path}: is not the kernel that {name} has now; choose another --name NAME"
            )

    def mismatches(self, records):
        """{name: warning} for photographs whose result does not fit the measurement."""
        lines = {}
        for name, record in records.items():
            if "failed" in record:
                continue
            misfit = record["misfit"][record["chosen"]["iterate"]]
            if misfit > MISMATCH * record["sigma"]:
                lines[name] = (
                    f"the residual, {misfit:.3f}, is {misfit / record['sigma']:.1f} times the "
                    "noise: is this how it was damaged? (check --kernel and --flip-kernel, "
                    "--filter, --mask, --linear)"
                )
        return lines


def masked(operator, mask):
    """The operator with its measurement multiplied by the mask."""
    apply_mask = masking(mask)
    return lambda x: apply_mask(operator(x))
