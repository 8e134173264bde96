"""What a method costs: evaluations, time and memory, with weights as they are first drawn, for their values do not matter to the
clock."""

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
from experiment.presets import load_hyperparameters
from guided_diffusion.ddim import TRAINING_STEPS, Chain
from guided_diffusion.errors import errors_of_usual_pictures
from guided_diffusion.prior import build_model, frozen, load_model_config
from solvers.ilo import identity, optimise_layer
from solvers.least_squares import silent
from solvers.search import search
from util.config import Section, config_path, load_yaml
from util.devices import compile_network, keep_memory
from util.rng import BatchRandom

THROUGH_A_FEW_LAYERS = (
    "dmplug",
    "dmilo",
    "dmilo-pgd",
)  # the methods whose memory may grow with the chain


def fetch(step, steps, loss):
    """The on_step of the published code: it waits for every loss."""
    loss.item()


def inner_step(config_file, batch, precision, published, compiled, device):
    """A function that does one inner step of the last layer: ours, perhaps with the network compiled, or that of the published
    code made of the same modules."""
    config = load_model_config(config_file)
    if published:
        model = build_model({**config, "use_checkpoint": True}, config_file).eval().to(device)
    else:
        model = frozen(build_model(config, config_file), device, precision)
    g = Chain(compile_network(model, device) if compiled else model, 3, rng=None)
    z = BatchRandom(range(batch)).randn((3, config["image_size"], config["image_size"]), device)
    h = load_hyperparameters(load_method("dmilo"), "default", inner=1)
    on_step = fetch if published else silent

    def step():
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        optimise_layer(g[2], identity, torch.zeros_like(z), z, torch.zeros_like(z), h, on_step)

    return step


def solver_run(config_file, method, steps, device):
    """A function that runs a method for one outer iteration of two steps a layer."""
    config = load_model_config(config_file)
    model = frozen(build_model(config, config_file), device)
    method = load_method(method)
    h = load_hyperparameters(method, "default", outer=1, inner=2)
    g = Chain(model, steps, rng=None)
    z_0 = BatchRandom([0]).randn((3, config["image_size"], config["image_size"]), device)
    return lambda: list(method.solver(g, identity, torch.zeros_like(z_0), z_0, h, silent))


def count_evaluations(method, preset, task, **given):
    """How many network evaluations an image takes: the method runs on a network that costs nothing. given: settings other than
    the preset's."""
    method = load_method(method)
    h = load_hyperparameters(method, task, preset, **given)
    free = lambda z, t: z
    free.errors = errors_of_usual_pictures()
    g = Chain(free, h.chain_steps, BatchRandom([0]), layers=h.layers)
    latents = [torch.randn(1, 3, 4, 4) for _ in range(max(1, h.searches))]
    for _ in search(method.solver, g, identity, latents[0], latents, h, silent):
        pass
    return g.evaluations


def peak_of_this_process():
    """The peak resident memory of this process so far, GB."""
    if os.path.exists(
        "/proc/self/status"
    ):  # Linux, where getrusage would begin at the peak of the parent process
        with open("/proc/self/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) / 1e6
    import resource  # not on Windows, where only this figure is missing

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1e9 if sys.platform == "darwin" else 1e6
    )


MADE = []  # in a process of its own: what `make_and_call` has made there


def call_again():
    """Seconds of one more call of what was made in this process."""
    return seconds(MADE[0], torch.device("cpu"))


def make_and_call(make, threads, keeping):
    """The peak memory of this process after a call of make(device). keeping: whether it keeps freed memory (`keep_memory`)."""
    torch.set_num_threads(threads)
    if keeping:
        keep_memory()
    MADE.append(make(torch.device("cpu")))
    MADE[0]()
    return peak_of_this_process()


def process_of_its_own():
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def peak_memory(make, device):
    """Peak memory in GB of what make(device) gives: a fresh process' on the CPU, the allocator's on a GPU. Raises
    torch.OutOfMemoryError, on a CPU BrokenProcessPool, where it does not fit."""
    if device.type == "cpu":
        with process_of_its_own() as pool:
            return pool.submit(make_and_call, make, torch.get_num_threads(), True).result()
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


def compare(makes, keeping, repeats, device):
    """(median seconds, peak GB) of each of the functions that makes(device) give, called in turns. keeping: for each, whether
    freed memory is kept, which matters on a CPU only; there each has a process of its own."""
    if device.type == "cpu":
        pools = [process_of_its_own() for _ in makes]
        started = [(make, torch.get_num_threads(), keep) for make, keep in zip(makes, keeping)]
        peaks = [pool.submit(make_and_call, *one).result() for pool, one in zip(pools, started)]
        calls = [lambda pool=pool: pool.submit(call_again).result() for pool in pools]
    else:
        peaks = [
            peak_memory(make, device) for make in makes
        ]  # before any time: what is timed stays in memory
        functions = [make(device) for make in makes]
        for function in functions:
            function()
        calls = [functools.partial(seconds, function, device) for function in functions]
    times = [[call() for call in calls] for _ in range(repeats)]
    if device.type == "cpu":
        for pool in pools:
            pool.shutdown()
    return [(statistics.median(measured), peak) for measured, peak in zip(zip(*times), peaks)]


def load_memory_table(path):
    """-> (dataset, steps, published) of a table file with the key `memory`. Raises UserError for anything wrong."""
    section = Section(load_yaml(path), path)
    memory = section.section("memory")
    dataset = memory.take("dataset", str)
    possible = lambda values: (
        values and all(type(value) is int and 1 <= value <= TRAINING_STEPS for value in values)
    )
    steps = memory.take(
        "steps", list, possible, f"a list of numbers of DDIM steps, 1 … {TRAINING_STEPS}"
    )
    by_steps = lambda methods: all(isinstance(figures, dict) for figures in methods.values())
    published = section.take(
        "published", dict, by_steps, "figures by method and number of steps", {}
    )
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
    return ["DDIM steps"] + [
        cell for method in THROUGH_A_FEW_LAYERS for cell in (f"{method} GB", "published")
    ], rows
