"""Config -> prior and operator -> solver -> recorder: what both scripts do around their generator of iterates."""
import dataclasses
import glob
import os
import sys
import time

import torch
from tqdm import tqdm

from guided_diffusion.ddim import Chain
from guided_diffusion.measurements import load_measurement
from guided_diffusion.prior import load_model_config, load_prior
from util.cli import exit_on_user_error, parse_arguments
from util.config import Section, load_yaml
from util.files import UserError
from util.images import list_images, load_image
from util.metrics import Metrics
from util.recorder import ImageRecord, write_grid, write_summary
from util.rng import BatchRandom
from util.start import search


def load_hyperparameters(path, task, kind, preset=None, **given):
    """The row of `task` (or `default`) in a preset of configs/<method>.yaml, its first one if None, as the dataclass `kind`;
    what is `given`, and not None, replaces its value. Raises UserError for a preset that is not there and for a value
    that is missing, unknown or out of range."""
    presets = load_yaml(path)
    preset = preset or next(iter(presets))
    if preset not in presets:
        raise UserError(f"--preset {preset}: {path} has {', '.join(map(str, presets))}")
    section = Section(presets, path).section(preset)
    table = section.values
    tasks = {os.path.basename(p)[: -len("_config.yaml")] for p in glob.glob("configs/tasks/**/*_config.yaml", recursive=True)}
    for row in table:
        if row not in tasks | {"default"}:
            raise UserError(f"{path}: the row {row} is for no task in configs/tasks/; correct its name or remove it")
    section = section.section(task if task in table else "default")
    values = {}
    for field in dataclasses.fields(kind):
        low = 1 if field.type is int else 0
        hint = "true or false" if field.type is bool else f"{field.type.__name__}, {low} or more"
        default = None if field.default is dataclasses.MISSING else field.default
        values[field.name] = section.take(field.name, field.type, lambda value: value >= low, hint, default)
    section.finish()
    return kind(**{**values, **{name: value for name, value in given.items() if value is not None}})


def choose_device(cuda, tf32=False):
    """The GPU of that number or, where there is none, the CPU with a line of warning; -1 is the CPU without it."""
    if 0 <= cuda < torch.cuda.device_count():
        # The same figures in every run and, but for rounding, on every device: as published, and TF32 only if asked for.
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        return torch.device("cuda", cuda)
    if cuda >= 0:
        print(f"warning: no GPU {cuda} here, running on the CPU (--cuda -1 says so without this line)", file=sys.stderr)
    return torch.device("cpu")


CPU_BATCH_PIXELS = 4 * 64 * 64  # up to here a larger batch makes the CPU faster (benchmark.py inner)
GPU_BATCH = 64  # at most; beyond it no GPU gets faster


