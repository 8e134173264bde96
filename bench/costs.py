"""NFE, time and memory of the methods, with untrained weights: their values do not affect cost."""

import functools
import gc
import multiprocessing
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import torch
from tqdm import tqdm

from experiment.methods import load_method
from experiment.presets import load_row
from guided_diffusion.ddim import TRAINING_STEPS, Chain
from guided_diffusion.errors import errors_of_natural_images
from guided_diffusion.prior import build_model, frozen, load_model_config
from solvers.ilo import identity, optimise_layer
from solvers.least_squares import silent
from solvers.search import search
from util.config import Section, config_path, load_yaml
from util.devices import compile_network, keep_memory
from util.files import project
from util.rng import BatchRandom
from util.tables import markdown

THROUGH_LAYERS = ("dmplug", "dmilo", "dmilo-pgd")  # methods whose memory may grow with the chain
INNER_HEADER = ["batch", "step", "precision", "ms", "ms per image", "ratio", "peak GB", "ratio"]


def fetch(step, steps, loss):
    """The on_step of the published code: it waits for every loss."""
    loss.item()


def inner_step(config_file, batch, precision, published, compiled, device):
    """A function that performs one inner step of the last layer: ours, with the network compiled if
    asked, or that of the published code made of the same modules."""
    config = load_model_config(config_file)
    if published:
        model = build_model({**config, "use_checkpoint": True}, config_file).eval().to(device)
    else:
        model = frozen(build_model(config, config_file), device, precision)
    g = Chain(compile_network(model, device) if compiled else model, 3, rng=None)
    z = BatchRandom(range(batch)).randn((3, config["image_size"], config["image_size"]), device)
    h = load_row(load_method("dmilo"), "default", given={"inner": 1}).hyperparameters
    on_step = fetch if published else silent

    def step():
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        optimise_layer(g[2], identity, torch.zeros_like(z), z, torch.zeros_like(z), h, on_step)

    return step


def solver_run(config_file, method, steps, device):
    """A function that runs a method for one outer iteration of two steps per layer."""
    config = load_model_config(config_file)
    g = Chain(frozen(build_model(config, config_file), device), steps, rng=None)
    method = load_method(method)
    h = load_row(method, "default", given={"outer": 1, "inner": 2})
    z_0 = BatchRandom([0]).randn((3, config["image_size"], config["image_size"]), device)
    y = torch.zeros_like(z_0)
    return lambda: list(search(method.solver, g, identity, y, [z_0], h, silent))


def count_nfe(method, preset, task, dataset=None, given=None):
    """NFE per image, counted with a network that costs nothing. See `load_row`."""
    method = load_method(method)
    h = load_row(method, task, preset, dataset=dataset, given=given)

    def free(x, t):
        return x

    free.errors = errors_of_natural_images()
    g = Chain(free, h.chain_steps, BatchRandom([0]), layers=h.layers)
    latents = [torch.randn(1, 3, 4, 4) for _ in range(h.latents)]
    for _ in search(method.solver, g, identity, latents[0], latents, h, silent):
        pass
    return g.nfe


def peak_of_this_process():
    """The peak resident memory of this process so far, in GB."""
    if os.path.exists("/proc/self/status"):  # Linux: getrusage includes the parent's peak there
        with open("/proc/self/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) / 1e6
    import resource  # not on Windows, which has no such figure

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)


MADE = []  # in a measuring process: the function that `make_and_call` made


def call_again():
    """Seconds of one more call of the function made in this process."""
    return seconds(MADE[0], torch.device("cpu"))


def make_and_call(make, threads, keeping):
    """The peak memory of this process in GB after a call of make(device).

    keeping: whether freed memory is kept (`keep_memory`).
    """
    torch.set_num_threads(threads)
    if keeping:
        keep_memory()
    MADE.append(make(torch.device("cpu")))
    MADE[0]()
    return peak_of_this_process()


def fresh_process():
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def peak_memory(make, device):
    """Peak memory in GB of a call of make(device): of a fresh process on the CPU, of the allocator
    on a GPU. Raises torch.OutOfMemoryError, on the CPU BrokenProcessPool, if memory is short."""
    if device.type == "cpu":
        with fresh_process() as pool:
            return pool.submit(make_and_call, make, torch.get_num_threads(), True).result()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    make(device)()
    return torch.cuda.max_memory_allocated(device) / 1e9


