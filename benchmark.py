"""Speed, memory, quality and a prior's loss: what is compared is measured in turns, medians and ratios are printed.

    python benchmark.py inner --dataset demo --batch-size 1 2 4 8 --cuda -1      # one step of a layer's optimisation
    python benchmark.py inner --dataset celeba --precision fp32 bf16 --cuda 0
    python benchmark.py memory --dataset demo --steps 1 2 3 4 --cuda -1          # peak memory by the length of the chain
    python benchmark.py quality --data faces/ -n 40 -bn 32 --cuda -1             # PSNR against evaluations and seconds
    python benchmark.py loss --data faces/ -n 32 --cuda -1                       # how well a prior predicts the noise

`inner` and `memory` need no checkpoint. `inner` compares with the step of the published code, made of the same modules: it
computes the weights' gradients, computes attention again in the backward pass and fetches every loss; on a CPU also told to keep
freed memory, as ours is. Memory is there the peak of a process of its own, PyTorch included. `quality` runs the scripts, which go on with what is in --out already,
and adds quality.md and quality.png there.
"""
import functools
import importlib
import itertools
import os
import statistics
import subprocess

import numpy as np
import torch
from tqdm import tqdm

from baselines.registry import BASELINES
from dmilo import dmilo
from experiment.arguments import Parser, config_path, number, run_script
from experiment.costs import compare, inner_step, load_memory_table, memory_table
from experiment.jobs import Job, command, folder
from experiment.recorder import finished_records
from guided_diffusion.ddim import linear_alphas_cumprod
from guided_diffusion.prior import load_model_config, load_prior
from guided_diffusion.tiles import AnySize
from solvers.ilo import Hyperparameters
from util.devices import choose_device
from util.files import UserError, atomic, write_text
from util.images import image_names, list_images, load_image
from util.rng import BatchRandom
from util.tables import markdown

pgd = importlib.import_module("dmilo-pgd")
SOLVERS = {"dmilo": (dmilo, Hyperparameters), "dmilo-pgd": (pgd.dmilo_pgd, pgd.PGDHyperparameters), **BASELINES}
THROUGH_A_FEW_LAYERS = {name: SOLVERS[name] for name in ("dmplug", "dmilo", "dmilo-pgd")}
INNER_HEADER = ["batch", "step", "precision", "ms", "ms an image", "ratio", "peak GB", "ratio"]
RUNS = ["least_squares/tuned", "dmplug/tuned", "dmilo/paper", "dmilo/fast", "dmilo-pgd/paper", "dmilo-pgd/fast"]
STYLES = [{"marker": marker, "linestyle": line} for marker, line in zip("os^Dv<>P*X", ["-", "--", "-.", ":", "-"] * 2)]
TASKS = ["inpainting", "super_resolution", "gaussian_deblur", "motion_deblur"]
LOSS_TIMESTEPS = (100, 142, 200, 250, 333, 666, 999)  # last layers of chains of 10, 7, 5 and 4 steps; all of 3


def inner_rows(config_file, batch, precisions, repeats, device):
    """Rows, as texts, of one inner step: the published code's and, in each precision, ours."""
    # The published code leaves TF32 as PyTorch has it, on, and freed memory as glibc has it.
    kinds = [("published", "tf32" if device.type == "cuda" else "fp32", False)]
    if device.type == "cpu":
        kinds.append(("published, memory kept", "fp32", True))
    kinds += [("ours", precision, True) for precision in precisions]
    makes = [functools.partial(inner_step, config_file, batch, precision, kind != "ours") for kind, precision, _ in kinds]
    figures = compare(makes, [keeping for *_, keeping in kinds], repeats, device)
    return [
        [str(batch), kind, precision, f"{1000 * taken:.0f}", f"{1000 * taken / batch:.0f}", f"{taken / figures[0][0]:.2f}",
         f"{peak:.2f}", f"{peak / figures[0][1]:.2f}"]
        for (kind, precision, _), (taken, peak) in zip(kinds, figures)
    ]


def inner(args, device):
    config_file = config_path("dataset", args.dataset, "configs/model_config_{}.yaml")
    rows = [row for batch in args.batch_size for row in inner_rows(config_file, batch, args.precision, args.repeats, device)]
    print(f"{args.dataset}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}, median of {args.repeats}\n")
    print("\n".join(markdown(INNER_HEADER, rows)))


def memory(args, device):
    _, _, published = load_memory_table("configs/tables/memory.yaml")
    lines = markdown(*memory_table(THROUGH_A_FEW_LAYERS, args.dataset, args.steps, published, device))
    print(f"{args.dataset}, {device}, one image; published: 256 x 256 on an RTX 4090\n")
    print("\n".join(lines))


