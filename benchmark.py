"""Speed, memory, quality and a prior's loss: what is compared is measured in turns, medians and ratios are printed.

    python benchmark.py inner --dataset demo --batch-size 1 2 4 8 --cuda -1      # one step of a layer's optimisation
    python benchmark.py inner --dataset celeba --precision fp32 bf16 --cuda 0
    python benchmark.py memory --dataset demo --steps 1 2 3 4 --cuda -1          # peak memory by the length of the chain
    python benchmark.py quality --data faces/ -n 40 -bn 32 --cuda -1             # PSNR against evaluations and seconds
    python benchmark.py loss --data faces/ -n 32 --cuda -1                       # how well a prior predicts the noise

`inner` and `memory` need no checkpoint. `inner` compares with the step of the published code, made of the same modules: it
computes the weights' gradients, computes attention again in the backward pass and fetches every loss. On a CPU memory is
the peak of a process of its own, PyTorch included. `quality` runs the scripts, which go on with what is in --out already,
and adds quality.md and quality.png there.
"""
import functools
import gc
import importlib
import itertools
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import torch
from tqdm import tqdm

from baselines.daps import DAPSHyperparameters, daps
from baselines.dmplug import DMPlugHyperparameters, dmplug
from baselines.dps import DPSHyperparameters, dps
from baselines.reddiff import REDDiffHyperparameters, reddiff
from dmilo import dmilo
from guided_diffusion.ddim import Chain, linear_alphas_cumprod
from guided_diffusion.prior import build_model, frozen, load_model_config, load_prior
from reproduce import Job, command, folder, markdown
from util.cli import Parser, config_path, exit_on_user_error, number
from util.config import Section, load_yaml
from util.files import UserError, atomic, write_text
from util.images import image_names, list_images, load_image
from util.ilo import Hyperparameters, identity, optimise_layer
from util.recorder import finished_records
from util.rng import BatchRandom
from util.runner import choose_device, load_hyperparameters
from util.start import search, silent

pgd = importlib.import_module("dmilo-pgd")
SOLVERS = {
    "dmplug": (dmplug, DMPlugHyperparameters),
    "dmilo": (dmilo, Hyperparameters),
    "dmilo-pgd": (pgd.dmilo_pgd, pgd.PGDHyperparameters),
    "dps": (dps, DPSHyperparameters),
    "reddiff": (reddiff, REDDiffHyperparameters),
    "daps": (daps, DAPSHyperparameters),
}
THROUGH_A_FEW_LAYERS = ("dmplug", "dmilo", "dmilo-pgd")
RUNS = ["least_squares/tuned", "dmplug/tuned", "dmilo/paper", "dmilo/fast", "dmilo-pgd/paper", "dmilo-pgd/fast"]
STYLES = [{"marker": marker, "linestyle": line} for marker, line in zip("os^Dv<>P*X", ["-", "--", "-.", ":", "-"] * 2)]
TASKS = ["inpainting", "super_resolution", "gaussian_deblur", "motion_deblur"]
LOSS_TIMESTEPS = (100, 142, 200, 250, 333, 666, 999)  # last layers of chains of 10, 7, 5 and 4 steps; all of 3


def fetch(step, steps, loss):
    """The on_step of the published code: it waits for every loss."""
    loss.item()


def inner_step(config_file, batch, precision, published, device):
    """A function that does one inner step of the last layer, with weights as they are first drawn: their values do not
    matter to the clock."""
    config = load_model_config(config_file)
    if published:
        model = build_model({**config, "use_checkpoint": True}, config_file).eval().to(device)
    else:
        model = frozen(build_model(config, config_file), device, precision)
    g = Chain(model, 3, rng=None)
    z = BatchRandom(range(batch)).randn((3, config["image_size"], config["image_size"]), device)
    h = load_hyperparameters("configs/dmilo.yaml", "default", Hyperparameters, inner=1)
    on_step = fetch if published else silent

    def step():
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        optimise_layer(g[2], identity, torch.zeros_like(z), z, torch.zeros_like(z), h, on_step)

    return step


def solver_run(config_file, method, steps, device):
    """A function that runs a method for one outer iteration of two steps a layer."""
    config = load_model_config(config_file)
    model = frozen(build_model(config, config_file), device)
    solver, kind = SOLVERS[method]
    given = {"gradient_steps": 1} if method == "dmilo-pgd" else {}
    h = load_hyperparameters(f"configs/{method}.yaml", "default", kind, outer=1, inner=2, **given)
    g = Chain(model, steps, rng=None)
    z_0 = BatchRandom([0]).randn((3, config["image_size"], config["image_size"]), device)
    return lambda: list(solver(g, identity, torch.zeros_like(z_0), z_0, h, silent))


def count_evaluations(method, preset, task, **given):
    """How many network evaluations an image takes: the method runs on a network that costs nothing. given: settings other than
    the preset's."""
    if method not in SOLVERS:  # it has no use for the network
        return 0
    solver, kind = SOLVERS[method]
    h = load_hyperparameters(f"configs/{method}.yaml", task, kind, preset, **given)
    g = Chain(lambda z, t: z, h.chain_steps, BatchRandom([0]), layers=h.layers)
    latents = [torch.randn(1, 3, 4, 4) for _ in range(h.starts)]
    for _ in search(solver, g, identity, latents[0], latents, h, silent):
        pass
    return g.evaluations


