"""Config -> prior and operator -> solver -> recorder: what both scripts do around their generator of iterates."""
import dataclasses
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


def load_hyperparameters(path, task, kind, **given):
    """The row of `task` (or `default`) in configs/<method>.yaml as the dataclass `kind`; what is `given`, and not None,
    replaces its value. Raises UserError for a value that is missing, unknown or out of range."""
    table = load_yaml(path)
    section = Section(table, path).section(task if task in table else "default")
    values = {}
    for field in dataclasses.fields(kind):
        low = 1 if field.type is int else 0
        hint = "true or false" if field.type is bool else f"{field.type.__name__}, {low} or more"
        values[field.name] = section.take(field.name, field.type, lambda value: value >= low, hint)
    section.finish()
    return kind(**{**values, **{name: value for name, value in given.items() if value is not None}})


def choose_device(cuda):
    """The GPU of that number or, where there is none, the CPU with a line of warning; -1 is the CPU without it."""
    if cuda >= 0 and cuda < torch.cuda.device_count():
        return torch.device("cuda", cuda)
    if cuda >= 0:
        print(f"warning: no GPU {cuda} here, running on the CPU (--cuda -1 says so without this line)", file=sys.stderr)
    return torch.device("cpu")


def new_directory(path):
    """Make the run's folder and return its path. Raises UserError where it is there already or cannot be made."""
    try:
        os.makedirs(path)
    except FileExistsError as error:
        raise UserError(f"{path}: is there already; choose another --run NAME") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be made ({error.strerror}); choose another --logdir") from error
    return path


def first_latent(g, rng, x):
    """z_0, standard normal of x's shape and device."""
    # The published code draws all N + 1 latents before the chain overwrites N of them; so does this, or the stream from
    # which eta > 0 goes on drawing would be another one.
    return [rng.randn(x.shape[1:], x.device) for _ in range(len(g) + 1)][0]


class Progress:
    """Bars for images, outer iterations and inner steps, on a terminal only; the loss is fetched twice a second at most,
    for fetching it makes a GPU wait."""

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
        if not self.inner.disable and time.monotonic() - self.shown > 0.5:
            self.inner.set_postfix(loss=f"{loss.item():.5f}")
            self.shown = time.monotonic()

    def close(self):
        for bar in (self.inner, self.outer, self.images):
            bar.close()


def restore_batch(solver, model, operator, noise, x, args, h, progress, records_for):
    """Measure the images x (B, 3, H, W) and run the solver on the measurements.

    records_for(y) -> one ImageRecord an image. Returns the finished records' contents.
    """
    rng = BatchRandom(len(x), args.seed)
    # The order of the draws is the published one: the operator's, the noise, the latents.
    A = operator.draw(rng, x.device)
    with torch.no_grad():
        y = noise(A(x), rng)
    g = Chain(model, args.custom_steps, rng, args.eta)
    z_0 = first_latent(g, rng, x)
    records = records_for(y)
    seconds, started = 0.0, time.perf_counter()
    progress.outer.reset()
    for name, X in solver(g, A, y, z_0, h, progress.on_step):
        with torch.no_grad():
            residual = (A(X) - y).flatten(1).square().mean(1).sqrt().tolist()  # waits for the device to finish
        seconds += time.perf_counter() - started  # not the recording
        for record, image, rms in zip(records, X, residual):
            record.add(name, image, rms)
        progress.outer.update(name.endswith("after"))
        started = time.perf_counter()
    return [record.finish(seconds / len(x), g.evaluations) for record in records]


def run(doc, method, solver, hyperparameters):
    args = parse_arguments(doc, method)
    config = load_model_config(args.model_config)
    task = load_yaml(args.task_config)
    operator, noise = load_measurement(task, args.task_config, config["image_size"])
    h = load_hyperparameters(f"configs/{method}.yaml", args.task, hyperparameters, outer=args.outer, inner=args.inner)
    end = None if args.end_number == -1 else args.end_number
    paths = list_images(args.data)[: args.number][args.begin_number : end]
    if not paths:
        raise UserError(f"-n {args.number} -bn {args.begin_number} -en {args.end_number} choose none of the images in {args.data}")
    images = [load_image(path, config["image_size"]) for path in paths]
    device = choose_device(args.cuda)
    model = load_prior(config, args.model_config, device)
    directory = new_directory(os.path.join(args.logdir, args.dataset, args.task, args.run))
    metrics = Metrics(device)
    settings = {**vars(args), "device": str(device), "hyperparameters": dataclasses.asdict(h), "task_config": task}
    names = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    head = {"method": method, "dataset": args.dataset, "task": args.task}
    records = {}
    progress = Progress(len(paths), h.outer)
    for start in range(0, len(paths), args.batch_size):
        chosen = slice(start, start + args.batch_size)
        x = torch.cat(images[chosen]).contiguous(memory_format=torch.channels_last).to(device)

        def records_for(y):
            return [ImageRecord(directory, *of_one, metrics) for of_one in zip(names[chosen], x, y)]

        done = restore_batch(solver, model, operator, noise, x, args, h, progress, records_for)
        records.update(zip(names[chosen], done))
        progress.images.update(len(x))
        for name, record in zip(names[chosen], done):
            tqdm.write(f"{name}: final PSNR {record['psnr'][-1]:.2f} dB, best {max(record['psnr']):.2f} dB, {record['seconds']:.0f} s")
    progress.close()

    summary = write_summary(directory, head, records, settings)
    write_grid(directory, records)
    final, best = summary["final"]["psnr"]["mean"], summary["best"]["psnr"]["mean"]
    print(f"{method}, {args.task}, {len(records)} images: PSNR {final:.2f} dB (final), {best:.2f} dB (best, chosen against the ground truth)")
    print(f"wrote {directory}/ (log.txt, summary.json, grid.png, images/, record/)")


def main(doc, method, solver, hyperparameters):
    """The whole of dmilo.py and dmilo-pgd.py but the method: `solver` is its generator of iterates, `hyperparameters`
    the dataclass of its rows in configs/<method>.yaml, `doc` what --help shows."""
    exit_on_user_error(lambda: run(doc, method, solver, hyperparameters))
