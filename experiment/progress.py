"""Progress of a run: bars on a terminal, lines elsewhere."""

import sys
import time

from tqdm import tqdm

from report.records import WHICH, choose

LINE_EVERY = 60  # seconds between two lines where no terminal shows bars


class Progress:
    """Bars for images, outer iterations and inner steps with the time left; without a terminal (a
    job's log, a pipe) one line an outer iteration, once a minute at most.

    iterations: the cost of each outer iteration, in any unit; hidden: show neither.
    """

    def __init__(self, images, iterations, hidden=False):
        self.total, self.iterations, self.hidden = images, iterations, hidden
        self.finished, self.skipped, self.done = 0, 0, 0
        self.start = self.last_line = time.monotonic()
        self.last_loss = 0.0
        bar = dict(disable=hidden or None, leave=False, dynamic_ncols=True)
        self.images = tqdm(total=images, desc="images", unit="image", **bar)
        self.outer = tqdm(total=sum(iterations), desc="outer", smoothing=0, **bar)
        self.inner = tqdm(desc="inner", unit="step", **bar)

    def on_step(self, step, steps, loss):
        if step == 1:
            self.inner.reset(total=steps)
        self.inner.update()
        # Twice a second at most, for fetching the loss makes a GPU wait.
        if not self.inner.disable and time.monotonic() - self.last_loss > 0.5:
            self.inner.set_postfix(loss=f"{loss.item():.5f}")
            self.last_loss = time.monotonic()

    def time_left(self, now):
        """The estimated time for the other images, as text; empty before one is finished."""
        here = self.finished - self.skipped
        minutes = (now - self.start) / 60
        return (
            f", about {minutes / here * (self.total - self.finished):.0f} min left" if here else ""
        )

    def reset(self, done):
        """Start a restoration or, after `done` outer iterations, resume one."""
        self.outer.reset()
        self.outer.update(sum(self.iterations[:done]))
        self.done = done

    def on_iterate(self, ends_outer):
        if not ends_outer:
            return
        self.outer.update(self.iterations[self.done])
        self.done += 1
        now = time.monotonic()
        if self.outer.disable and not self.hidden and now - self.last_line >= LINE_EVERY:
            print(
                f"image {self.finished + 1} of {self.total}: outer iteration {self.done} of "
                f"{len(self.iterations)} done after {(now - self.start) / 60:.0f} min"
                f"{self.time_left(now)}"
            )
            self.last_line = now

    def skip(self, images):
        """So many images were finished by an earlier run."""
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
                f"{name}: final PSNR {final:.2f} dB, chosen {chosen:.2f} dB, best {best:.2f} dB, "
                f"{record['seconds']:.0f} s"
            )
        else:
            residual = choose(record, "chosen")["residual"]
            tqdm.write(f"{name}: residual {residual:.4f}, {record['seconds']:.0f} s")

    def close(self):
        for bar in (self.inner, self.outer, self.images):
            bar.close()
