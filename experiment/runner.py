"""Config -> prior and operator -> problem -> solver -> recorder: what both scripts do around their generator of iterates."""

import dataclasses
import datetime
import math
import os
import sys

import torch
import torch.distributed as dist

from experiment.arguments import parse_arguments
from experiment.fid import FrechetInceptionDistance
from experiment.folder import checkpoint_digest, open_run
from experiment.metrics import Metrics
from experiment.presets import load_hyperparameters
from experiment.problem import Simulated
from experiment.restoration import Progress, Restoration, restore
from experiment.summary import write_summary
from guided_diffusion.prior import load_model_config, load_prior
from guided_diffusion.tiles import AnySize, choose_tile
from photographs.problems import Measured
from report.page import write_report
from report.pictures import write_grid
from report.records import WHICH, finished_records
from util.cli import run_script
from util.devices import choose_device, compile_network
from util.files import UserError, project, say, warn
from util.intervals import PERCENT
from util.rng import BatchRandom

CPU_BATCH_PIXELS = (
    4 * 64 * 64
)  # up to here a larger batch makes the CPU faster (benchmark.py inner)
GPU_BATCH = 64  # at most; beyond it no GPU gets faster
UNEXPLAINED = 2.0  # times the noise that may be left of a photograph's measurement


def of_rank_0(value):
    """What rank 0 calls this, on every rank."""
    shared = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(shared)
    return shared[0]


def eps_of_any_size(model, args, size, prior_size, device):
    """The network for pictures of up to `size` (H, W), in tiles of --tile or `choose_tile`. Raises UserError for a --tile that the
    network cannot take."""
    if args.tile and (args.tile % model.stride or args.tile < prior_size):
        raise UserError(
            f"--tile {args.tile}: must be a multiple of {model.stride}, {prior_size} or more, for this prior"
        )
    return AnySize(
        model,
        of_rank_0(args.tile or choose_tile(model, size, prior_size, args.batch_size or 1, device)),
    )


def keep_tile(args, eps, begun, size, directory):
    """Where --tile does not say it, go on with the tile that the run was begun with: another one changes more than rounding. Raises UserError where
    it was begun with whole pictures and `size` (H, W) does not fit into memory now."""
    if eps and eps.tile and not args.tile:
        short = f"{size[1]} x {size[0]} pixels do not fit into memory at once"
        if not begun:
            raise UserError(
                f"{directory}: was begun with whole pictures, now {short}; free memory or choose another --name NAME"
            )
        say(f"{short}, going on with tiles (--tile {begun})", "stderr")
    args.tile = args.tile or begun
    if eps:
        eps.tile = args.tile


