"""Compare this project with arrays that the authors' code produced, row by row.

    python tests/conformance.py tests/golden
    python tests/conformance.py DIR --seed 7
    python tests/conformance.py tests/golden --only units inpainting   # units, a task's whole runs

DIR holds units.json, units.npz, trajectories.json, trajectories.npz and the prior that the latter
names. Inputs are rebuilt from the seed by `fill_weights` and `image`; everything else is this
project's own code, including the generators of dmilo.py and dmilo-pgd.py. Exits with code 1 if a
row exceeds its tolerance.
"""

import argparse
import dataclasses
import json
import math
import os
import re
import sys
import zlib

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from bkse.models.kernel_encoding.kernel_wizard import KernelWizard  # noqa: E402
from experiment.methods import PAPER, load_method  # noqa: E402
from experiment.metrics import Metrics  # noqa: E402
from experiment.presets import load_row  # noqa: E402
from experiment.problem import simulate  # noqa: E402
from experiment.restoration import draw_latents  # noqa: E402
from guided_diffusion.ddim import Chain, chain_timesteps  # noqa: E402
from guided_diffusion.kernels import blurring  # noqa: E402
from guided_diffusion.measurements import load_measurement  # noqa: E402
from guided_diffusion.prior import frozen  # noqa: E402
from guided_diffusion.unet import create_model  # noqa: E402
from motionblur.motionblur import Kernel  # noqa: E402
from solvers.least_squares import silent  # noqa: E402
from util.config import load_yaml  # noqa: E402
from util.rng import BatchRandom  # noqa: E402

PARTS = ("units", "inpainting", "super_resolution", "gaussian_deblur", "motion_deblur")


def fill_weights(module, seed):
    """Weights that depend on the tensors' names, shapes and the seed alone."""
    for name, tensor in module.state_dict().items():
        r = torch.randn(
            tensor.shape,
            generator=torch.Generator().manual_seed((zlib.crc32(name.encode()) + seed) % 2**31),
        )
        if tensor.ndim >= 2:
            tensor.copy_(r / math.sqrt(tensor[0].numel()))
        else:
            tensor.copy_(1 + 0.1 * r if name.endswith("weight") else 0.1 * r)
    return module.eval()


def image(size, seed):
    """A smooth random picture with some noise, (1, 3, size, size) in [-1, 1]."""
    g = torch.Generator().manual_seed(1000 + seed)
    x = F.interpolate(
        torch.rand(1, 3, 8, 8, generator=g) * 2 - 1, size, mode="bicubic", align_corners=False
    )
    return (x + 0.1 * torch.randn(1, 3, size, size, generator=g)).clamp(-1, 1)


def task(operator, noise=None, **flat):
    """The content of a task file."""
    return {
        **flat,
        "measurement": {
            "operator": operator,
            "noise": noise or {"name": "gaussian", "sigma": 0.01},
        },
    }


def draw(config, size, seed):
    """The operator and the noise of a task file's content, with the randomness of one image."""
    operator, noise = load_measurement(config, "golden", (size, size), size)
    rng = BatchRandom([seed])
    return operator.draw(rng, "cpu")[0], noise, rng


def mask_bits(size, seed, **options):
    config = task({"name": "inpainting"})
    config["measurement"]["mask_opt"] = options
    A, _, _ = draw(config, size, seed)
    return np.packbits(A(torch.ones(1, 3, size, size))[0, 0].numpy().astype(bool))