def seconds(function, device):
    """Wall-clock seconds of a call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def compare(makes, keeping, repeats, device):
    """(median seconds, peak GB) of the functions that makes(device) return, called in turns.

    keeping: for each, whether freed memory is kept, which matters on a CPU only; there each runs in
    its own process.
    """
    if device.type == "cpu":
        pools = [fresh_process() for _ in makes]
        jobs = [(make, torch.get_num_threads(), keep) for make, keep in zip(makes, keeping)]
        peaks = [pool.submit(make_and_call, *job).result() for pool, job in zip(pools, jobs)]
        calls = [lambda pool=pool: pool.submit(call_again).result() for pool in pools]
    else:
        peaks = [peak_memory(make, device) for make in makes]  # first: timed functions stay
        functions = [make(device) for make in makes]
        for function in functions:
            function()
        calls = [functools.partial(seconds, function, device) for function in functions]
    times = [[call() for call in calls] for _ in range(repeats)]
    if device.type == "cpu":
        for pool in pools:
            pool.shutdown()
    return [(statistics.median(measured), peak) for measured, peak in zip(zip(*times), peaks)]


def inner_rows(args, config_file, batch, device):
    """Rows, as texts, for one inner step: the published code's, then ours in each precision."""
    # The published code keeps PyTorch's default, TF32 on, and glibc's handling of freed memory.
    kinds = [("published", "tf32" if device.type == "cuda" else "fp32")]
    if device.type == "cpu":
        kinds.append(("published, memory kept", "fp32"))
    kinds += [("ours", precision) for precision in args.precision]
    kinds += [("ours, compiled", precision) for precision in args.precision if args.compile]
    makes = []
    for kind, precision in kinds:
        variant = precision, kind.startswith("published"), kind.endswith("compiled")
        makes.append(functools.partial(inner_step, config_file, batch, *variant))
    figures = compare(makes, [kind != "published" for kind, _ in kinds], args.repeats, device)
    rows = []
    for (kind, precision), (taken, peak) in zip(kinds, figures):
        times = f"{1000 * taken:.0f}", f"{1000 * taken / batch:.0f}", f"{taken / figures[0][0]:.2f}"
        memory = f"{peak:.2f}", f"{peak / figures[0][1]:.2f}"
        rows.append([str(batch), kind, precision, *times, *memory])
    return rows


def inner(args, device):
    """Print time and memory of an inner step by batch size and precision."""
    config_file = config_path("dataset", args.dataset, "configs/model_config_{}.yaml")
    rows = [
        row for batch in args.batch_size for row in inner_rows(args, config_file, batch, device)
    ]
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{args.dataset}, {device}, {threads}, median of {args.repeats}\n")
    print("\n".join(markdown(INNER_HEADER, rows)))


def is_steps(values):
    """Whether a list holds numbers of DDIM steps only, at least one."""
    return values and all(type(value) is int and 1 <= value <= TRAINING_STEPS for value in values)


def load_memory_table(path):
    """-> (dataset, steps, published) of a table file with the key `memory`; published: {method:
    {steps: GB}}. Raises UserError for an invalid file."""
    section = Section(load_yaml(path), path)
    memory = section.section("memory")
    dataset = memory.take("dataset", str)
    hint = f"a list of numbers of DDIM steps, 1 … {TRAINING_STEPS}"
    steps = memory.take("steps", list, is_steps, hint)
    published = section.take("published", dict, hint="GB by method and number of steps", default={})
    for method in published:
        section.section("published").take(method, dict, hint="GB by number of steps")
    section.finish()
    return dataset, steps, published


def memory_table(dataset, all_steps, published, device):
    """Header and rows, as texts, of each method's peak memory beside the published, in GB."""
    config_file = config_path("dataset", dataset, "configs/model_config_{}.yaml")
    rows = []
    for steps in tqdm(all_steps, desc="DDIM steps", disable=None):
        row = [str(steps)]
        for method in THROUGH_LAYERS:
            make = functools.partial(solver_run, config_file, method, steps)
            try:
                peak = f"{peak_memory(make, device):.2f}"
            except (torch.OutOfMemoryError, BrokenProcessPool):
                peak = "out of memory"
            row += [peak, str(published.get(method, {}).get(steps, ""))]
        rows.append(row)
    return ["DDIM steps"] + [
        cell for method in THROUGH_LAYERS for cell in (f"{method} GB", "published")
    ], rows


def memory(args, device):
    """Print each method's peak memory by the length of the chain."""
    _, _, published = load_memory_table(project("configs/tables/memory.yaml"))
    lines = markdown(*memory_table(args.dataset, args.steps, published, device))
    print(f"{args.dataset}, {device}, one image; published: 256 x 256 on an RTX 4090\n")
    print("\n".join(lines))
