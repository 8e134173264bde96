"""The files of each image: its record (figures of every iterate) and its pictures."""

import dataclasses
import json
import os
import shutil

import numpy as np
import torch

from experiment.stop import stop
from guided_diffusion.blind import kernel_error
from report.pictures import kernel_picture, measurement_picture, spread_picture
from report.records import METRICS, record_path
from util.files import atomic, write_text
from util.images import save_image
from util.intervals import PERCENT, calibration, interval

# Of A(x) - y: its RMS, its RMS over measured px, and its autocorrelation (`experiment.stop`).
RESIDUALS = ("residual", "misfit", "structure")


class ImageRecord:
    """The iterates of one image: pictures in images/<name>/, figures in record/<name>.json.

    folder: the run's `experiment.folder.Folder`; case: the image, an `experiment.problem.Case`;
    metrics: an `experiment.metrics.Metrics`, None without ground truth; rule, single: see
    `experiment.stop.stop`.

    Without ground truth there are no metrics, and the chosen iterate, of several samples their
    mean, is the result, which is copied to <top>/<name>.png. With `case.nearest`, the record says
    in `turned` which image was nearest to the truth, `psnr_unturned` is the PSNR of the iterate
    itself and `measurement`, where y is shaped like an image, holds the metrics of y.
    """

    def __init__(self, folder, case, metrics, rule, single):
        self.case, self.metrics, self.rule, self.single = case, metrics, rule, single
        self.restored = os.path.join(folder.top, f"{case.name}.png")
        self.pictures = os.path.join(folder.files, "images", case.name)
        self.record_path = record_path(folder.files, case.name)
        figures = METRICS if case.truth is not None else ()
        keys = (*figures, *RESIDUALS, "iterates", "ends_outer", "nfe", "elapsed")
        self.record = {"sigma": case.sigma, **{key: [] for key in keys}}
        if case.truth is not None:
            self._save("origin", case.truth)
            if case.nearest:
                self.record.update(turned=[], psnr_unturned=[])
                self._score_measurement()
        self._save_measurement()

    @property
    def failed(self):
        return "failed" in self.record

    def _save(self, picture, x):
        save_image(os.path.join(self.pictures, f"{picture}.png"), x)

    def _score_measurement(self):
        y, truth = self.case.y, self.case.truth
        if y.shape[-2:] == truth.shape[-2:]:
            y = y if y.shape == truth.shape else y.mean(0, keepdim=True)  # of a grey image
            self.record["measurement"] = self.metrics(self._nearest(y.clamp(-1, 1))[0], truth)

    def _save_measurement(self):
        y, state = self.case.y, self.case.operator_state
        self._save("measurement", measurement_picture(y))
        if self.case.source:
            self._save("before", self.case.source.before)
        with atomic(os.path.join(self.pictures, "measurement.npy")) as tmp, open(tmp, "wb") as f:
            np.save(f, y.cpu().numpy())
        if "mask" in state:
            self._save("mask", self._whole(2 * state["mask"] - 1, around=1))
        for kernel in state.keys() & {"kernel", "kernel_true"}:
            self._save_kernel(kernel, state[kernel])

    def _save_kernel(self, name, kernel):
        """As a picture, and as an array for --kernel of restore.py."""
        self._save(name, kernel_picture(kernel))
        with atomic(os.path.join(self.pictures, f"{name}.npy")) as tmp, open(tmp, "wb") as f:
            np.save(f, kernel.cpu().numpy())

    def _whole(self, x, around=None):
        """x, (C, h, w), in its photograph if only windows of that were restored. around: the value
        of everything else, by default the photograph's own."""
        source = self.case.source
        if not source or not source.windows:
            return x
        whole = source.whole[: len(x)]
        return source.pasted(whole if around is None else torch.full_like(whole, around), x)

    def _save_result(self, x):
        save = self.case.source.save if self.case.source else {}
        save_image(os.path.join(self.pictures, "result.png"), self._whole(x), **save)

    def _nearest(self, x):
        """(the image indistinguishable from x that is nearest to the truth, which it is)."""
        nearest, truth = self.case.nearest, self.case.truth
        return nearest(x, truth) if nearest and truth is not None else (x, None)

    def add(self, iterate, x, residuals, nfe, elapsed):
        """Record one `solvers.method.Iterate` of which this image is x, (3, H, W) or (1, H, W).

        residuals: {figure: value} for RESIDUALS; nfe, elapsed: NFE and seconds
        spent on the image so far. Of "init" only the picture is saved. An iterate that is not
        finite ends the record.
        """
        if self.failed:
            return
        if not (torch.isfinite(x).all() and np.isfinite(residuals["residual"])):
            self.record["failed"] = f"{iterate.name} is not finite; nothing later was recorded"
            return
        unturned, (x, turned) = x, self._nearest(x)
        self._save(iterate.name, x)
        if iterate.name == "init":
            return
        figures = {**residuals, "iterates": iterate.name, "ends_outer": iterate.ends_outer}
        figures.update(nfe=nfe, elapsed=elapsed)
        if "turned" in self.record:
            psnr = self.metrics(unturned, self.case.truth)["psnr"]
            figures.update(turned=turned, psnr_unturned=psnr)
        if self.case.truth is not None:
            figures.update(self.metrics(x, self.case.truth))
        for key, value in figures.items():
            self.record[key].append(value)
        self._save("final", x)
        chosen, reached = stop(self.record, self.rule, self.single)
        rule = self.rule if self.single else "final"
        self.record["chosen"] = {"rule": rule, "iterate": chosen, "reached": reached}
        best = chosen if self.case.truth is None else int(np.argmax(self.record["psnr"]))
        if best == len(self.record["iterates"]) - 1:
            self._save_result(x)

    def add_kernel(self, kernel):
        """The estimated kernel, (k, k), of a blind operator."""
        self._save_kernel("kernel", kernel)
        if "kernel_true" in self.case.operator_state:
            error = kernel_error(kernel, self.case.operator_state["kernel_true"])
            self.record["kernel_error"] = error

    def add_known_operator(self, x):
        """Metrics of x, (3, H, W) or (1, H, W), restored with the true operator."""
        if self.failed:
            return
        if torch.isfinite(x).all():
            x = self._nearest(x)[0]
            self.record["operator_known"] = self.metrics(x, self.case.truth)
        else:
            self.record["failed"] = "with its operator known it is not finite"

    def compare(self, samples):
        """Record several restorations of the measurement, (K, 3, H, W).

        Saves each, their mean, their standard deviation by px (spread.png, RMS over the channels,
        the largest white) and an interval by value (interval.npz, `util.intervals.interval`).
        Without ground truth the mean becomes the result. Around a restored window the samples are
        equal, and there is no interval (NaN).
        """
        if self.failed:
            return
        if not torch.isfinite(samples).all():
            self.record["failed"] = "a sample is not finite"
            return
        samples = torch.stack([self._nearest(x)[0] for x in samples])
        mean, spread = samples.mean(0), samples.std(0).square().mean(0).sqrt()
        for k, x in enumerate(samples):
            self._save(f"sample_{k}", self._whole(x))
        self._save("mean", self._whole(mean))
        self._save("spread", self._whole(spread_picture(spread), -1.0))
        bounds = (self._whole(bound.clamp(-1, 1), torch.nan) for bound in interval(samples))
        low, high = (bound.cpu().numpy() for bound in bounds)
        with atomic(os.path.join(self.pictures, "interval.npz")) as tmp, open(tmp, "wb") as f:
            np.savez_compressed(f, low=low, high=high, percent=PERCENT)
        figures, regions = {"count": len(samples)}, self._regions(spread)
        if self.case.truth is None:
            self._save_result(mean)
            figures["result"] = "mean"
        for region, where in regions.items():
            figures["spread" + region] = spread[where].square().mean().sqrt().item()
        truth = self.case.truth
        if truth is not None:
            figures.update(calibration(samples, truth, regions))
            figures["mean"] = self.metrics(mean, truth)
            figures["each"] = [self.metrics(x, truth) for x in samples]
        self.record["samples"] = figures

    def _regions(self, spread):
        """{suffix of a figure: (H, W) bool}: all px and, with a mask, missing and measured ones;
        empty regions, which have no mean, left out."""
        regions = {"": torch.ones_like(spread, dtype=torch.bool)}
        mask = self.case.operator_state.get("mask")
        if mask is not None:  # smaller than an enlarged image
            mask = torch.nn.functional.interpolate(mask[None], spread.shape)[0, 0]
            regions.update(_missing=mask == 0, _measured=mask != 0)
        return {region: where for region, where in regions.items() if where.any()}

    def finish(self, seconds, nfe_total, made_with):
        """Write the record and return it; made_with: from `util.devices.provenance`."""
        if self.case.truth is None and not self.failed:
            with atomic(self.restored) as tmp:
                shutil.copyfile(os.path.join(self.pictures, "result.png"), tmp)
        self.record.update(seconds=seconds, nfe_total=nfe_total, made_with=made_with)
        write_text(self.record_path, json.dumps(self.record, indent=1))
        return self.record


def with_whole(case, whole):
    """A Case of a photograph whose surroundings of the window are those of `whole`."""
    source = dataclasses.replace(case.source, whole=whole)
    return dataclasses.replace(case, source=source)


def write_too_large(folder, name):
    """Write the record of an image that does not fit into memory, and return it. The same command
    tries again, as more memory may be free by then."""
    why = (
        "does not fit into the device's memory; give the same command again with --cuda -1, or "
        "another --name NAME and --precision bf16 or --tile"
    )
    record = {"failed": why, "again": True}
    write_text(record_path(folder.files, name), json.dumps(record, indent=1))
    return record
