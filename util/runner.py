"""Config -> prior and operator -> solver -> recorder: what both scripts do around their generator of iterates."""
import dataclasses
import datetime
import glob
import hashlib
import json
import math
import os
import sys
import time

import torch
import torch.distributed as dist
from tqdm import tqdm

from guided_diffusion.ddim import TRAINING_STEPS, Chain
from guided_diffusion.measurements import load_measurement
from guided_diffusion.prior import load_model_config, load_prior
from util.cli import exit_on_user_error, parse_arguments
from util.config import Section, load_yaml
from util.fid import FrechetInceptionDistance
from util.files import UserError, save_tensors, write_text
from util.images import image_names, list_images, load_image
from util.metrics import Metrics
from util.provenance import provenance
from util.recorder import ImageRecord, finished_records, write_grid, write_summary
from util.rng import BatchRandom
from util.start import search


def load_hyperparameters(path, task, kind, preset=None, **given):
    """The row of `task` (or `default`) in a preset of configs/<method>.yaml, its first one if None, as the dataclass `kind`;
    what is `given`, and not None, replaces its value. Raises UserError for a preset that is not there and for a value
    that is missing, unknown or out of range."""
    presets = load_yaml(path)
    preset = next(iter(presets)) if preset is None else preset
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
        low = 1 if field.type is int else field.metadata.get("low", 0)
        hint = "true or false" if field.type is bool else f"{field.type.__name__}, {low} or more"
        default = None if field.default is dataclasses.MISSING else field.default
        values[field.name] = section.take(field.name, field.type, lambda value: low <= value < math.inf, hint, default)
    section.finish()
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in values:
            raise UserError(f"--{name}: {path} knows no such setting")
    h = kind(**{**values, **given})
    if h.chain_steps > TRAINING_STEPS:
        raise section.error("chain_steps", f"is {h.chain_steps}, must be {TRAINING_STEPS} at most")
    return h


def choose_device(cuda, tf32=False):
    """The GPU of that number or, where there is none at all, the CPU with a line of warning; -1 is the CPU without it.
    Raises UserError for a number that none of the GPUs has."""
    gpus = torch.cuda.device_count()
    if cuda >= gpus > 0:
        raise UserError(f"--cuda {cuda}: the GPUs here are 0 to {gpus - 1}; choose one of them, or -1 for the CPU")
    if 0 <= cuda < gpus:
        # The same convolutions in every run and, but for rounding, on every device: TF32, PyTorch's default, only if asked for.
        torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = True, tf32
        torch.cuda.set_device(cuda)
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


def of_rank_0(value):
    """What rank 0 calls this, on every rank."""
    shared = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(shared)
    return shared[0]


def differences(begun, wanted, prefix=""):
    """(key, value, other value) where two nested dicts differ; None stands for a key that is missing."""
    for key in sorted({*begun, *wanted}):
        was, now = begun.get(key), wanted.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            yield from differences(was, now, f"{prefix}{key}.")
        elif was != now:
            yield f"{prefix}{key}", was, now


def open_run(directory, settings, batch_size):
    """Make the run's folder, or find it begun with the same settings (they stand in its settings.json). Returns the batch
    size that it was begun with: another one, which may be asked for, changes the rounding.

    Raises UserError where the folder holds something else, names the first setting that differs, or says why it cannot be
    made.
    """
    path = os.path.join(directory, "settings.json")
    wanted = json.loads(json.dumps({**settings, "batch_size": batch_size}))  # tuples become lists, as they do in the file
    try:
        if not os.path.exists(path):
            # Hidden: what another rank or job is writing at this moment; it may be done with it by now.
            others = os.listdir(directory) if os.path.isdir(directory) else []
            if any(not name.startswith(".") and name != "settings.json" for name in others):
                raise UserError(f"{directory}: is there already and is no run of this program; choose another --run NAME")
            write_text(path, json.dumps(wanted, indent=1))
        with open(path, encoding="utf-8") as f:
            begun = json.load(f)
    except OSError as error:
        raise UserError(f"{directory}: cannot be written ({error.strerror}); choose another --logdir") from error
    except ValueError as error:
        raise UserError(f"{path}: cannot be read ({error}); choose another --run NAME") from error
    if not isinstance(begun, dict):
        raise UserError(f"{path}: does not hold a run's settings; choose another --run NAME")
    begun_batch_size = begun.pop("batch_size", batch_size)
    for key, was, now in differences(begun, {**wanted, "batch_size": None}):
        raise UserError(f"{directory}: was begun with {key} {was}, now it is {now}; go on with the former or choose another --run NAME")
    return begun_batch_size