def unit_rows(folder, seed):
    """(name, ours, tolerance) for the arrays of units.npz. A tolerance of 0 asks for equality."""
    golden, about = np.load(f"{folder}/units.npz"), json.load(open(f"{folder}/units.json"))
    size = about.get("image_size", 256)

    for name, config in about["unet_configs"].items():
        model, x = (
            fill_weights(create_model(**config), seed),
            image(config["image_size"], seed).requires_grad_(),
        )
        out = model(x, torch.tensor([333.0]))
        yield f"unet_{name}_out", out, 2e-4
        yield f"unet_{name}_grad", torch.autograd.grad(out[:, :3].square().mean(), x)[0], 1e-6
    if "unet_celeba_256_out_16x" in golden:
        with torch.device("meta"):  # weights are not initialised twice
            celeba = create_model(**load_yaml("configs/model_config_celeba.yaml"))
        celeba = fill_weights(celeba.to_empty(device="cpu"), seed)
        with torch.no_grad():
            yield (
                "unet_celeba_256_out_16x",
                celeba(image(256, seed), torch.tensor([666.0]))[..., ::16, ::16],
                2e-3,
            )

    for c in sorted(int(m[1]) for m in map(re.compile(r"ddim_(\d+)_prev").fullmatch, golden) if m):
        x, eps = torch.from_numpy(golden[f"ddim_{c}_x"]), torch.from_numpy(golden[f"ddim_{c}_eps"])
        yield f"ddim_{c}_timesteps", np.array(chain_timesteps(c)), 0
        chain = Chain(lambda x, t: eps, c, rng=None)
        yield f"ddim_{c}_prev", torch.cat([g(x) for g in chain]), 2e-5

    x = image(size, seed)
    for name in sorted(m[0] for m in map(re.compile(r"sr(\d*)_y").fullmatch, golden) if m):
        factor = int(re.sub(r"\D", "", name) or 4)
        yield (
            name,
            draw(task({"name": "super_resolution", "scale_factor": factor}), size, seed)[0](x),
            1e-5,
        )

    yield (
        "random_mask_bits",
        mask_bits(
            size,
            123 + seed,
            mask_type="random",
            mask_prob_range=about.get("mask_prob_range", (0.7, 0.7)),
        ),
        0,
    )
    yield (
        "box_mask_bits",
        mask_bits(
            size,
            123 + seed,
            mask_type="box",
            mask_len_range=about.get("mask_len_range", (128, 129)),
        ),
        0,
    )

    for name in sorted(
        m[0] for m in map(re.compile(r"gaussian_kernel_\d+").fullmatch, golden) if m
    ):
        k = int(name.split("_")[-1])
        A, _, _ = draw(
            task({"name": "blind_blur"}, kernel="gaussian", kernel_size=k, intensity=3.0),
            size,
            seed,
        )
        impulse = torch.zeros(1, 3, size, size)
        impulse[..., size // 2, size // 2] = 1
        # The answer to an impulse is the kernel, turned round: a cross-correlation.
        corner = size // 2 + k // 2 - k + 1
        yield name, A(impulse)[0, 0, corner : corner + k, corner : corner + k].flip(0, 1), 1e-6
        yield "gaussian_blur_y_8x", A(x)[..., ::8, ::8], 1e-5

    for name in sorted(m[0] for m in map(re.compile(r"motion_kernel_\d+").fullmatch, golden) if m):
        p = about[name]
        kernel = Kernel(
            (p["size"], p["size"]), p["intensity"], rng=np.random.RandomState(p["numpy_seed"])
        ).kernelMatrix
        yield name, kernel, 1e-6
        if name == "motion_kernel_0":
            yield (
                "motion_blur_y_8x",
                blurring(torch.from_numpy(kernel).float()[None], (size, size))(x)[..., ::8, ::8],
                1e-5,
            )

    _, noise, rng = draw(task({"name": "super_resolution", "scale_factor": 1}), 8, 3 + seed)
    yield "gaussian_noise", noise(torch.zeros(1, 3, 8, 8), rng), 0

    wizard = fill_weights(KernelWizard(about["bkse_small"]), seed)
    dim = about["bkse_small"]["kernel_dim"]
    kernel = 1.2 * BatchRandom([9 + seed]).randn((dim, 2, 2))
    sharp = (x + 1) / 2
    with torch.no_grad():
        blurred = wizard.adaptKernel(sharp, kernel)
        mean, logvar = wizard(sharp, blurred)
    yield "bkse_kernel", kernel, 1e-5
    yield "bkse_blurred_8x", blurred[..., ::8, ::8], 1e-5
    yield "bkse_extract_mean", mean, 1e-5
    yield "bkse_extract_logvar", logvar, 1e-5


def trajectory_rows(folder, tasks):
    """(name, our array, the authors' array, tolerance) of every iterate of the whole runs."""
    golden, about = (
        np.load(f"{folder}/trajectories.npz"),
        json.load(open(f"{folder}/trajectories.json")),
    )
    model = create_model(**about["unet_config"])
    weights = np.load(os.path.join(folder, about["prior"]))
    model.load_state_dict({name: torch.from_numpy(weights[name]).float() for name in weights})
    model = frozen(model, "cpu")
    metrics, size, table = Metrics("cpu"), about["image_size"], about["hyperparameters"]
    x = (
        torch.from_numpy(golden["image"].astype(np.float64) / 255 * 2 - 1)
        .float()
        .permute(2, 0, 1)[None]
    )

    for name, config in about["tasks"].items():
        if name not in tasks:
            continue
        for method in PAPER:
            row = load_row(load_method(method), name)
            h = row.hyperparameters
            h = dataclasses.replace(
                h,
                outer=about["outer"],
                inner=about["inner"],
                lr_nu=table["lr_nu"],
                lr_z=table["lr_z"][method][name],
                chain_steps=about["ddim_steps"],
            )
            if method == "dmilo-pgd":
                steps = about["pgd_inner"] if h.gradient_steps > 1 else 1
                h = dataclasses.replace(h, lr_x=table["lr_x"][name], gradient_steps=steps)
            row = dataclasses.replace(row, hyperparameters=h)
            operator, noise = load_measurement(config, "golden", (size, size), size)
            rng = BatchRandom([about["seed"]])
            problem = simulate(["image"], x, operator, noise, rng).problem
            if method == "dmilo":
                yield f"{name}_y", problem.y, golden[f"{name}_y"], 1e-6
            (z_0,) = draw_latents(rng, x.shape[1:], row, "cpu")
            iterates = load_method(method).solver(
                Chain(model, h.chain_steps, rng), problem.operator, problem.y, z_0, h, silent
            )
            next(iterates)  # the init
            psnrs = []
            for i, (iterate, X, *_) in enumerate(iterates):
                yield (
                    f"{method}_{name} {iterate}",
                    X,
                    golden[f"{method}_{name}_X"][i],
                    3e-4 if i == 0 else 3e-3,
                )
                psnrs.append(metrics(X[0], x[0])["psnr"])
            yield (
                f"{method}_{name}_psnr",
                np.array(psnrs),
                np.array(about[f"{method}_{name}_psnr"]),
                0.02,
            )


def report(name, ours, golden, tolerance, reduce):
    """Print a row; is it within its tolerance?"""
    ours = np.asarray(ours.detach() if isinstance(ours, torch.Tensor) else ours)
    golden = np.asarray(golden)
    error = math.inf
    if ours.size == golden.size:
        error = float(
            reduce(np.abs(ours.astype(np.float64).ravel() - golden.astype(np.float64).ravel()))
        )
    ok = error <= tolerance
    print(
        f"{name:<34} error {error:9.2e}  tolerance {tolerance:7.1e}  {'ok' if ok else 'FAILED'}",
        flush=True,
    )
    return ok


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, help="the seed S of units.npz (default 0)")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, help="only these (default: all)"
    )
    args = parser.parse_args()
    golden, about = (
        np.load(f"{args.folder}/units.npz"),
        json.load(open(f"{args.folder}/units.json")),
    )
    results = []
    for name, ours, tolerance in unit_rows(args.folder, args.seed) if "units" in args.only else ():
        reference = golden[name] if name in golden else about[name]
        results.append(report(name, ours, reference, tolerance, np.max))
    for name, ours, reference, tolerance in trajectory_rows(args.folder, args.only):
        results.append(
            report(name, ours, reference, tolerance, np.max if name.endswith("psnr") else np.mean)
        )
    print(f"{sum(results)} of {len(results)} rows ok")
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