def choose_batch_size(eps, size, device):
    """How many images of `size` (H, W) are restored at once if nobody says: on a GPU as many as its free memory holds, by the
    memory that a step with one image takes."""
    if device.type == "cpu":
        return max(1, CPU_BATCH_PIXELS // (size[0] * size[1]))
    free, _ = torch.cuda.mem_get_info(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    x = torch.zeros(1, 3, *size, device=device, requires_grad=True)
    eps(x, torch.zeros(1, device=device)).sum().backward()
    taken = torch.cuda.max_memory_allocated(device) - before
    return max(1, min(GPU_BATCH, int(0.8 * free / taken)))


def network_and_batch(args, method, config, largest, count, device, world):
    """(the network for pictures of up to `largest`, (H, W), None where none is needed; how many of `count` pictures are restored at once if
    nobody says)."""
    possible = (
        choose_batch_size(None, largest, torch.device("cpu")) if args.measured else count
    )  # measured ones are read a batch at a time
    if not method.uses_prior or args.summarize:
        return None, of_rank_0(possible)
    model = load_prior(config, args.model_config, device, args.precision)
    eps = eps_of_any_size(model, args, largest, config["image_size"], device)
    possible = min(
        choose_batch_size(eps, largest, device), -(-possible // world)
    )  # work for every rank
    eps.model = compile_network(eps.model, device) if args.compile else eps.model
    return eps, of_rank_0(possible)  # their GPUs' free memory may differ, too


def batches_of(pictures, size):
    """The pictures' names in batches of `size` at most, each of pictures that can be restored together."""
    alike = {}
    for name in pictures.names:
        alike.setdefault(pictures.key(name), []).append(name)
    return [names[i : i + size] for names in alike.values() for i in range(0, len(names), size)]


def choose_device_and_precision(args, world):
    """The device of this process: --cuda's or, under torchrun, a GPU of its own. Where --precision does not say it, a GPU's convolutions compute in
    TF32, as the published code leaves them, and a CPU in float32."""
    local = int(os.environ.get("LOCAL_RANK", 0)) if world > 1 else args.cuda
    if world > 1 and args.cuda != -1 and 0 < torch.cuda.device_count() <= local:
        raise UserError(
            f"--nproc-per-node: there are {torch.cuda.device_count()} GPUs, one a process; start fewer"
        )
    device = choose_device(-1 if args.cuda == -1 else local, args.precision in (None, "tf32"))
    args.precision = args.precision or ("tf32" if device.type == "cuda" else "fp32")
    return device


def lasting_settings(args, method, h, config, pictures):
    """What has to be the same when a run goes on. The rest (which images, how many at once, where) changes no more than rounding."""
    fixed = {
        key: getattr(args, key)
        for key in ("dataset", "task", "data", "seed", "eta", "precision", "compile", "resize")
    }
    # Without their defaults: a run begun before there was such an option goes on.
    fixed.update({"tile": args.tile} if args.tile else {})
    fixed.update({"samples": args.samples} if args.samples > 1 else {})
    fixed.update({"stop": args.stop} if args.stop != "discrepancy" else {})
    row = {
        name: value for name, value in dataclasses.asdict(h).items() if name != "sigma"
    }  # that is the problem's
    fixed.update(method=method.name, hyperparameters=row, model=config, **pictures.lasting)
    if method.uses_prior:
        fixed["checkpoint"] = checkpoint_digest(project(config["model_path"]))
    return fixed


def row_defaults(row):
    """The defaults of a dataclass' fields, and of those of the dataclasses in it, as nested dicts; sigma, which is the problem's, has none."""
    found = {}
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        if dataclasses.is_dataclass(value):
            found[field.name] = row_defaults(value)
        elif field.default is not dataclasses.MISSING and field.name != "sigma":
            found[field.name] = field.default
    return found


def summarise(directory, head, settings, failed, fid=None):
    """Write the summary of what is finished and return it, None if nothing is. failed: {name: why} of pictures that could not be begun; fid: a
    FrechetInceptionDistance, if asked for."""
    unread = {name: {"failed": why} for name, why in failed.items()}
    records = finished_records(directory)
    if not records:
        return None
    records = {**unread, **records}
    if fid:
        head = {
            **head,
            "fid": fid(directory, [name for name in records if "failed" not in records[name]]),
        }
        records = {
            **unread,
            **finished_records(directory),
        }  # it takes minutes, in which another slice may have ended
    write_grid(directory, records)
    return write_summary(directory, head, records, settings)


def unexplained(records):
    """{name: a line} for the photographs of which far more than the noise is left: what was said of them does not hold."""
    found = {}
    for name, record in records.items():
        if (
            "failed" in record or "psnr" in record or "misfit" not in record
        ):  # which a run of the past may lack
            continue
        left = record["misfit"][record["chosen"]["iterate"]]
        if left > UNEXPLAINED * record["sigma"]:
            times = left / record["sigma"]
            found[name] = (
                f"what is left of the measurement, {left:.3f}, is {times:.1f} times its noise: is this how it was made? (the "
                "--kernel, its --flip-kernel, the --filter of a reduction, the --mask, --linear)"
            )
    return found


def report(summary, directory):
    """What a run says at its end."""
    about = f"{summary['method']}, {summary['task']}, {summary['images']} images"
    final, chosen, best = (summary[which]["psnr"]["mean"] for which in WHICH)
    residual = summary["chosen"]["residual"]["mean"]
    if final is not None:
        print(
            f"{about}: PSNR {final:.2f} dB (final), {chosen:.2f} dB (chosen without the ground truth), {best:.2f} dB (best, chosen against it)"
        )
    elif residual is not None:
        print(f"{about}: residual {residual:.4f}")
    samples = summary.get("samples", {})
    if "mean" in samples:
        print(
            f"{samples['count']} samples: PSNR {samples['mean']['psnr']:.2f} dB (their mean), {samples['best_single']['psnr']:.2f} dB (the best one)"
        )
    if samples and samples["spread"] == 0:
        warn(
            "the samples are all the same, so that they say nothing of how sure the result is: this preset draws nothing; take --preset posterior"
        )
    elif samples:
        inside = (
            f"; they hold {100 * samples[f'inside_{PERCENT}']:.0f} %" if "ranks" in samples else ""
        )
        print(
            f"they differ by {127.5 * samples['spread']:.1f} of 255 (spread.png); interval.npz: ranges meant to hold {PERCENT} % of the true values{inside}"
        )
    for name, why in summary["failed"].items():
        print(f"warning: {name} has failed: {why}", file=sys.stderr)
    for name, why in unexplained(finished_records(directory)).items():
        print(f"warning: {name}: {why}", file=sys.stderr)
    restored = "restored/, " if os.path.isdir(os.path.join(directory, "restored")) else ""
    print(
        f"wrote {directory}/ ({restored}log.txt, summary.json, grid.png, report.html, images/, record/)"
    )


def restore_batches(directory, batches, limit, build, solver, progress, after):
    """Restore what is unfinished in `batches` of names and call after() when one is through. limit, build: see `restore`."""
    for batch in batches:
        done = [
            name for name, record in finished_records(directory).items() if not record.get("again")
        ]
        state = os.path.join(directory, "record", f"{batch[0]}.state")
        unfinished = [name for name in batch if name not in done]
        progress.skip(len(batch) - len(unfinished))
        if unfinished:
            # With a state, its whole batch: it may have been killed between two of its records.
            limit = restore(
                directory,
                batch if os.path.exists(state) else unfinished,
                limit,
                build,
                solver,
                progress,
            )
            after()
        elif os.path.exists(state):
            os.unlink(state)
    progress.close()


def run(doc, method):
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        # For a barrier, no tensor passes; the fastest rank may wait for the slowest one's images.
        dist.init_process_group("gloo", timeout=datetime.timedelta(days=30))
    args = parse_arguments(doc, method.name)
    args.name = of_rank_0(args.name)  # their clocks may differ
    config = load_model_config(args.model_config)
    given = {"outer": args.outer, "inner": args.inner, "chain_steps": args.custom_steps}
    h = load_hyperparameters(method, args.task, args.preset, say, args.dataset, **given)
    pictures = (Measured if args.measured else Simulated)(args, config["image_size"])
    device = choose_device_and_precision(args, world)
    directory = os.path.join(args.logdir, args.dataset, args.task, args.name)
    if args.summarize and not finished_records(directory):
        raise UserError(f"{directory}: has no finished image to summarise yet")
    largest = max((pictures.key(name)[0] for name in pictures.names), key=math.prod)
    eps, possible = network_and_batch(
        args, method, config, largest, len(pictures.names), device, world
    )

    metrics = None if args.summarize or args.measured else Metrics(device)
    fid = FrechetInceptionDistance(device) if args.fid and rank == 0 else None
    fixed = lasting_settings(args, method, h, config, pictures)
    chosen = {
        "batch_size": args.batch_size or possible,
        **({} if args.tile else {"tile": eps and eps.tile}),
    }
    begun_with = open_run(directory, fixed, chosen, {"hyperparameters": row_defaults(h)})
    args.batch_size = args.batch_size or of_rank_0(
        begun_with["batch_size"]
    )  # not each its own, or an image might belong to nobody
    keep_tile(args, eps, begun_with.get("tile"), largest, directory)
    pictures.refuse_others(directory)
    settings = {**vars(args), "device": str(device), "world": world, **fixed}
    head = {"method": method.name, "dataset": args.dataset, "task": args.task}
    if rank == 0 and args.measured:
        print("\n".join(pictures.report))
        for line in [*pictures.warnings, *pictures.failed.values()]:
            warn(line)

    def build(names):
        rng = BatchRandom([args.seed] * len(names))
        return Restoration(
            directory,
            pictures.problem(names, rng, device),
            eps,
            rng,
            h,
            args.eta,
            metrics,
            args.stop,
            args.samples,
        )

    batches = [] if args.summarize else batches_of(pictures, args.batch_size)[rank::world]
    progress = Progress(sum(map(len, batches)), h.parts, hidden=rank > 0)
    after = lambda: rank == 0 and summarise(directory, head, settings, pictures.failed)
    restore_batches(directory, batches, args.batch_size, build, method.solver, progress, after)

    if world > 1:
        dist.barrier()
    if rank == 0:
        summary = summarise(directory, head, settings, pictures.failed, fid)
        write_report(
            directory
        )  # not after every batch, as the rest is: of many images it takes seconds
        report(summary, directory)
    if world > 1:
        dist.barrier()  # torchrun ends every process as soon as one has ended with code 1, and rank 0 may still be writing
        dist.destroy_process_group()
    if pictures.failed or any(
        "failed" in record
        for name, record in finished_records(directory).items()
        if name in pictures.names
    ):
        sys.exit(1)


def main(doc, method):
    """The whole of a method's script but the method itself. doc: what --help shows; method: a `solvers.method.Method`."""
    run_script(lambda: run(doc, method))
