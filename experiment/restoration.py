"""Restore one batch and write its files."""

import copy
import dataclasses
import os
import sys
import time

import torch

from experiment.recorder import RESIDUALS, ImageRecord, with_whole, write_too_large
from experiment.stop import misfit, refuse_rule, structure
from experiment.whitened import Whitened
from guided_diffusion.blind import UnknownOperator
from guided_diffusion.ddim import Chain
from guided_diffusion.tiles import AnySize
from solvers.method import Iterate
from solvers.plug_and_play import denoised
from solvers.search import search
from util.devices import is_out_of_memory, provenance
from util.files import UserError, save_tensors
from util.rng import BatchRandom

# For the part of a photograph outside the restored window: px a side of the tiles, and NFE of a
# grey one.
TILE, GREY_RUNS = 256, 2


def draw_latents(rng, shape, h, device):
    """The standard normal latents, (B, *shape) each, that the row h needs, the published one first.

    The published code samples N + 1 latents, of which the chain overwrites all but the first. So
    does this, as the noise for eta > 0 continues the same random stream.
    """
    latents = []
    for k in range(max(h.chain_steps + 1, h.latents)):
        latent = rng.randn(shape)
        latents += [latent.to(device)] if k < h.latents else []
    return latents


class Iterates:
    """`Iterates(problem, model, rng, h)(solver, on_step)` yields a method's Iterates for a Problem.
    The command line and `restore` are loops over it. g: the chain, which counts the NFE.

    model: eps(x, t) of the prior; rng: the batch's BatchRandom; h: the method's row; eta: the noise
    scale of DDIM.
    """

    def __init__(self, problem, model, rng, h, eta=0.0):
        self.whitened = problem.noise and Whitened.of(problem, rng, twice=not h.is_sample)
        if self.whitened:
            problem, rng = self.whitened.problem, self.whitened.rng
        self.problem, self.h = problem, dataclasses.replace(h, sigma=problem.sigma)
        self.g = Chain(model, h.chain_steps, rng, eta, h.layers)
        self.latents = draw_latents(rng, (3, *problem.size), h, problem.y.device)

    def __call__(self, solver, on_step, state=None):
        p = self.problem
        if p.complete:
            return [Iterate("copied", p.y, ends_outer=True)]
        iterates = search(solver, self.g, p.operator, p.y, self.latents, self.h, on_step, state)
        if not self.whitened:
            return iterates
        return (one._replace(x=self.whitened.result(one.x)) for one in iterates)


def surroundings(batch, model, i):
    """Photograph i of a Batch, (3, H', W') in [-1, 1], outside of the window that is restored:
    denoised by one network evaluation in tiles or, with --keep-observed, as it is."""
    source = batch.sources[i]
    if batch.keep or model is None or not source.windows:
        return source.whole
    rng, x = BatchRandom([0]), source.whole[None].to(batch.problem.y.device)
    problem = dataclasses.replace(batch.problem, y=x)
    whitened = problem.noise and Whitened.of(problem, rng)
    if whitened:
        problem, rng = whitened.problem, whitened.rng
    g = Chain(AnySize(model.model, TILE), 1, rng)
    x = denoised(g, problem.y, problem.sigma, GREY_RUNS)
    return (whitened.result(x) if whitened else x)[0].cpu()


class Separately:
    """eps(x, t) of images side by side, each by itself. model: eps(x, t); widths: of each, px."""

    def __init__(self, model, widths):
        self.model, self.widths = model, widths

    @property
    def errors(self):
        return self.model.errors

    def __call__(self, x, t):
        return torch.cat([self.model(one, t) for one in x.split(self.widths, -1)], -1)


@dataclasses.dataclass(frozen=True)
class Setup:
    """What the batches of a run have in common.

    model: eps(x, t), None for methods without a prior; h: the method's row; eta: the noise scale of
    DDIM; metrics: None without ground truth; rule: of `experiment.stop`; samples: restorations of
    each measurement.
    """

    model: object
    h: object
    eta: float
    metrics: object
    rule: str
    samples: int = 1


