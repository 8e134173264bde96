"""FID (Heusel et al. 2017) of a run's pictures, by the pytorch-fid package."""
import os
import sys

import torch

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILE}"
FEATURES = 2048


def frechet_inception_distance(directory, names, device):
    """{"final", "best"}: the distance of these images' final.png, and of their result.png, to their origin.png.

    None, with one warning that says what to put where, if the Inception network's file is missing: it is never fetched here.
    FID is biased for few images; papers take a hundred or more.
    """
    path = os.path.join(torch.hub.get_dir(), "checkpoints", INCEPTION_FILE)
    if not os.path.isfile(path):
        print(f"warning: no FID, it needs {path}: download it from {INCEPTION_URL}", file=sys.stderr)
        return None
    # Here, because they take torchvision along, which nothing else needs.
    from pytorch_fid.fid_score import calculate_activation_statistics, calculate_frechet_distance
    from pytorch_fid.inception import InceptionV3

    inception = InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[FEATURES]]).to(device)
    statistics = {}
    for picture in ("origin", "final", "result"):
        files = [os.path.join(directory, "images", name, f"{picture}.png") for name in names]
        statistics[picture] = calculate_activation_statistics(files, inception, dims=FEATURES, device=device, num_workers=0)
    distance = lambda picture: float(calculate_frechet_distance(*statistics["origin"], *statistics[picture]))
    return {"final": distance("final"), "best": distance("result")}
