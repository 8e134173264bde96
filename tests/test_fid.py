"""FID of images of several sizes."""

import numpy as np
import pytest
import torch
from PIL import Image

from experiment import fid
from experiment.fid import FrechetInceptionDistance
from report.records import picture


class MeanColours(torch.nn.Module):
    """Instead of Inception: a batch's mean colours, (B, 3, 1, 1)."""

    def forward(self, x):
        return [x.mean((2, 3), keepdim=True)]


def test_pictures_of_several_sizes_have_one_distance(tmp_path, monkeypatch):
    monkeypatch.setattr(fid, "FEATURES", 3)
    rng, colours = np.random.RandomState(0), {}
    for which in ("origin", "final", "result"):
        colours[which] = rng.randint(0, 256, (5, 3))
        for n, colour in enumerate(colours[which]):
            path = picture(str(tmp_path), f"{n}", which)
            (tmp_path / "images" / f"{n}").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 32) if n % 2 else (33, 50), tuple(map(int, colour))).save(path)
    measured = FrechetInceptionDistance.__new__(FrechetInceptionDistance)
    measured.device, measured.inception = "cpu", MeanColours()
    distances = measured(str(tmp_path), [f"{n}" for n in range(5)])
    moments = {
        which: (c.mean(0) / 255, np.cov(c / 255, rowvar=False)) for which, c in colours.items()
    }
    for which, name in (("final", "final"), ("best", "result")):
        assert distances[which] == pytest.approx(
            fid.frechet_distance(*moments["origin"], *moments[name]), rel=1e-3, abs=1e-5
        )
