"""A run: arguments -> prior, images and method -> batches -> files and summary."""

import dataclasses
import datetime
import math
import os
import sys
import time
import zlib

import torch
import torch.distributed as dist

from experiment.arguments import parse_arguments
from experiment.fid import FrechetInceptionDistance
from experiment.folder import checkpoint_digest, open_run, unused
from experiment.metrics import Metrics
from experiment.presets import about, load_row
from experiment.problem import Simulated
from experiment.progress import Progress
from experiment.restoration import Restoration, Setup, run_within_memory
from experiment.summary import print_summary, write_summary
from guided_diffusion.errors import errors_path
from guided_diffusion.prior import load_model_config, load_prior
from guided_diffusion.tiles import AnySize, choose_tile
from report.page import write_report
from report.pictures import write_grid
from report.records import finished_records, read_record, record_path
from util.cli import run_script
from util.devices import choose_device, compile_network, first_line, keep_memory
from util.files import UserError, project, say, warn
from util.rng import BatchRandom

CPU_BATCH_PX = 4 * 64 * 64  # larger batches do not make the CPU faster (benchmark.py inner)
GPU_BATCH = 64  # images at most; larger batches make no GPU faster
LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # set by torchrun
SECOND, MONTH = datetime.timedelta(seconds=1), datetime.timedelta(days=30)
PATIENCE = 45  # seconds for which the other processes of a group are awaited


def join_group():
    """(rank, world) of this process, which joins the others that torchrun has started.

    Alone, (0, 1), unless all of LAUNCHED are set: batch systems and job scripts set some of them.
    Raises UserError, within PATIENCE seconds, if the others do not come.
    """
    values = [os.environ.get(key, "") for key in LAUNCHED]
    if not all(values) or not values[1].isdecimal() or int(values[1]) < 2:
        for key in (*LAUNCHED[:2], "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            os.environ.pop(key, None)  # `util.files.say` and `util.devices` read them, too
        return 0, 1
    try:
        store, rank, world = next(dist.rendezvous("env://", timeout=PATIENCE * SECOND))
        store.set(f"dmilo/{rank}", "")
        store.wait([f"dmilo/{other}" for other in range(world)], PATIENCE * SECOND)
    except (dist.DistError, RuntimeError, ValueError) as error:
        others = "process has" if values[1] == "2" else "processes have"
        raise UserError(
            f"WORLD_SIZE is {values[1]}, but the other {others} not come to {':'.join(values[2:])} "
            f"within {PATIENCE} s ({first_line(error)}); start all of them with torchrun, or unset "
            "WORLD_SIZE for one process alone"
        ) from error
    # For barriers only; the fastest rank may wait for the slowest one's images.
    store.set_timeout(MONTH)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=MONTH)
    return rank, world


def of_rank_0(value):
    """The value of rank 0, on every rank."""
    shared = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(shared)
    return shared[0]


def eps_of_any_size(model, args, size, prior_size, device):
    """The network for images of up to `size` (H, W), in tiles of --tile or `choose_tile`. Raises
    UserError for a --tile that the network cannot process."""
    if args.tile and (args.tile % model.stride or args.tile < prior_size):
        raise UserError(
            f"--tile {args.tile}: must be a multiple of {model.stride}, {prior_size} or more, "
            "for this prior"
        )
    tile = args.tile or choose_tile(model, size, prior_size, args.batch_size or 1, device)
    return AnySize(model, of_rank_0(tile))


def keep_tile(args, eps, before, size, directory):
    """The tile of this run: --tile, or the one `before` that the run was created with, as another
    one changes results by more than rounding.

    Raises UserError if it was created with whole images and `size` (H, W) does not fit into memory
    now.
    """
    if eps and eps.tile and not args.tile:
        short = f"{size[1]} x {size[0]} px do not fit into memory at once"
        if not before:
            raise UserError(
                f"{directory}: was created with whole images, now {short}; free memory or choose "
                "another --name NAME"
            )
        say(f"{short}, going on with tiles (--tile {before})", "stderr")
    tile = args.tile or before
    if eps:
        eps.tile = tile
    return tile