def refuse_other_pictures(directory, images):
    """Raise UserError where a run's folder has begun one of the images, {name: (1, 3, H, H)}, with another picture."""
    for name, x in images.items():
        path = os.path.join(directory, "images", name, "origin.png")
        if os.path.exists(path) and not torch.equal(load_image(path, x.shape[-1]), x):
            raise UserError(f"{path}: is not the picture that {name} is now; rename the new one or choose another --run NAME")


def checkpoint_digest(path):
    """A checkpoint's content as a short text: a run cannot go on with another one."""
    digest = hashlib.blake2b(digest_size=8)
    with open(path, "rb") as f:
        while block := f.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def measure(operator, noise, model, x, seeds, h, eta=0.0):
    """Everything random of a batch x (B, 3, H, W), in the published order: the operator's draws, the noise, the latents.

    Returns (A, y, g, latents): the operator as a function, the measurements, the chain that h (`util.start.Start`) asks
    for, and h.starts standard normal (B, 3, H, W), the first of which the published method begins with.
    """
    rng = BatchRandom(seeds)
    A = operator.draw(rng, x.device)
    # The pixel order of an image file, in which the published code keeps its images: the noise depends on it.
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        y = noise(A(x), rng).contiguous()  # or that order would spread to whatever is computed from y
    g = Chain(model, h.chain_steps, rng, eta, h.layers)
    # The published code draws N + 1 latents before the chain overwrites all but the first; so does this, or the stream
    # from which eta > 0 goes on drawing would be another one.
    latents = []
    for _ in range(max(h.chain_steps + 1, h.starts)):
        latent = rng.randn(x.shape[1:])
        if len(latents) < h.starts:
            latents.append(latent.to(x.device))
    return A, y, g, latents


class Progress:
    """Bars for images, outer iterations and the steps of a layer (or of the gradient), on a terminal only."""

    def __init__(self, images, outer, hidden=False):
        bar = dict(disable=hidden or None, leave=False, dynamic_ncols=True)
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
        if "failed" in record:
            tqdm.write(f"warning: {name}: {record['failed']}", file=sys.stderr)
        else:
            psnr, best = record["psnr"][-1], max(record["psnr"])
            tqdm.write(f"{name}: final PSNR {psnr:.2f} dB, best {best:.2f} dB, {record['seconds']:.0f} s")

    def close(self):
        for bar in (self.inner, self.outer, self.images):
            bar.close()


