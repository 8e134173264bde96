"""FID (Heusel et al. 2017) of a run's pictures, by the pytorch-fid package."""

import contextlib
import os
import sys
from types import SimpleNamespace

import numpy as np
import scipy.linalg
import torch
from PIL import Image

from report.records import picture
from util.files import UserError, read_state_dict

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_URL = (
    f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILE}"
)
FEATURES = 2048


def load_inception(device):
    """The Inception network, None with one warning where its file is neither here nor to be fetched."""
    path = os.path.join(torch.hub.get_dir(), "checkpoints", INCEPTION_FILE)
    try:
        if os.path.exists(path):
            read_state_dict(path)  # a broken one would be loaded as it is
        else:
            print(
                f"fetching FID's network (pytorch-fid, 91 MB) from {INCEPTION_URL}", file=sys.stderr
            )
        # Here, because it takes torchvision along, which nothing else needs.
        from pytorch_fid.inception import InceptionV3

        return InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[FEATURES]]).to(device)
    except (UserError, RuntimeError, OSError) as error:  # no network; a file of something else
        print(
            f"warning: no FID ({' '.join(str(error).split())}); put {INCEPTION_URL} at {path}",
            file=sys.stderr,
        )
        return None


def square_root(matrix, disp=True):
    """scipy.linalg.sqrtm, which has lost its option `disp` in SciPy 1.18; pytorch-fid 0.3.0 calls it with disp=False and takes two
    results, of which it uses the first."""
    with contextlib.redirect_stdout(None):  # older ones print what they think of the matrix
        root = scipy.linalg.sqrtm(matrix)
    return root if disp else (root, None)


def frechet_distance(*statistics):
    """pytorch-fid's distance of two normal distributions (mean, covariance, mean, covariance), whatever SciPy is here. Raises
    ValueError for covariances that have no square root."""
    from pytorch_fid import fid_score

    fid_score.linalg = SimpleNamespace(sqrtm=square_root)
    return fid_score.calculate_frechet_distance(*statistics)


def moments(files, inception, device):
    """(mean, covariance) of the pictures' features. As pytorch-fid's calculate_activation_statistics, which takes pictures of one size only."""
    from pytorch_fid.fid_score import get_activations

    alike = {}
    for file in files:
        with Image.open(file) as image:
            alike.setdefault(image.size, []).append(file)
    options = dict(dims=FEATURES, device=device, num_workers=0)
    features = np.concatenate(
        [get_activations(some, inception, min(50, len(some)), **options) for some in alike.values()]
    )
    return features.mean(0), np.cov(features, rowvar=False)


class FrechetInceptionDistance:
    """`FrechetInceptionDistance(device)(directory, names)` -> {"final", "best"}: the distance of these images' final.png, and
    of their result.png, to their origin.png; None, with one warning, if that cannot be said.

    FID is biased for few images; papers take a hundred or more.
    """

    def __init__(self, device):
        self.device, self.inception = device, load_inception(device)

    def __call__(self, directory, names):
        if not self.inception:
            return None
        names = [name for name in names if os.path.exists(picture(directory, name, "origin"))]
        if len(names) < 2:
            print(
                "warning: no FID, it needs two images or more whose truth is known", file=sys.stderr
            )
            return None
        statistics = {}
        for which in ("origin", "final", "result"):
            statistics[which] = moments(
                [picture(directory, name, which) for name in names], self.inception, self.device
            )
        try:
            distances = [
                frechet_distance(*statistics["origin"], *statistics[which])
                for which in ("final", "result")
            ]
        except ValueError as error:  # ill-conditioned covariances
            print(
                f"warning: no FID, {len(names)} images are too few for it ({error})",
                file=sys.stderr,
            )
            return None
        return dict(zip(("final", "best"), map(float, distances)))
