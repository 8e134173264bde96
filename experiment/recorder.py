"""What a run leaves on disk in figures: records, log.txt and summary.json; and the pictures of each iterate."""

import json
import os
import shutil

import numpy as np
import torch

from experiment.stop import stop
from guided_diffusion.blind import kernel_error
from report import plots
from report.pictures import kernel_picture, measurement_picture
from report.records import METRICS, record_path
from util.files import atomic, write_text
from util.images import save_image
from util.intervals import PERCENT, calibration, interval

LEFT = (
    "residual",
    "misfit",
    "structure",
)  # what an iterate leaves of the measurement: its RMS, that of measured pixels, `experiment.stop`


class ImageRecord:
    """The iterates of one picture: its pictures in images/<name>/, its figures in record/<name>.json.

    measurement: its y; drawn: its part of the Problem's; truth: (3, H, W) or, grey, (1, H, W), in [-1, 1], or None: then there are
    no metrics, and the chosen iterate is the result, which restored/<name>.png repeats; sigma: the noise's standard deviation, for the
    record; nearest: the Problem's. Where it has one, the record says in `turned` which picture was the nearest to the truth, has the PSNR of
    the iterate itself in `psnr_unturned` and, if it is of a picture's shape, the measurement's figures; rule, single: see `experiment.stop.stop`;
    brought: what the result's file takes over from a photograph's, see `Problem`.
    """

    def __init__(
        self,
        directory,
        name,
        measurement,
        drawn,
        truth,
        metrics,
        sigma,
        nearest,
        rule,
        single,
        brought=None,
    ):
        self.restored = os.path.join(directory, "restored", f"{name}.png")
        self.pictures = os.path.join(directory, "images", name)
        self.record_path = record_path(directory, name)
        self.truth, self.metrics, self.nearest = truth, metrics, nearest
        self.rule, self.single, self.brought = rule, single, dict(brought or {})
        self.whole, self.window = self.brought.pop("whole", None), self.brought.pop("window", None)
        figures = METRICS if truth is not None else ()
        self.record = {
            "sigma": sigma,
            **{
                key: []
                for key in (*figures, *LEFT, "iterates", "ends_outer", "evaluations", "elapsed")
            },
        }
        if truth is not None:
            self._save("origin", truth)
            if nearest:
                self.record.update(turned=[], psnr_unturned=[])
                if measurement.shape[-2:] == truth.shape[-2:]:
                    seen = (
                        measurement
                        if measurement.shape == truth.shape
                        else measurement.mean(0, keepdim=True)
                    )  # of a grey one
                    self.record["measurement"] = metrics(self._nearest(seen.clamp(-1, 1))[0], truth)
        self._save("measurement", measurement_picture(measurement))
        with atomic(os.path.join(self.pictures, "measurement.npy")) as tmp, open(tmp, "wb") as f:
            np.save(f, measurement.cpu().numpy())
        self.mask = drawn.get("mask")
        if "mask" in drawn:
            self._save("mask", 2 * drawn["mask"] - 1)
        for kernel in drawn.keys() & {"kernel", "kernel_true"}:
            self._save(kernel, kernel_picture(drawn[kernel]))
        self.kernel_true = drawn.get("kernel_true")

    @property
    def failed(self):
        return "failed" in self.record

    def _save(self, picture, x):
        save_image(os.path.join(self.pictures, f"{picture}.png"), x)

    def _in_its_place(self, x):
        """x as a part of the photograph of which no more was worked through; else x."""
        if self.window in (None, (slice(None), slice(None))):
            return x
        whole = self.whole[: len(x)].clone()
        whole[(slice(None), *self.window)] = x.to(whole)
        return whole

    def _nearest(self, x):
        """(of the pictures that the measurement cannot tell from x, the one nearest to the truth, which it is)."""
        return self.nearest(x, self.truth) if self.nearest and self.truth is not None else (x, None)

    def add(self, iterate, x, ends_outer, left, evaluations, elapsed):
        """One iterate: its name, (3, H, W) or, grey, (1, H, W), does an outer iteration end with it, the figures LEFT of A(x) - y, and the
        network evaluations and seconds that the image has taken so far. "init" is where the solver starts: only a picture. One that is not
        finite ends the record."""
        if self.failed:
            return
        if not (torch.isfinite(x).all() and np.isfinite(left["residual"])):
            self.record["failed"] = f"{iterate} is not finite; nothing was recorded from there on"
            return
        as_found, (x, turn) = x, self._nearest(x)
        self._save(iterate, x)
        if iterate == "init":
            return
        figures = {
            **left,
            "iterates": iterate,
            "ends_outer": ends_outer,
            "evaluations": evaluations,
            "elapsed": elapsed,
        }
        if "turned" in self.record:
            figures.update(turned=turn, psnr_unturned=self.metrics(as_found, self.truth)["psnr"])
        if self.truth is not None:
            figures.update(self.metrics(x, self.truth))
        for key, value in figures.items():
            self.record[key].append(value)
        self._save("final", x)
        chosen, reached = stop(self.record, self.rule, self.single)
        self.record["chosen"] = {
            "rule": self.rule if self.single else "final",
            "iterate": chosen,
            "reached": reached,
        }
        best = chosen if self.truth is None else int(np.argmax(self.record["psnr"]))
        if best == len(self.record["iterates"]) - 1:
            save_image(
                os.path.join(self.pictures, "result.png"), self._in_its_place(x), **self.brought
            )

    def found(self, kernel):
        """The kernel, (k, k), that an operator has found along with the picture."""
        self._save("kernel", kernel_picture(kernel))
        if self.kernel_true is not None:
            self.record["kernel_error"] = kernel_error(kernel, self.kernel_true)

    def informed(self, x):
        """What is found, (3, H, W) or (1, H, W), if the operator need not find a part of itself: its figures, moved as the others are."""
        if self.failed:
            return
        if torch.isfinite(x).all():
            self.record["operator_known"] = self.metrics(self._nearest(x)[0], self.truth)
        else:
            self.record["failed"] = "with its operator known it is not finite"

    def compare(self, samples):
        """Several restorations of the measurement, (K, 3, H, W): each, their mean and, by pixel, their standard deviation (spread.png, root
        mean square over the channels) and interval (interval.npz, `util.intervals.interval`), in pictures and figures."""
        if self.failed:
            return
        if not torch.isfinite(samples).all():
            self.record["failed"] = "a sample is not finite"
            return
        samples = torch.stack([self._nearest(x)[0] for x in samples])
        mean, deviation = samples.mean(0), samples.std(0)
        for k, x in enumerate(samples):
            self._save(f"sample_{k}", x)
        self._save("mean", mean)
        spread = deviation.square().mean(0).sqrt()
        plots.spread(os.path.join(self.pictures, "spread.png"), spread.cpu().numpy())
        low, high = (bound.clamp(-1, 1).cpu().numpy() for bound in interval(samples))
        with atomic(os.path.join(self.pictures, "interval.npz")) as tmp, open(tmp, "wb") as f:
            np.savez_compressed(f, low=low, high=high, percent=PERCENT)
        figures, parts = {"count": len(samples)}, {"": torch.ones_like(spread, dtype=torch.bool)}
        if self.mask is not None:
            mask = torch.nn.functional.interpolate(self.mask[None], spread.shape)[
                0, 0
            ]  # of an enlarged picture it is smaller
            parts.update(_missing=mask == 0, _measured=mask != 0)
        parts = {
            part: where for part, where in parts.items() if where.any()
        }  # of no pixels there is no mean
        for part, where in parts.items():
            figures["spread" + part] = spread[where].square().mean().sqrt().item()
        if self.truth is not None:
            figures.update(calibration(samples, self.truth, parts))
            figures["mean"] = self.metrics(mean, self.truth)
            figures["each"] = [self.metrics(x, self.truth) for x in samples]
        self.record["samples"] = figures

    def finish(self, seconds, network_evaluations, made_with):
        """Write the record, whole, and return it. made_with: what `util.devices.provenance` returns."""
        if self.truth is None and not self.failed:
            with atomic(self.restored) as tmp:
                shutil.copyfile(os.path.join(self.pictures, "result.png"), tmp)
        self.record.update(
            seconds=seconds, network_evaluations=network_evaluations, made_with=made_with
        )
        write_text(self.record_path, json.dumps(self.record, indent=1))
        return self.record


def write_too_large(directory, name):
    """Write the record of a picture that does not fit into memory, and return it. The same command tries it anew: there may be more by then."""
    why = "does not fit into the device's memory; give the same command again with --cuda -1, or another --name NAME and --precision bf16 or --tile"
    record = {"failed": why, "again": True}
    write_text(record_path(directory, name), json.dumps(record, indent=1))
    return record