def quality(args, device):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    data = args.data or f"data/{args.dataset}"
    names = image_names(list_images(data)[: args.number])[args.begin_number :]
    rows = []
    figure, panels = pyplot.subplots(2, len(args.tasks), figsize=(3.8 * len(args.tasks), 6.4), squeeze=False, sharey=True,
                                     layout="constrained")
    for task, column in zip(args.tasks, panels.T):
        for panel, cost in zip(column, ("network evaluations", "seconds")):
            panel.set(title=task, xlabel=f"{cost} an image", xscale="log")
            panel.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,g}"))
            panel.grid(alpha=0.3)
        for run, style in zip(args.runs, itertools.cycle(STYLES)):
            method, _, preset = run.partition("/")
            job = Job(args.dataset, data, args.number, task, method, preset, os.path.join(args.out, f"{method}-{preset}"))
            typed = command(job, args.cuda, ["-bn", str(args.begin_number)])
            code = subprocess.run(typed).returncode  # it knows what is finished; 1: an image has failed
            found = finished_records(folder(job))
            records = [found[name] for name in names if name in found and "failed" not in found[name]]
            if code > 1 or not set(names) <= set(found) or not records:
                raise UserError(f"{' '.join(typed)}: failed; its own message stands above")
            mean = lambda figure: statistics.mean(map(figure, records))
            evaluations, final = mean(lambda r: r["network_evaluations"]), mean(lambda r: r["psnr"][-1])
            figures = [f"{mean(lambda r: r['seconds']):.1f}", f"{final:.2f}", f"{mean(lambda r: max(r['psnr'])):.2f}",
                       f"{mean(lambda r: r['ssim'][-1]):.3f}"]
            rows.append([task, method, preset, f"{evaluations:.0f}", *figures])
            # Where an outer iteration ends; DMILO-PGD also records what it projects, which the next iterate leaves far behind.
            ends = [i for i, name in enumerate(records[0]["iterates"]) if name.endswith("after")]
            curve = {key: np.mean([record[key] for record in records], axis=0)[ends] for key in ("psnr", "evaluations", "elapsed")}
            for panel, cost in zip(column, ("evaluations", "elapsed")):
                if evaluations == 0:
                    panel.axhline(final, color="grey", linestyle=style["linestyle"], label=method)
                else:
                    panel.plot(curve[cost], curve["psnr"], markersize=4, alpha=0.8, label=f"{method}, {preset}", **style)
    for panel in panels[:, 0]:
        panel.set_ylabel("PSNR (dB)")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2 * len(args.tasks))
    header = ["task", "method", "preset", "evaluations", "s an image", "PSNR final", "PSNR best", "SSIM final"]
    lines = markdown(header, rows)
    write_text(os.path.join(args.out, "quality.md"), "\n".join(lines) + "\n")
    with atomic(os.path.join(args.out, "quality.png")) as tmp:
        figure.savefig(tmp, dpi=90)
    print("\n".join(lines))
    print(f"\nwrote {args.out}/quality.md and {args.out}/quality.png")


@torch.no_grad()
def loss(args, device):
    """The mean squared error of eps on images that are not for training, one draw of noise an image and timestep."""
    config_file = config_path("dataset", args.dataset, "configs/model_config_{}.yaml")
    config = load_model_config(config_file)
    eps_of = AnySize(load_prior(config, config_file, device))
    data = args.data or f"data/{args.dataset}"
    files = list_images(data)[args.begin_number : args.number]
    if not files:
        raise UserError(f"-n {args.number} -bn {args.begin_number} choose none of the images in {data}")
    alphas_cumprod = linear_alphas_cumprod()
    losses = []
    for n, file in enumerate(tqdm(files, unit="image", disable=None)):
        x0 = load_image(file)
        rng = BatchRandom([n])
        errors = []
        for t in LOSS_TIMESTEPS:
            noise = rng.randn(x0.shape[1:])
            x_t = alphas_cumprod[t].sqrt() * x0 + (1 - alphas_cumprod[t]).sqrt() * noise
            eps = eps_of(x_t.to(device), torch.full((1,), float(t), device=device))
            errors.append((eps.cpu() - noise).square().mean().item())
        losses.append(errors)
    print(f"{config['model_path']}, mean squared error of eps on {len(losses)} images\n")
    header = [f"t = {t}" for t in LOSS_TIMESTEPS]
    print("\n".join(markdown(header, [[f"{value:.5f}" for value in np.mean(losses, axis=0)]])))


def main():
    parser = Parser(__doc__)
    commands = parser.add_subparsers(
        required=True, metavar="inner|memory|quality|loss", parser_class=lambda **kw: Parser(__doc__)
    )
    for name, function in (("inner", inner), ("memory", memory), ("quality", quality), ("loss", loss)):
        sub = commands.add_parser(name)
        sub.set_defaults(function=function)
        sub.add_argument("--dataset", default="demo", help="which prior (default demo)")
        sub.add_argument("--cuda", type=number(int, -1), default=0, help="GPU number; -1: the CPU (default 0)")
        if name == "inner":
            sub.add_argument("--batch-size", type=number(int, 1), nargs="+", default=[1], help="(default 1)")
            sub.add_argument("--precision", choices=("fp32", "tf32", "bf16"), nargs="+", default=["fp32"], help="(default fp32)")
            sub.add_argument("--repeats", type=number(int, 1), default=9, help="steps of each (default 9)")
        elif name == "memory":
            sub.add_argument("--steps", type=number(int, 1, 1000), nargs="+", default=[1, 2, 3, 4], help="(default 1 2 3 4)")
        else:
            sub.add_argument("--data", help="folder of images (default data/<dataset>)")
            sub.add_argument("-n", "--number", type=number(int, 1), default=10, help="how many of them (default 10)")
            sub.add_argument("-bn", "--begin_number", type=number(int, 0), default=0, help="first of those to take (default 0)")
        if name == "quality":
            sub.add_argument("--tasks", nargs="+", default=TASKS, help=f"(default {' '.join(TASKS)})")
            sub.add_argument("--runs", nargs="+", default=RUNS, help=f"method/preset (default {' '.join(RUNS)})")
            sub.add_argument("--out", default="results/benchmark", help="(default results/benchmark)")
    args = parser.parse_args()
    args.function(args, choose_device(args.cuda))


if __name__ == "__main__":
    run_script(main)