def choose_batch_size(eps, size, device):
    """The default batch size for images of `size` (H, W): on a GPU as many as its free memory
    holds, judging by one step with one image."""
    if device.type == "cpu":
        return max(1, CPU_BATCH_PX // (size[0] * size[1]))
    free, _ = torch.cuda.mem_get_info(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    x = torch.zeros(1, 3, *size, device=device, requires_grad=True)
    eps(x, torch.zeros(1, device=device)).sum().backward()
    needed = torch.cuda.max_memory_allocated(device) - before
    return max(1, min(GPU_BATCH, int(0.8 * free / needed)))


def network_and_batch(args, method, config, images, compute):
    """(eps(x, t) for the largest of the images, None where no network is needed; the default batch
    size). images: a Simulated or the like; compute: the Compute of this process."""
    size = largest(images)
    if not method.uses_prior or args.summarize:
        return None, of_rank_0(choose_batch_size(None, size, torch.device("cpu")))
    model = load_prior(config, args.model_config, compute.device, compute.precision)
    eps = eps_of_any_size(model, args, size, config["image_size"], compute.device)
    # Every rank needs work; their GPUs' free memory may differ.
    share = -(-len(images.names) // compute.world)
    count = min(choose_batch_size(eps, size, compute.device), share)
    eps.model = compile_network(eps.model, compute.device) if args.compile else eps.model
    return eps, of_rank_0(count)


def largest(images):
    """The (H, W) with the most px."""
    return max((images.key(name)[0] for name in images.names), key=math.prod)


def batches_of(images, size):
    """The images' names in batches of at most `size`, each of images that can share one."""
    alike = {}
    for name in images.names:
        alike.setdefault(images.key(name), []).append(name)
    return [names[i : i + size] for names in alike.values() for i in range(0, len(names), size)]


@dataclasses.dataclass(frozen=True)
class Compute:
    """Where this process, `rank` of `world`, computes, and the precision of its network."""

    device: torch.device
    precision: str
    rank: int = 0
    world: int = 1


def choose_gpu(number, tf32):
    """GPU `number`; for None GPU 0 if it is usable, else the CPU without a warning."""
    if number is not None:
        return choose_device(number, tf32)
    try:
        return choose_device(0 if torch.cuda.device_count() else -1, tf32)
    except UserError:
        return choose_device(-1)


def choose_compute(args, rank=0, world=1):
    """The Compute for --cuda or, under torchrun, with a GPU for every process. Without --precision,
    a GPU's convolutions compute in TF32, as in the published code, and a CPU in float32."""
    cuda = args.cuda
    if world > 1 and cuda != -1:
        cuda = int(os.environ.get("LOCAL_RANK", 0))
        if 0 < torch.cuda.device_count() <= cuda:
            raise UserError(
                f"--nproc-per-node: there are {torch.cuda.device_count()} GPUs, one a process; "
                "start fewer"
            )
    device = choose_gpu(cuda, args.precision in (None, "tf32"))
    precision = args.precision or ("tf32" if device.type == "cuda" else "fp32")
    return Compute(device, precision, rank, world)


def row_values(values):
    """A row's nested dict as its YAML file has it: a Preset's hyperparameters are keys of the row,
    and sigma, which belongs to the problem, is none."""
    values = {key: value for key, value in values.items() if key != "sigma"}
    return {**values.pop("hyperparameters", {}), **values}


def row_defaults(row):
    """The defaults of a dataclass's fields and, nested, of the dataclasses among their values."""
    defaults = {}
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        if dataclasses.is_dataclass(value):
            defaults[field.name] = row_defaults(value)
        elif field.default is not dataclasses.MISSING:
            defaults[field.name] = field.default
    return defaults


def lasting_settings(args, method, h, config, images, precision):
    """The settings that must not change when a run is resumed; the others (which images, batch
    size, device) change results by rounding only."""
    settings = {key: getattr(args, key) for key in ("dataset", "task", "seed", "eta", "compile")}
    settings["precision"] = precision
    # Only where they differ from their defaults: runs older than the options can be resumed.
    settings.update({"tile": args.tile} if args.tile else {})
    settings.update({"seed_each": True} if args.seed_each else {})
    settings.update({"samples": args.samples} if args.samples > 1 else {})
    settings.update({"stop": args.stop} if args.stop != "discrepancy" else {})
    row = row_values(dataclasses.asdict(h))
    settings.update(method=method.name, hyperparameters=row, model=config, **images.lasting)
    if method.uses_prior:
        checkpoint = project(config["model_path"])
        settings["checkpoint"] = checkpoint_digest(checkpoint)
        table = errors_path(checkpoint)
        settings["errors"] = checkpoint_digest(table) if os.path.isfile(table) else None
    return settings


def seed_of(name, args):
    """The seed of an image: --seed or, with --seed-each, one that depends on its name, too."""
    # Of 31 bits, for further samples add to it.
    return zlib.crc32(f"{args.seed} {name}".encode()) >> 1 if args.seed_each else args.seed


def summarise(folder, head, settings, failed, known, fid=None):
    """Write the summary of what is finished and return it, None if nothing is.

    failed: {name: reason} of unreadable files; known: see `finished_records`; fid: a
    FrechetInceptionDistance, or None.
    """
    unread = {name: {"failed": why} for name, why in failed.items()}
    records = finished_records(folder.files, known)
    if not records:
        return None
    records = {**unread, **records}
    if fid:
        names = [name for name, record in records.items() if "failed" not in record]
        head = {**head, "fid": fid(folder.files, names)}
        # That took minutes, in which another slice may have ended.
        records = {**unread, **finished_records(folder.files, known)}
    write_grid(folder.files, records)
    return write_summary(folder.files, head, records, settings)


def restore_batches(folder, batches, build, solver, progress):
    """Restore the unfinished images of `batches`, lists of names, by the Restorations that
    build(names) makes; yields after each batch."""
    limit = max(map(len, batches), default=0)
    for batch in batches:
        paths = {name: record_path(folder.files, name) for name in batch}
        done = {name for name, path in paths.items() if os.path.exists(path)}
        done = {name for name in done if not read_record(paths[name]).get("again")}
        state = os.path.join(folder.files, "record", f"{batch[0]}.state")
        unfinished = [name for name in batch if name not in done]
        progress.skip(len(batch) - len(unfinished))
        if unfinished:
            # With a state, its whole batch: it may have been killed between two of its records.
            names = batch if os.path.exists(state) else unfinished
            limit = run_within_memory(folder, names, limit, build, solver, progress)
            yield
        elif os.path.exists(state):
            os.unlink(state)
    progress.close()


def open_images(args, method, problems):
    """(the images of a run, the Row, the model config)."""
    config = load_model_config(args.model_config)
    # Photographs have no task file whose name might be a user's own.
    on_row = say if args.task_config else lambda line: None
    h = load_row(method, args.task, args.preset, on_row, args.dataset, args.changed)
    return problems(args, config["image_size"]), h, config


def run(args, method, problems=Simulated):
    """Restore images and write a run's folder.

    args: an `experiment.arguments.Arguments`; method: a `solvers.method.Method`; problems: a
    function (args, the prior's image size) that makes the images, see `experiment.problem`.
    """
    rank, world = join_group()
    images, h, config = open_images(args, method, problems)
    name = args.name or time.strftime("%Y-%m-%d_%H-%M-%S")
    compute, folder = choose_compute(args, rank, world), images.folder(args, name)
    if args.summarize and not finished_records(folder.files):
        raise UserError(f"{folder.top}: has no finished image to summarise yet")
    eps, possible = network_and_batch(args, method, config, images, compute)
    metrics = None if args.summarize or not images.has_truth else Metrics(compute.device)
    fid = FrechetInceptionDistance(compute.device) if args.fid and rank == 0 else None

    lasting = lasting_settings(args, method, h, config, images, compute.precision)
    adjustable = {"batch_size": args.batch_size or possible}
    adjustable.update({} if args.tile else {"tile": eps and eps.tile})
    defaults = {"hyperparameters": row_values(row_defaults(h)), "errors": lasting.get("errors")}
    if not args.name:
        top = of_rank_0(unused(folder.top) if rank == 0 else None)
        name, folder = os.path.basename(top), folder._replace(top=top)
    before = open_run(folder.top, lasting, adjustable, defaults)
    # The same on every rank, or an image might belong to none.
    batch_size = args.batch_size or of_rank_0(before["batch_size"])
    height, width = largest(images)
    tile = keep_tile(args, eps, before.get("tile"), (height, width), folder.top)
    if tile:
        keep_memory(4 * height * width)  # what a tile needs, but not whole images
    images.refuse_others(folder)

    computed = {"name": name, "batch_size": batch_size, "tile": tile, "world": world}
    computed["device"] = str(compute.device)
    settings = {**vars(args), **images.options, **lasting, **computed}
    head = {"method": method.name, "about": about(method, h, args.changed)}
    head.update(dataset=args.dataset, task=args.task)
    if rank == 0 and images.report:
        print("\n".join(images.report))
    for line in [*images.warnings, *images.failed.values()]:
        warn(line)
    setup = Setup(eps, h, args.eta, metrics, args.stop, args.samples)

    def build(names):
        rng = BatchRandom([seed_of(name, args) for name in names])
        return Restoration(folder, images.batch(names, rng, compute.device), rng, setup)

    batches = [] if args.summarize else batches_of(images, batch_size)[rank::world]
    known = {}
    progress = Progress(sum(map(len, batches)), h.iterations, hidden=rank > 0)
    for _ in restore_batches(folder, batches, build, method.solver, progress):
        if rank == 0:
            summarise(folder, head, settings, images.failed, known)

    def summary():
        return summarise(folder, head, settings, images.failed, known, fid)

    finish(folder, images, compute, summary)


def finish(folder, images, compute, summary):
    """Write the last summary and the page; exit with code 1 if an image has failed."""
    if compute.world > 1:
        dist.barrier()
    if compute.rank == 0:
        written = summary()
        write_report(folder.top)  # only now: with many images it needs seconds
        print_summary(written, folder, images.mismatches(finished_records(folder.files)))
    if compute.world > 1:
        # torchrun kills every process once one has exited with code 1; rank 0 may still write.
        dist.barrier()
        dist.destroy_process_group()
    records = finished_records(folder.files)
    if images.failed or any("failed" in records.get(name, {}) for name in images.names):
        sys.exit(1)


def main(doc, method):
    """The script of a method. doc: the text of --help; method: a `solvers.method.Method`."""
    run_script(lambda: run(parse_arguments(doc, method.name), method))
