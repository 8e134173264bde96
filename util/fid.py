"""FID (Heusel et al. 2017) of a run's pictures, by the pytorch-fid package."""
import os
import sys

import torch

from util.files import UserError, read_state_dict

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILE}"
FEATURES = 2048


class FrechetInceptionDistance:
    """`FrechetInceptionDistance(device)(directory, names)` -> {"final", "best"}: the distance of these images' final.png, and
    of their result.png, to their origin.png; None if that cannot be said.

    The Inception network's file is never fetched here: where it is missing, one warning says what to put where. FID is
    biased for few images; papers take a hundred or more.
    """

    def __init__(self, device):
        self.device, self.inception = device, None
        path = os.path.join(torch.hub.get_dir(), "checkpoints", INCEPTION_FILE)
        try:
            read_state_dict(path)
            # Here, because it takes torchvision along, which nothing else needs.
            from pytorch_fid.inception import InceptionV3

            self.inception = InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[FEATURES]]).to(device)
        except (UserError, RuntimeError):  # missing; a file of something else
            print(f"warning: no FID, it needs {path}: download it from {INCEPTION_URL}", file=sys.stderr)

    def __call__(self, directory, names):
        if not self.inception:
            return None
        if len(names) < 2:
            print("warning: no FID, it needs two images or more", file=sys.stderr)
            return None
        from pytorch_fid.fid_score import calculate_activation_statistics, calculate_frechet_distance

        statistics = {}
        for picture in ("origin", "final", "result"):
            files = [os.path.join(directory, "images", name, f"{picture}.png") for name in names]
            statistics[picture] = calculate_activation_statistics(files, self.inception, dims=FEATURES, device=self.device, num_workers=0)
        try:
            distances = [calculate_frechet_distance(*statistics["origin"], *statistics[picture]) for picture in ("final", "result")]
        except ValueError as error:  # ill-conditioned covariances
            print(f"warning: no FID, {len(names)} images are too few for it ({error})", file=sys.stderr)
            return None
        return dict(zip(("final", "best"), map(float, distances)))
