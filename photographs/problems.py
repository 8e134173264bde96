"""Pictures that were measured, as a command line names them: Problems without a truth. What was measured of them stands in `kinds`."""

import hashlib
import math
import os

import numpy as np
import torch

from experiment.problem import Problem, chosen, refuse_small
from guided_diffusion.measurements import masking
from photographs.damages import Inpainting, beside, kind_of
from photographs.kernels import load_kernel
from photographs.masks import around_holes, without_masks
from photographs.noise import estimate_noise
from photographs.reading import read_photograph
from report.pictures import kernel_picture
from report.records import picture
from util.files import PictureError, UserError
from util.images import find_images, load_image, say_unread

LEAST_SIGMA = 1 / 255  # of an 8-bit file, in units of [-1, 1]: half a level
STEP = 1.05  # between two estimates that count as different; they err by more
LITTLE = 0.5  # of a picture, at most, around its holes: the rest is then denoised by one evaluation
LARGEST_SIGMA = 0.5  # beyond it what an estimate finds is no noise
NOT_WHITE = {
    "coloured": "its noise is not white (a camera's, a JPEG's, a resized picture's) and is not removed well; reduce the picture by two first, or "
    "say a sigma that suits you with --sigma",
    "dithered": "its pixels differ by more than noise, as in dithered or black and white pictures; reduce it by four first, or say --sigma",
    "hidden": "no place in it is flat enough to tell noise from texture; its sigma holds for white noise, say --sigma for a JPEG or a resized one",
}
LASTING = (
    "scale",
    "blind",
    "sigma",
    "stop",
)  # settings that have to be the same when a run goes on; and, where they are given:
LASTING_GIVEN = ("filter", "invert_mask", "grow", "centre_kernel", "linear", "keep_observed")


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
    return (
        paths,
        os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]),
        unread,
    )


def digest(y):
    return hashlib.blake2b(np.ascontiguousarray(y).tobytes(), digest_size=16).digest()