class Restoration:
    """One batch, from its Problem to its files.

    `run` resumes after the last outer iteration of a run that was killed (its state is in
    record/<first image>.state) and leaves the files of an uninterrupted one. rng: the batch's
    BatchRandom, already used by its operator and noise. The first sample is recorded in full; of
    the others, whose seeds are + 1, + 2, …, only the last iterate.
    """

    def __init__(self, folder, batch, rng, setup):
        problem, start = batch.problem, time.perf_counter()
        refuse_rule(setup.rule, problem.y)
        self.batch, self.problem, self.setup = batch, problem, setup
        self.made_with = provenance(problem.y.device)
        self.samples, self.spent, self.seconds = [], 0, 0.0
        self.ended = 0  # outer iterations of the current sample
        self.seeds, self.initial_rng = rng.seeds, copy.deepcopy(rng)
        self.iterates = self._iterates(rng, problem)
        cases = [batch.case(i) for i in range(len(batch.names))]
        if batch.sources:
            wholes = (surroundings(batch, setup.model, i) for i in range(len(cases)))
            cases = [with_whole(case, whole) for case, whole in zip(cases, wholes)]
            self.seconds = time.perf_counter() - start
        self.records = [
            ImageRecord(folder, case, setup.metrics, setup.rule, not setup.h.averages)
            for case in cases
        ]
        self.path = os.path.join(folder.files, "record", f"{batch.names[0]}.state")

    def _iterates(self, rng, problem):
        model, widths = self.setup.model, self.batch.widths
        model = Separately(model, widths) if model and widths else model
        return Iterates(problem, model, rng, self.setup.h, self.setup.eta)

    @property
    def nfe(self):
        return self.spent + self.iterates.g.nfe

    def start_sample(self, k):
        """Sample k, with a chain and random numbers of its own."""
        self.spent, self.ended = self.nfe, 0
        self.iterates = self._iterates(BatchRandom([seed + k for seed in self.seeds]), self.problem)

    def load(self):
        """The solver's state as saved by `save`, None if there is none of this batch."""
        try:
            state = torch.load(self.path, map_location=self.problem.y.device, weights_only=True)
            if state["names"] != self.batch.names:  # batches of another size
                return None
            self.seconds, self.samples = state["seconds"], state["samples"]
            if len(self.samples) > 1:
                self.start_sample(len(self.samples) - 1)
            self.spent, self.ended = state["spent"], state["ended"]
            generators = [g.cpu() for g in state["chain"]["generators"]]
            self.iterates.g.load_state_dict({**state["chain"], "generators": generators})
            for record, content in zip(self.records, state["records"]):
                record.record = content
            return state["solver"]
        except FileNotFoundError:
            return None
        except (OSError, torch.OutOfMemoryError):  # not the file's fault
            raise
        except Exception as error:  # a foreign file makes the unpickler raise nearly anything
            raise UserError(
                f"{self.path}: is not the state of a run; remove it to restart its images"
            ) from error

    def save(self, solver_state):
        content = {
            "names": self.batch.names,
            "solver": solver_state,
            "chain": self.iterates.g.state_dict(),
            "records": [record.record for record in self.records],
            "samples": self.samples,
            "spent": self.spent,
            "ended": self.ended,
            "seconds": self.seconds,
        }
        save_tensors(self.path, content)

    def record(self, iterate):
        """Add an Iterate of the first sample to the images' records."""
        problem, mask = self.problem, self.batch.operator_state.get("mask")
        with torch.no_grad():
            residual = problem.operator(iterate.x) - problem.y
            figures = [misfit(residual, None), misfit(residual, mask), structure(residual, mask)]
            figures = torch.stack(figures, 1).tolist()
        seconds = self.seconds / len(self.records)
        for record, image, row in zip(self.records, self.batch.output(iterate.x), figures):
            record.add(iterate, image, dict(zip(RESIDUALS, row)), self.nfe, seconds)

    def sample(self, k, solver, progress, state):
        """Restore the measurements once; stops where no image is finite any more."""
        progress.reset(self.ended)
        start = time.perf_counter()
        for iterate in self.iterates(solver, progress.on_step, state):
            self.samples[k:] = [iterate.x]
            self.ended += iterate.ends_outer
            if iterate.x.is_cuda:
                torch.cuda.synchronize()
            self.seconds += time.perf_counter() - start  # without the recording
            if k == 0:
                self.record(iterate)
            if iterate.state is not None:
                self.save(iterate.state)
            progress.on_iterate(iterate.ends_outer)
            if all(record.failed for record in self.records):
                break
            start = time.perf_counter()
        if k == 0 and isinstance(self.problem.operator, UnknownOperator):
            for record, kernel in zip(self.records, self.problem.operator.unknown):
                record.add_kernel(kernel)

    def with_known_operator(self, solver, progress):
        """Restore a blind problem with its true operator, for the records."""
        problem = dataclasses.replace(self.problem, operator=self.batch.known_operator)
        *_, last = self._iterates(self.initial_rng, problem)(solver, progress.on_step)
        for record, image in zip(self.records, self.batch.output(last.x)):
            record.add_known_operator(image)

    def run(self, solver, progress):
        state = self.load()
        first = max(0, len(self.samples) - 1)
        for k in range(first, self.setup.samples):
            if k > first:
                self.start_sample(k)
            self.sample(k, solver, progress, state)
            state = None
        if self.setup.samples > 1:
            samples = torch.stack([self.batch.output(x) for x in self.samples], 1)
            for record, of_image in zip(self.records, samples):
                record.compare(of_image)
        if self.batch.known_operator:
            self.with_known_operator(solver, progress)
        seconds = self.seconds / len(self.records)
        for name, record in zip(self.batch.names, self.records):
            progress.on_image(name, record.finish(seconds, self.nfe, self.made_with))
        if os.path.exists(self.path):
            os.unlink(self.path)


def run_within_memory(folder, names, limit, build, solver, progress):
    """Run the Restorations that build(names) makes, of `limit` images at most.

    The limit is halved whenever a batch does not fit into memory; an image that does not fit alone
    fails. Returns the final limit.
    """
    while names:
        batch = names[:limit]
        try:
            build(batch).run(solver, progress)
            names = names[limit:]
            continue
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Outside of the handler, which holds on to what filled the memory.
        torch.cuda.empty_cache()
        if len(batch) == 1:
            progress.on_image(batch[0], write_too_large(folder, batch[0]))
            names = names[1:]
            continue
        limit = len(batch) // 2
        print(
            f"warning: {len(batch)} images do not fit into memory, going on with {limit} at once "
            f"(--batch-size {limit})",
            file=sys.stderr,
        )
    return limit
