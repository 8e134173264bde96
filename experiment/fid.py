"""FID (Heusel et al. 2017) of a run's images, by the pytorch-fid package."""

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
    """The Inception network; None, with a warning, if its file cannot be downloaded."""
    path = os.path.join(torch.hub.get_dir(), "checkpoints", INCEPTION_FILE)
    try:
        if os.path.exists(path):
            read_state_dict(path)  # a broken one would be loaded as it is
        else:
            print(
                f"fetching FID's network (pytorch-fid, 91 MB) from {INCEPTION_URL}", file=sys.stderr
            )
        # Here, as it imports torchvision, which nothing else needs.
        from pytorch_fid.inception import InceptionV3

        return InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[FEATURES]]).to(device)
    except (UserError, RuntimeError, OSError) as error:  # no network; a file of something else
        print(
            f"warning: no FID ({' '.join(str(error).split())}); put {INCEPTION_URL} at {path}"
            " (another folder: TORCH_HOME)",
            file=sys.stderr,
        )
        return None


def square_root(matrix, disp=True):
    """scipy.linalg.sqrtm with its option `disp`, which SciPy 1.18 removed; pytorch-fid 0.3.0 sets
    disp=False and expects two results, of which it uses the first."""
    with contextlib.redirect_stdout(None):  # older versions print warnings
        root = scipy.linalg.sqrtm(matrix)
    return root if disp else (root, None)


def frechet_distance(*statistics):
    """pytorch-fid's distance of two normal distributions (mean, covariance, mean, covariance), with
    any SciPy. Raises ValueError for covariances without a square root."""
    from pytorch_fid import fid_score

    fid_score.linalg = SimpleNamespace(sqrtm=square_root)
    return fid_score.calculate_frechet_distance(*statistics)


def moments(files, inception, device):
    """(mean, covariance) of the images' features, as by pytorch-fid's
    calculate_activation_statistics, but for images of several sizes."""
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
    """`FrechetInceptionDistance(device)(directory, names)` -> {"final": FID, "best": FID} of the
    images' final.png and result.png against their origin.png; None, with a warning, if it cannot be
    computed.

    FID is biased for few images; papers use a hundred or more.
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