class Measured:
    """The pictures of --measured; what a run asks of them stands at `experiment.problem.Simulated`. Each is read at the beginning, to tell what
    will be done with it, and again when its turn comes: none is kept. `failed`: {name: why} of those that cannot be restored while others
    can; `report` has a line a picture, `warnings` what is worth a warning. Raises UserError for a file that cannot be what the command line
    says, and where no picture is left."""

    def __init__(self, args, prior_size):
        if args.sigma == 0:
            raise UserError(
                "--sigma 0: no file is without noise, of 8 bits it is 1/255 at least; leave the option out for an estimate"
            )
        self.args, self.kind, self.margin = args, kind_of(args), prior_size // 2
        self.lasting = {"measured": True, **{key: getattr(args, key) for key in LASTING}}
        self.lasting.update(
            {key: getattr(args, key) for key in LASTING_GIVEN if getattr(args, key)}
        )
        paths, folder, unread = measured_files(args)
        self.paths = chosen(args, paths, folder)
        for one, others in unread.items():
            say_unread(one, others)
        self.keys, self.digests, self.failed, self.report, self.warnings = {}, {}, {}, [], []
        for name, path in self.paths.items():
            try:
                photo = read_photograph(path, args.linear)
                refuse_small(
                    path, [side * (args.scale or 1) for side in photo.x.shape[-2:]], prior_size
                )
                self._look_at(name, path, photo)
            except PictureError as error:
                self.failed[name] = str(error)
        if not self.keys:
            raise PictureError(next(iter(self.failed.values())))
        self.names = list(self.keys)

    def _measurement(self, name, photo):
        """(y, what the kind is given of it, what is told of that, warnings)."""
        given, told, warnings = self.kind.given(self.paths[name], name, photo)
        if self.kind.knows_mask and "mask" not in given:
            visible, unclipped = photo.visible, self.kind.unclipped(photo, given)
            parts = [(visible, "transparent"), (unclipped, "lit by lamps brighter than white")]
            told += [
                f"{1 - part.mean().item():.1%} {why} and left out of the measurement"
                for part, why in parts
                if not part.all()
            ]
            given["mask"] = visible * unclipped
        if "mask" in given and not given["mask"].any():
            raise PictureError(
                f"{self.paths[name]}: nothing of it is left to restore it from; it is transparent or clipped where its mask is white"
            )
        return photo.x * given.get("mask", 1), given, told, warnings

    def _window(self, given):
        """(rows, columns) of the picture that are worked through: what lies around the holes, where that is little of it or the rest stays as it
        is."""
        everything = slice(None), slice(None)
        if not isinstance(self.kind, Inpainting) or given["mask"].all():
            return everything
        rows, columns = window = around_holes(given["mask"], self.margin)
        little = (rows.stop - rows.start) * (columns.stop - columns.start) <= LITTLE * given[
            "mask"
        ].numel()
        return window if little or self.args.keep_observed else everything

    def _look_at(self, name, path, photo):
        y, given, told, warnings = self._measurement(name, photo)
        mask, whole = given.get("mask", torch.ones_like(y[:, :1])), y.shape[-2:]
        complete = (
            isinstance(self.kind, Inpainting) and self.args.mask is not None and bool(mask.all())
        )
        sigma, source, kind = self._sigma(path, y, mask, complete)
        warnings += [f"{path}: {NOT_WHITE[kind]}"] if kind in NOT_WHITE else []
        y, share = y[(..., *self._window(given))], 1 - mask.mean().item()
        rest = (
            "left as it is"
            if self.args.keep_observed
            else "given to the network once, where the method has one"
        )
        told += (
            [f"{y.shape[-1]} x {y.shape[-2]} around the holes worked through, the rest {rest}"]
            if y.shape[-2:] != whole
            else []
        )
        self.keys[name] = (
            tuple(self.kind.size(y, given)),
            tuple(y.shape),
            sigma,
            photo.grey,
            complete,
        )
        self.digests[name] = digest(y[0].numpy())
        about = (
            "its mask has no hole: nothing to do, copied"
            if complete
            else f"sigma {sigma:.4f} ({source})"
        )
        missing = (
            [f"{share:.1%} missing"] if isinstance(self.kind, Inpainting) and not mask.all() else []
        )
        form = f"{'grey' if photo.grey else 'RGB'}{' with opacity' if photo.alpha is not None else ''}, {photo.bits} bits"
        assumed = [self.kind.assumed] if self.kind.assumed else []
        parts = [
            f"{whole[1]} x {whole[0]}",
            self.args.task,
            about,
            *missing,
            *told,
            *assumed,
            form,
            *photo.remarks,
        ]
        self.report.append(f"{name}: {', '.join(parts)}")
        self.warnings += [one for one in warnings if one not in self.warnings]

    def _sigma(self, path, y, mask, complete):
        """(the noise's standard deviation, an estimate in steps of STEP, so that pictures of one camera share batches; where it is from; of what
        kind)."""
        if self.args.sigma:
            return self.args.sigma, "--sigma", None
        noise = None if complete else estimate_noise(y, mask)
        if noise is None and not complete:
            raise PictureError(
                f"{path}: too few neighbouring pixels are observed to estimate the noise; say it with --sigma"
            )
        if complete or noise.sigma < LEAST_SIGMA:
            return LEAST_SIGMA, "an 8-bit file's least", noise and noise.kind
        sigma = min(noise.sigma, LARGEST_SIGMA)
        kind = noise.kind if sigma == noise.sigma else "dithered"
        return (
            STEP ** round(math.log(sigma, STEP)),
            "estimated" if mask.all() else "estimated from the observed pixels",
            kind,
        )

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
        drawn = {
            key: torch.cat([cut(key, one[key], window) for one, window in zip(given, windows)]).to(
                device
            )
            for key in given[0]
        }
        A = self.kind.operator(drawn, size, device)
        if "mask" in drawn:
            seen = masking(drawn["mask"])
            if drawn["mask"].all():
                del drawn["mask"]
        brought = [
            {
                "bits": photo.bits,
                "alpha": photo.alpha,
                "tags": photo.tags,
                "whole": photo.x[0],
                "window": window,
            }
            for photo, window in zip(photos, windows)
        ]
        operator = (lambda x: seen(A(x))) if "mask" in drawn else A
        return Problem(
            names,
            operator,
            torch.cat(ys).to(device),
            sigma,
            drawn,
            size,
            None,
            self.kind.border(drawn),
            grey,
            complete,
            brought=brought,
            linear=self.args.linear,
            keep=self.args.keep_observed,
        )

    def refuse_others(self, directory):
        """Raise UserError where a run's folder has begun one of the pictures with another measurement or kernel."""
        for name in self.names:
            folder = os.path.dirname(picture(directory, name, "measurement"))
            path = os.path.join(folder, "measurement.npy")
            if not os.path.exists(path):
                continue
            if digest(np.load(path)) != self.digests[name]:
                raise UserError(
                    f"{path}: is not the measurement that {name} is now; rename the new one or choose another --name NAME"
                )
            path = os.path.join(folder, "kernel.png")
            if os.path.exists(path) and self.args.kernel is not None:
                kernel = load_kernel(
                    beside("kernel", self.args.kernel, self.paths[name], name),
                    self.args.flip_kernel,
                    self.args.centre_kernel,
                )[0]
                then, now = load_image(path)[0, :1], kernel_picture(kernel[0])
                if then.shape != now.shape or (then - now).abs().max() > 2 / 255:
                    raise UserError(
                        f"{path}: is not the kernel that {name} has now; choose another --name NAME"
                    )