class Restoration:
    """One batch from its images to its files; `run` goes on from the last outer iteration that an earlier, killed run has
    finished (its state is in record/<first image>.state) and ends with the files of an uninterrupted one."""

    def __init__(self, directory, names, images, model, operator, noise, h, args, device, metrics):
        x = torch.cat(images).to(device)
        self.A, self.y, self.g, self.latents = measure(operator, noise, model, x, [args.seed] * len(x), h, args.eta)
        self.names, self.h, self.device, self.made_with = names, h, device, provenance(device)
        self.records = [ImageRecord(directory, *of_one, metrics) for of_one in zip(names, x, self.y)]
        self.path, self.seconds = os.path.join(directory, "record", f"{names[0]}.state"), 0.0

    def load(self):
        """The solver's state as `save` has left it, None if there is nothing of this batch."""
        try:
            state = torch.load(self.path, map_location=self.device, weights_only=True)
            if state["names"] != self.names:  # batches of another size
                return None
            self.seconds = state["seconds"]
            self.g.load_state_dict({**state["chain"], "generators": [g.cpu() for g in state["chain"]["generators"]]})
            for record, content in zip(self.records, state["records"]):
                record.record = content
            return state["solver"]
        except FileNotFoundError:
            return None
        except (OSError, torch.OutOfMemoryError):  # not the file's fault
            raise
        except Exception as error:  # a foreign file makes the unpickler raise nearly anything
            raise UserError(f"{self.path}: is not the state of a run; remove it to begin its images anew") from error

    def save(self, solver_state):
        records = [record.record for record in self.records]
        content = {
            "names": self.names, "solver": solver_state, "chain": self.g.state_dict(), "records": records, "seconds": self.seconds
        }
        save_tensors(self.path, content)

    def run(self, solver, progress):
        """Every iterate goes to the images' records; an image whose values are not finite stops there."""
        batch, state = len(self.y), self.load()
        started = time.perf_counter()
        for name, X, state in search(solver, self.g, self.A, self.y, self.latents, self.h, progress.on_step, state):
            with torch.no_grad():
                residual = (self.A(X) - self.y).flatten(1).square().mean(1).sqrt().tolist()  # waits for the device
            self.seconds += time.perf_counter() - started  # not the recording
            for record, image, rms in zip(self.records, X, residual):
                record.add(name, image, rms, self.g.evaluations, self.seconds / batch)
            if state is not None:
                self.save(state)
            progress.on_iterate(name)
            if all(record.failed for record in self.records):
                break
            started = time.perf_counter()
        for name, record in zip(self.names, self.records):
            progress.on_image(name, record.finish(self.seconds / batch, self.g.evaluations, self.made_with))
        if os.path.exists(self.path):
            os.unlink(self.path)


def is_out_of_memory(error):
    """Does this RuntimeError say so? cuFFT, cuBLAS and cuDNN have words of their own for it."""
    words = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def restore(names, limit, build, solver, progress):
    """Run the batches that build(names) makes, of `limit` images at most, which is halved whenever a batch does not fit into
    memory. Returns what the limit then is."""
    while names:
        batch = names[:limit]
        try:
            build(batch).run(solver, progress)
            names = names[limit:]
            continue
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise UserError(f"{batch[0]}: one image does not fit into the device's memory; try --precision bf16 or --cuda -1") from None
        # Outside of the handler, which holds on to what filled the memory.
        torch.cuda.empty_cache()
        limit = len(batch) // 2
        print(f"warning: {len(batch)} images do not fit into memory, going on with {limit} at once (--batch-size {limit})", file=sys.stderr)
    return limit


