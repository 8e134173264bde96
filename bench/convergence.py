"""`benchmark.py convergence`: PSNR and residual during the runs of methods, from several seeds."""

import os
import statistics

from bench.jobs import described
from bench.quality import RUN, chosen_names, run_records, write_benchmark
from report import plots

COLUMNS = ["seed", "outer iteration", "NFE", "seconds", "PSNR", "residual"]


def mean_curve(records):
    """[(NFE, seconds, PSNR, residual)] after every outer iteration, means over images. Its seconds
    are its share of the evaluations times those of the run."""

    def mean(value):
        return statistics.mean(map(value, records))

    return [
        (
            mean(lambda r: r["nfe"][k]),
            mean(lambda r: r["seconds"] * r["nfe"][k] / r["nfe_total"]),
            mean(lambda r: r["psnr"][k]),
            mean(lambda r: r["residual"][k]),
        )
        for k, ends in enumerate(records[0]["ends_outer"])
        if ends
    ]


def convergence(args, device):
    """Compare --runs on --tasks from --seeds seeds each, which also draw the measurements anew."""
    names, lines, sheet, groups = chosen_names(args), [], [], {}
    for task in args.tasks:
        curves = {}
        for run in args.runs:
            for seed in range(args.seeds):
                out = os.path.join(args.out, f"seed{seed}")
                records = run_records(args, task, run, out, names, "--seed", str(seed))
                curves.setdefault(run, []).append(mean_curve(records))
                sheet += [
                    [task, *described(run), seed, k, *point]
                    for k, point in enumerate(curves[run][-1])
                ]
            psnr, residual = zip(*(curve[-1][2:] for curve in curves[run]))
            low_high = [f"{min(psnr):.2f} … {max(psnr):.2f}"]
            low_high += [f"{min(residual):.4f} … {max(residual):.4f}"]
            lines.append([task, *described(run), f"{curves[run][0][-1][0]:.0f}", *low_high])
        groups[task] = curves
    plots.convergence_of_seeds(os.path.join(args.out, "convergence.png"), groups)
    header = [*RUN, "NFE", "final PSNR by seed", "final residual by seed"]
    write_benchmark(args.out, "convergence", header, lines, [[*RUN, *COLUMNS], *sheet])