def peak_in_process(make, threads):
    """The peak resident memory of this process, GB, after a call of what make() gives."""
    torch.set_num_threads(threads)
    make(torch.device("cpu"))()
    if os.path.exists("/proc/self/status"):  # Linux, where getrusage would begin at the peak of the parent process
        with open("/proc/self/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) / 1e6
    import resource  # not on Windows, where only this figure is missing

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def peak_memory(make, device):
    """Peak memory in GB of what make(device) gives: a fresh process' on the CPU, the allocator's on a GPU. Raises
    torch.OutOfMemoryError, on a CPU BrokenProcessPool, where it does not fit."""
    if device.type == "cpu":
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(peak_in_process, make, torch.get_num_threads()).result()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    make(device)()
    return torch.cuda.max_memory_allocated(device) / 1e9


def seconds(function, device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def inner(args, device):
    config_file = config_path("dataset", args.dataset, "configs/model_config_{}.yaml")
    # The published code leaves TF32 as PyTorch has it: on.
    kinds = [("published", "tf32" if device.type == "cuda" else "fp32"), *(("ours", precision) for precision in args.precision)]
    makes = {
        batch: [functools.partial(inner_step, config_file, batch, p, kind == "published") for kind, p in kinds]
        for batch in args.batch_size
    }
    # All memory before any time: on a GPU what is timed stays in memory.
    memories = {batch: [peak_memory(make, device) for make in makes[batch]] for batch in makes}
    rows = []
    for batch, memory in memories.items():
        steps = [make(device) for make in makes[batch]]
        for step in steps:
            step()
        times = [[] for _ in steps]
        for _ in range(args.repeats):
            for step, measured in zip(steps, times):
                measured.append(seconds(step, device))
        medians = [statistics.median(measured) for measured in times]
        for (kind, precision), taken, peak in zip(kinds, medians, memory):
            rows.append([
                str(batch), kind, precision, f"{1000 * taken:.0f}", f"{1000 * taken / batch:.0f}", f"{taken / medians[0]:.2f}",
                f"{peak:.2f}", f"{peak / memory[0]:.2f}",
            ])
    header = ["batch", "step", "precision", "ms", "ms an image", "ratio", "peak GB", "ratio"]
    print(f"{args.dataset}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}, median of {args.repeats}\n")
    print("\n".join(markdown(header, rows)))


def load_memory_table(path):
    """-> (dataset, steps, published) of a table file with the key `memory`. Raises UserError for anything wrong."""
    section = Section(load_yaml(path), path)
    memory = section.section("memory")
    dataset = memory.take("dataset", str)
    positive = lambda values: values and all(type(value) is int and value > 0 for value in values)
    steps = memory.take("steps", list, positive, "a list of numbers of DDIM steps")
    by_steps = lambda methods: all(isinstance(figures, dict) for figures in methods.values())
    published = section.take("published", dict, by_steps, "figures by method and number of steps", {})
    section.finish()
    return dataset, steps, published


def memory_table(dataset, all_steps, published, device):
    """Header and rows, as texts, of each method's peak memory beside what is `published`, {method: {steps: GB}}."""
    config_file = config_path("dataset", dataset, "configs/model_config_{}.yaml")
    rows = []
    for steps in tqdm(all_steps, desc="DDIM steps", disable=None):
        row = [str(steps)]
        for method in THROUGH_A_FEW_LAYERS:
            try:
                found = f"{peak_memory(functools.partial(solver_run, config_file, method, steps), device):.2f}"
            except (torch.OutOfMemoryError, BrokenProcessPool):
                found = "out of memory"
            row += [found, str(published.get(method, {}).get(steps, ""))]
        rows.append(row)
    return ["DDIM steps"] + [cell for method in THROUGH_A_FEW_LAYERS for cell in (f"{method} GB", "published")], rows


def memory(args, device):
    _, _, published = load_memory_table("configs/tables/memory.yaml")
    lines = markdown(*memory_table(args.dataset, args.steps, published, device))
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
    model = load_prior(config, config_file, device)
    data = args.data or f"data/{args.dataset}"
    files = list_images(data)[args.begin_number : args.number]
    if not files:
        raise UserError(f"-n {args.number} -bn {args.begin_number} choose none of the images in {data}")
    alphas_cumprod = linear_alphas_cumprod()
    losses = []
    for n, file in enumerate(tqdm(files, unit="image", disable=None)):
        x0 = load_image(file, config["image_size"])
        rng = BatchRandom([n])
        errors = []
        for t in LOSS_TIMESTEPS:
            noise = rng.randn(x0.shape[1:])
            x_t = alphas_cumprod[t].sqrt() * x0 + (1 - alphas_cumprod[t]).sqrt() * noise
            eps = model(x_t.to(device), torch.full((1,), float(t), device=device))[:, :3]
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
    exit_on_user_error(main)