def run(doc, method, solver, hyperparameters, uses_prior):
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        # For a barrier, no tensor passes; the fastest rank may wait for the slowest one's images.
        dist.init_process_group("gloo", timeout=datetime.timedelta(days=30))
    args = parse_arguments(doc, method)
    args.run = of_rank_0(args.run)  # their clocks may differ
    config = load_model_config(args.model_config)
    task = load_yaml(args.task_config)
    operator, noise = load_measurement(task, args.task_config, config["image_size"])
    h = load_hyperparameters(
        f"configs/{method}.yaml", args.task, hyperparameters, args.preset,
        outer=args.outer, inner=args.inner, chain_steps=args.custom_steps,
    )
    end = None if args.end_number == -1 else args.end_number
    paths = list_images(args.data)[: args.number]
    names = image_names(paths)[args.begin_number : end]  # of two that are called alike, one may be in another slice
    if not names:
        raise UserError(f"-n {args.number} -bn {args.begin_number} -en {args.end_number} choose none of the images in {args.data}")
    paths = paths[args.begin_number : end]
    images = {name: load_image(path, config["image_size"], args.resize) for name, path in zip(names, paths)}
    local = int(os.environ.get("LOCAL_RANK", 0)) if world > 1 else args.cuda
    if world > 1 and args.cuda != -1 and 0 < torch.cuda.device_count() <= local:
        raise UserError(f"--nproc-per-node: there are {torch.cuda.device_count()} GPUs, one a process; start fewer")
    device = choose_device(-1 if args.cuda == -1 else local, args.precision == "tf32")
    directory = os.path.join(args.logdir, args.dataset, args.task, args.run)
    if args.summarize and not finished_records(directory):
        raise UserError(f"{directory}: has no finished image to summarise yet")
    model = load_prior(config, args.model_config, device, args.precision) if uses_prior and not args.summarize else None
    asked = args.batch_size
    if asked is None:
        args.batch_size = choose_batch_size(model, config["image_size"], device) if model else len(paths)
        args.batch_size = min(args.batch_size, -(-len(paths) // world))  # work for every rank
    args.batch_size = of_rank_0(args.batch_size)  # their GPUs' free memory may differ, too
    if args.compile and model:
        model = torch.compile(model)

    # What has to be the same when a run goes on. The rest (which images, how many at once, where) changes no more than rounding.
    fixed = {key: getattr(args, key) for key in ("dataset", "task", "data", "seed", "eta", "precision", "compile", "resize")}
    fixed.update(method=method, hyperparameters=dataclasses.asdict(h), model=config, **task)
    if uses_prior:
        fixed["checkpoint"] = checkpoint_digest(config["model_path"])
    begun_with = of_rank_0(open_run(directory, fixed, args.batch_size))  # not each its own, or an image might belong to nobody
    refuse_other_pictures(directory, images)
    args.batch_size = asked or begun_with
    settings = {**vars(args), "device": str(device), "world": world, **fixed}

    def summarise(fid=None):
        records = finished_records(directory)
        if rank == 0 and records:
            head = {"method": method, "dataset": args.dataset, "task": args.task}
            if fid:
                head["fid"] = fid(directory, [name for name in records if "failed" not in records[name]])
                records = finished_records(directory)  # it takes minutes, in which another slice may have ended
            write_grid(directory, records)
            return write_summary(directory, head, records, settings)

    def build(batch):
        return Restoration(
            directory, batch, [images[name] for name in batch], model, operator, noise, h, args, device, metrics
        )

    metrics = Metrics(device, quiet=rank > 0)
    fid = FrechetInceptionDistance(device) if args.fid and rank == 0 else None
    batches = [names[i : i + args.batch_size] for i in range(0, len(names), args.batch_size)][rank::world]
    if args.summarize:
        batches = []
    outer = h.outer if h.starts == 1 else h.starts  # what `search` yields an end of
    progress, limit = Progress(sum(map(len, batches)), outer, hidden=rank > 0), args.batch_size
    for batch in batches:
        done = finished_records(directory)
        state = os.path.join(directory, "record", f"{batch[0]}.state")
        unfinished = [name for name in batch if name not in done]
        progress.images.update(len(batch) - len(unfinished))
        if unfinished:
            # With a state, its whole batch: it may have been killed between two of its records.
            limit = restore(batch if os.path.exists(state) else unfinished, limit, build, solver, progress)
            summarise()
        elif os.path.exists(state):
            os.unlink(state)
    progress.close()

    if world > 1:
        dist.barrier()
    summary = summarise(fid)
    if rank == 0:
        final, best = summary["final"]["psnr"]["mean"], summary["best"]["psnr"]["mean"]
        if final is not None:
            print(f"{method}, {args.task}, {summary['images']} images: PSNR {final:.2f} dB (final), {best:.2f} dB (best, chosen against the ground truth)")
        for name, why in summary["failed"].items():
            print(f"warning: {name} has failed: {why}", file=sys.stderr)
        print(f"wrote {directory}/ (log.txt, summary.json, grid.png, images/, record/)")
    if world > 1:
        dist.barrier()  # torchrun ends every process as soon as one has ended with code 1, and rank 0 may still be writing
        dist.destroy_process_group()
    if any("failed" in record for name, record in finished_records(directory).items() if name in images):
        sys.exit(1)


def main(doc, method, solver, hyperparameters, uses_prior=True):
    """The whole of dmilo.py and dmilo-pgd.py but the method itself.

    doc: what --help shows. solver: called as solver(g, operator, y, z_0, h, on_step, state), a generator of (name, X,
    state), "init" first, then what is recorded; the last of an outer iteration has a name ending in "after" and, if the
    method can go on from there, a state for torch.save. hyperparameters: the dataclass
    of the rows in configs/<method>.yaml. uses_prior: False for a method that works without the chain.
    """
    exit_on_user_error(lambda: run(doc, method, solver, hyperparameters, uses_prior))
