"""One batch from its Problem to its files, and what is shown meanwhile."""

import copy
import dataclasses
import os
import sys
import time

import torch
from tqdm import tqdm

from experiment.recorder import LEFT, ImageRecord, write_too_large
from experiment.stop import misfit, structure
from guided_diffusion.blind import UnknownOperator
from guided_diffusion.ddim import Chain
from guided_diffusion.tiles import AnySize
from report.records import WHICH, choose
from solvers.annealing import denoised
from solvers.method import Iterate
from solvers.search import search
from util.devices import is_out_of_memory, provenance
from util.files import UserError, save_tensors
from util.rng import BatchRandom


def draw_latents(rng, shape, h, device):
    """The standard normal (B, *shape) with which h's searches begin, as many as they need, the first one the published method's.

    The published code draws N + 1 latents before the chain overwrites all but the first; so does this, or the stream from which
    eta > 0 goes on drawing would be another one.
    """
    count = max(1, -(-h.searches // 2))  # they come in opposite pairs
    drawn = [rng.randn(shape) for _ in range(max(h.chain_steps + 1, count))]
    return [latent.to(device) for latent in drawn[:count]]


TILE, GREY_RUNS = (
    256,
    2,
)  # pixels a side, and evaluations of a grey one, for what lies around the part of a photograph that is searched
LINE_EVERY = 60  # seconds between two lines of progress where no terminal shows bars


class Progress:
    """Bars for images, a search's outer iterations and the steps of a layer (or of the gradient) on a terminal, with the time left;
    elsewhere (a job's log, a pipe) a line an outer iteration, or a minute if that is longer. outer: how much each outer
    iteration has to do, in any unit. hidden: neither."""

    def __init__(self, images, outer, hidden=False):
        self.total, self.parts, self.hidden = images, outer, hidden
        self.finished, self.skipped, self.done, self.begun = 0, 0, 0, time.monotonic()
        self.told = self.begun
        bar = dict(disable=hidden or None, leave=False, dynamic_ncols=True)
        self.images = tqdm(total=images, desc="images", unit="image", **bar)
        self.outer = tqdm(total=sum(outer), desc="outer", smoothing=0, **bar)
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

    def left(self, now):
        """About how long the images take that are not finished, in words; nothing before one is."""
        here = self.finished - self.skipped
        return (
            f", about {(now - self.begun) / here * (self.total - self.finished) / 60:.0f} min left"
            if here
            else ""
        )

    def begin(self, done):
        """A search begins, or goes on after so many outer iterations."""
        self.outer.reset()
        self.outer.update(sum(self.parts[:done]))
        self.done = done

    def on_iterate(self, ends_outer):
        if not ends_outer:
            return
        self.outer.update(self.parts[self.done])
        self.done += 1
        now = time.monotonic()
        if self.outer.disable and not self.hidden and now - self.told >= LINE_EVERY:
            print(
                f"{self.finished} of {self.total} images finished, outer iteration {self.done} of {len(self.parts)} of the next, "
                f"{(now - self.begun) / 60:.0f} min{self.left(now)}"
            )
            self.told = now

    def skip(self, images):
        """That many images were finished already."""
        self.finish(images)
        self.skipped += images

    def finish(self, images):
        self.images.update(images)
        self.finished += images

    def on_image(self, name, record):
        self.finish(1)
        if "failed" in record:
            tqdm.write(f"warning: {name}: {record['failed']}", file=sys.stderr)
        elif "psnr" in record:
            final, chosen, best = (choose(record, which)["psnr"] for which in WHICH)
            tqdm.write(
                f"{name}: final PSNR {final:.2f} dB, chosen {chosen:.2f} dB, best {best:.2f} dB, {record['seconds']:.0f} s"
            )
        else:
            tqdm.write(
                f"{name}: residual {choose(record, 'chosen')['residual']:.4f}, {record['seconds']:.0f} s"
            )

    def close(self):
        for bar in (self.inner, self.outer, self.images):
            bar.close()


class Iterates:
    """`Iterates(problem, model, rng, h)(solver, on_step)`: the `solvers.method.Iterate`s that a method finds for a Problem. The command line
    and `dmilo.restore` are loops over it. g: the chain, which counts the network's evaluations.

    model: eps(x, t) of the prior; rng: the batch's BatchRandom; h: the method's row; eta: DDIM's noise.
    """

    def __init__(self, problem, model, rng, h, eta=0.0):
        self.problem, self.h = problem, dataclasses.replace(h, sigma=problem.sigma)
        self.g = Chain(model, h.chain_steps, rng, eta, h.layers)
        self.latents = draw_latents(rng, (3, *problem.size), h, problem.y.device)

    def __call__(self, solver, on_step, state=None):
        if self.problem.complete:
            return [Iterate("copied", self.problem.y, ends_outer=True)]
        return search(
            solver,
            self.g,
            self.problem.operator,
            self.problem.y,
            self.latents,
            self.h,
            on_step,
            state,
        )


def surroundings(problem, model, i):
    """Photograph i of a Problem, (3, H', W') in [-1, 1], for what of it is not worked through: as it is or, unless that is asked for, by one
    evaluation of the network, in tiles."""
    whole, window = problem.brought[i]["whole"], problem.brought[i]["window"]
    if problem.keep or model is None or window == (slice(None), slice(None)):
        return whole
    g = Chain(AnySize(model.model, TILE), 1, BatchRandom([0]))
    return denoised(g, whole[None].to(problem.y.device), problem.sigma, GREY_RUNS)[0].cpu()


class Restoration:
    """One batch from its Problem to its files; `run` goes on from the last outer iteration that an earlier, killed run has
    finished (its state is in record/<first image>.state) and ends with the files of an uninterrupted one.

    rng: the batch's BatchRandom, from which the problem was drawn; h: the method's row; eta: DDIM's noise; rule: of `experiment.stop`;
    samples: how many restorations of the one measurement. The first one is recorded in full, of the others, whose draws begin at the
    seeds + 1, + 2, …, the last iterate alone.
    """

    def __init__(self, directory, problem, model, rng, h, eta, metrics, rule, samples=1):
        device = problem.y.device
        self.problem, self.device, self.made_with = problem, device, provenance(device)
        self.count, self.samples, self.spent, self.seconds = samples, [], 0, 0.0
        self.ended = 0  # outer iterations of the present sample
        self.of_draws = lambda rng, problem=problem: Iterates(problem, model, rng, h, eta)
        self.seeds, self.again = rng.seeds, copy.deepcopy(rng)
        self.iterates = self.of_draws(rng)
        self.records, truths = [], None if problem.truth is None else problem.shown(problem.truth)
        for i, name in enumerate(problem.names):
            drawn = {key: value[i] for key, value in problem.drawn.items()}
            truth = None if truths is None else truths[i]
            about = metrics, problem.sigma, problem.nearest, rule, not h.averages
            brought = (
                {**problem.brought[i], "whole": surroundings(problem, model, i)}
                if problem.brought
                else None
            )
            self.records.append(
                ImageRecord(directory, name, problem.y[i], drawn, truth, *about, brought)
            )
        self.path = os.path.join(directory, "record", f"{problem.names[0]}.state")

    @property
    def evaluations(self):
        return self.spent + self.iterates.g.evaluations

    def begin(self, k):
        """Sample k, with a chain and draws of its own."""
        self.spent, self.ended = self.evaluations, 0
        self.iterates = self.of_draws(BatchRandom([seed + k for seed in self.seeds]))

    def load(self):
        """The solver's state as `save` has left it, None if there is nothing of this batch."""
        try:
            state = torch.load(self.path, map_location=self.device, weights_only=True)
            if state["names"] != self.problem.names:  # batches of another size
                return None
            self.seconds, self.samples = state["seconds"], state["samples"]
            if len(self.samples) > 1:
                self.begin(len(self.samples) - 1)
            self.spent, self.ended = state["spent"], state["ended"]
            self.iterates.g.load_state_dict(
                {**state["chain"], "generators": [g.cpu() for g in state["chain"]["generators"]]}
            )
            for record, content in zip(self.records, state["records"]):
                record.record = content
            return state["solver"]
        except FileNotFoundError:
            return None
        except (OSError, torch.OutOfMemoryError):  # not the file's fault
            raise
        except Exception as error:  # a foreign file makes the unpickler raise nearly anything
            raise UserError(
                f"{self.path}: is not the state of a run; remove it to begin its images anew"
            ) from error

    def save(self, solver_state):
        content = {
            "names": self.problem.names,
            "solver": solver_state,
            "chain": self.iterates.g.state_dict(),
        }
        content.update(
            records=[record.record for record in self.records],
            samples=self.samples,
            spent=self.spent,
        )
        content.update(ended=self.ended, seconds=self.seconds)
        save_tensors(self.path, content)

    def record(self, iterate):
        """An Iterate of the first sample, to the images' records."""
        with torch.no_grad():
            residual, mask = (
                self.problem.operator(iterate.x) - self.problem.y,
                self.problem.drawn.get("mask"),
            )
            left = [misfit(residual, None), misfit(residual, mask), structure(residual, mask)]
            left = torch.stack(left, 1).tolist()
        for record, image, figures in zip(self.records, self.problem.shown(iterate.x), left):
            about = dict(zip(LEFT, figures)), self.evaluations, self.seconds / len(self.records)
            record.add(iterate.name, image, iterate.ends_outer, *about)

    def sample(self, k, solver, progress, state):
        """One restoration of the measurement; an image whose values are not finite stops there."""
        progress.begin(self.ended)
        started = time.perf_counter()
        for iterate in self.iterates(solver, progress.on_step, state):
            self.samples[k:] = [iterate.x]
            self.ended += iterate.ends_outer
            if iterate.x.is_cuda:
                torch.cuda.synchronize()
            self.seconds += time.perf_counter() - started  # not the recording
            if k == 0:
                self.record(iterate)
            if iterate.state is not None:
                self.save(iterate.state)
            progress.on_iterate(iterate.ends_outer)
            if all(record.failed for record in self.records):
                break
            started = time.perf_counter()
        if k == 0 and isinstance(self.problem.operator, UnknownOperator):
            for record, kernel in zip(self.records, self.problem.operator.unknown):
                record.found(kernel)

    def beside(self, solver, progress):
        """The same problem with nothing of its operator to be found, the same settings and draws: its last iterates' figures, for the records."""
        informed = dataclasses.replace(self.problem, operator=self.problem.informed, informed=None)
        *_, last = self.of_draws(self.again, informed)(solver, progress.on_step)
        for record, image in zip(self.records, self.problem.shown(last.x)):
            record.informed(image)

    def run(self, solver, progress):
        state = self.load()
        begun = max(0, len(self.samples) - 1)
        for k in range(begun, self.count):
            if k > begun:
                self.begin(k)
            self.sample(k, solver, progress, state)
            state = None
        if self.count > 1:
            found = torch.stack([self.problem.shown(X) for X in self.samples], 1)
            for record, samples in zip(self.records, found):
                record.compare(samples)
        if self.problem.informed:
            self.beside(solver, progress)
        for name, record in zip(self.problem.names, self.records):
            progress.on_image(
                name,
                record.finish(self.seconds / len(self.records), self.evaluations, self.made_with),
            )
        if os.path.exists(self.path):
            os.unlink(self.path)


def restore(directory, names, limit, build, solver, progress):
    """Run the batches that build(names) makes, of `limit` images at most, which is halved whenever a batch does not fit into
    memory; an image that does not fit alone fails. Returns what the limit then is."""
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
            progress.on_image(batch[0], write_too_large(directory, batch[0]))
            names = names[1:]
            continue
        limit = len(batch) // 2
        print(
            f"warning: {len(batch)} images do not fit into memory, going on with {limit} at once (--batch-size {limit})",
            file=sys.stderr,
        )
    return limit