def choose_batch_size(model, size, device):
    """How many images of `size` pixels a side are restored at once if nobody says: on a GPU as many as its free memory
    holds, by the memory that a step with one image takes."""
    if device.type == "cpu":
        return max(1, CPU_BATCH_PIXELS // size**2)
    free, _ = torch.cuda.mem_get_info(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    x = torch.zeros(1, 3, size, size, device=device, requires_grad=True)
    model(x, torch.zeros(1, device=device)).sum().backward()
    taken = torch.cuda.max_memory_allocated(device) - before
    return max(1, min(GPU_BATCH, int(0.8 * free / taken)))


def image_names(paths):
    """What the images are called in a run: their file names without suffix. Raises UserError if two are called alike."""
    names, seen = [os.path.splitext(os.path.basename(path))[0] for path in paths], {}
    for name, path in zip(names, paths):
        other = seen.setdefault(name.lower(), path)  # some file systems do not tell cases apart
        if other != path:
            raise UserError(f"{path}: would share its folder of results with {other}; rename one of them")
    return names


def new_directory(path):
    """Make the run's folder and return its path. Raises UserError where it is there already or cannot be made."""
    try:
        os.makedirs(path)
    except FileExistsError as error:
        raise UserError(f"{path}: is there already; choose another --run NAME") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be made ({error.strerror}); choose another --logdir") from error
    return path


def measure(operator, noise, model, x, seeds, h, eta=0.0):
    """Everything random of a batch x (B, 3, H, W), in the published order: the operator's draws, the noise, the latents.

    Returns (A, y, g, latents): the operator as a function, the measurements, the chain that h (`util.start.Start`) asks
    for, and standard normal (B, 3, H, W), the first of which the published method begins with.
    """
    rng = BatchRandom(seeds)
    A = operator.draw(rng, x.device)
    # The pixel order of an image file, in which the published code keeps its images: the noise depends on it.
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        y = noise(A(x), rng)
    g = Chain(model, h.chain_steps, rng, eta, h.layers)
    # The published code draws N + 1 latents before the chain overwrites all but the first; so does this, or the stream
    # from which eta > 0 goes on drawing would be another one.
    latents = [rng.randn(x.shape[1:], x.device) for _ in range(max(h.chain_steps + 1, h.starts))]
    return A, y, g, latents


class Progress:
    """Bars for images, outer iterations and the steps of a layer (or of the gradient), on a terminal only."""

    def __init__(self, images, outer):
        bar = dict(disable=None, leave=False, dynamic_ncols=True)
        self.images = tqdm(total=images, desc="images", unit="image", **bar)
        self.outer = tqdm(total=outer, desc="outer", **bar)
        self.inner = tqdm(desc="inner", unit="step", **bar)
        self.shown = 0.0

    def on_step(self, step, steps, loss):
        if step == 1:
            self.inner.reset(total=steps)
        self.inner.update()
        # Twice a second at most, for fetching the loss makes a GPU wait.
        if not self.inner.disable and time.monotonic() - self.shown > 0.5:
            self.inner.set_postfix(loss=f"{loss.item():.5f}")
            self.shown = time.monotonic()

    def on_iterate(self, name):
        if name == "init":
            self.outer.reset()
        self.outer.update(name.endswith("after"))

    def on_image(self, name, record):
        self.images.update()
        psnr, best = record["psnr"][-1], max(record["psnr"])
        tqdm.write(f"{name}: final PSNR {psnr:.2f} dB, best {best:.2f} dB, {record['seconds']:.0f} s")

    def close(self):
        for bar in (self.inner, self.outer, self.images):
            bar.close()


def restore_batch(solver, h, progress, A, y, g, latents, records):
    """Run the solver on the measurements y of a batch; every iterate goes to the images' records. Returns their contents."""
    seconds, started = 0.0, time.perf_counter()
    for name, X in search(solver, g, A, y, latents, h, progress.on_step):
        with torch.no_grad():
            residual = (A(X) - y).flatten(1).square().mean(1).sqrt().tolist()  # waits for the device to finish
        seconds += time.perf_counter() - started  # not the recording
        for record, image, rms in zip(records, X, residual):
            record.add(name, image, rms, g.evaluations, seconds / len(y))
        progress.on_iterate(name)
        started = time.perf_counter()
    return [record.finish(seconds / len(y), g.evaluations) for record in records]


def run(doc, method, solver, hyperparameters, uses_prior):
    args = parse_arguments(doc, method)
    config = load_model_config(args.model_config)
    task = load_yaml(args.task_config)
    operator, noise = load_measurement(task, args.task_config, config["image_size"])
    h = load_hyperparameters(
        f"configs/{method}.yaml", args.task, hyperparameters, args.preset,
        outer=args.outer, inner=args.inner, chain_steps=args.custom_steps,
    )
    end = None if args.end_number == -1 else args.end_number
    paths = list_images(args.data)[: args.number][args.begin_number : end]
    if not paths:
        raise UserError(f"-n {args.number} -bn {args.begin_number} -en {args.end_number} choose none of the images in {args.data}")
    names = image_names(paths)
    images = [load_image(path, config["image_size"]) for path in paths]
    device = choose_device(args.cuda, args.precision == "tf32")
    model = load_prior(config, args.model_config, device, args.precision) if uses_prior else None
    args.batch_size = args.batch_size or (choose_batch_size(model, config["image_size"], device) if uses_prior else len(paths))
    if args.compile:
        model = torch.compile(model)
    directory = new_directory(os.path.join(args.logdir, args.dataset, args.task, args.run))
    metrics = Metrics(device)

    head = {"method": method, "dataset": args.dataset, "task": args.task}
    settings = {**vars(args), "device": str(device), "hyperparameters": dataclasses.asdict(h), "model": config, **task}
    records = {}
    progress = Progress(len(paths), h.outer * h.starts)
    for start in range(0, len(paths), args.batch_size):
        batch = names[start : start + args.batch_size]
        x = torch.cat(images[start : start + args.batch_size]).to(device)
        A, y, g, latents = measure(operator, noise, model, x, [args.seed] * len(x), h, args.eta)
        unfinished = [ImageRecord(directory, *of_one, metrics) for of_one in zip(batch, x, y)]
        records.update(zip(batch, restore_batch(solver, h, progress, A, y, g, latents, unfinished)))
        summary = write_summary(directory, head, records, settings)
        write_grid(directory, records)
        for name in batch:
            progress.on_image(name, records[name])
    progress.close()

    final, best = summary["final"]["psnr"]["mean"], summary["best"]["psnr"]["mean"]
    print(f"{method}, {args.task}, {len(records)} images: PSNR {final:.2f} dB (final), {best:.2f} dB (best, chosen against the ground truth)")
    print(f"wrote {directory}/ (log.txt, summary.json, grid.png, images/, record/)")


def main(doc, method, solver, hyperparameters, uses_prior=True):
    """The whole of dmilo.py and dmilo-pgd.py but the method itself.

    doc: what --help shows. solver: called as solver(g, operator, y, z_0, h, on_step), a generator of (name, X), "init" first
    then what is recorded; the last of an outer iteration has a name ending in "after". hyperparameters: the dataclass
    of the rows in configs/<method>.yaml. uses_prior: False for a method that works without the chain.
    """
    exit_on_user_error(lambda: run(doc, method, solver, hyperparameters, uses_prior))
