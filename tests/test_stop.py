"""Stopping without ground truth: the rules, and what a run reports of their choice."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from experiment.stop import RULES, misfit, refuse_rule, stop, structure
from guided_diffusion.registry import OPERATORS
from util.files import UserError


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_misfit_is_the_rms_of_what_was_measured():
    residual, mask = noise(2, 3, 16, 16), torch.zeros(2, 1, 16, 16)
    mask[:, :, :4] = 1
    residual[:, :, 4:] = 100
    torch.testing.assert_close(
        misfit(residual, mask), residual[:, :, :4].flatten(1).square().mean(1).sqrt()
    )
    torch.testing.assert_close(misfit(noise(2, 7), None), noise(2, 7).square().mean(1).sqrt())


@pytest.mark.parametrize("masked", [False, True])
def test_noise_has_no_structure_and_an_edge_has(masked):
    mask = (noise(2, 1, 64, 64, seed=1) > 0).float() if masked else None
    white = noise(2, 3, 64, 64)
    edges = white + 2 * torch.linspace(-1, 1, 64).sign()
    assert structure(white, mask).max() < 0.05 and structure(edges, mask).min() > 1
    # It needs no sigma.
    assert torch.allclose(structure(7 * white, mask), structure(white, mask), atol=1e-4)
    assert structure(noise(2, 9), None).tolist() == [0, 0]


RECORD = {
    "sigma": 0.01,
    "iterates": ["0_before", "0_after", "1_before", "1_after", "2_after"],
    "ends_outer": [False, True, False, True, True],
    "misfit": [0.001, 0.02, 0.003, 0.0104, 0.009],
    "structure": [0.0, 0.5, 0.0, 0.3, 0.4],
}


def test_discrepancy_is_the_first_iterate_whose_residual_is_the_noise():
    assert stop(RECORD, "discrepancy", True) == (3, True)
    assert stop({**RECORD, "sigma": 0.001}, "discrepancy", True) == (4, False)  # never: the last
    # A mean of searches is complete at its end.
    assert stop(RECORD, "discrepancy", False) == (4, True)


def test_whiteness_of_what_is_no_picture_is_refused():
    """All iterates have structure 0, of which the first was chosen."""
    for y in (noise(2, 9), noise(2, 3, 64), noise(2, 1, 8, 8)):
        with pytest.raises(UserError, match="--stop whiteness: "):
            refuse_rule("whiteness", y)
        refuse_rule("discrepancy", y)
    refuse_rule("whiteness", noise(1, 1, 9, 9))


@pytest.mark.usefixtures("tiny_prior")
def test_a_run_whose_measurement_is_no_picture_refuses_whiteness(script, tmp_path, monkeypatch):
    operator = OPERATORS["noise"]
    draw = operator.draw

    def flat(self, rng, device):
        A, state = draw(self, rng, device)
        return lambda x: A(x).flatten(1), state

    monkeypatch.setattr(operator, "draw", flat)
    command = "baselines.least_squares -t denoising -n 1 --inner 2 --cuda -1 --stop"
    assert script(f"{command} discrepancy -l", tmp_path).code == 0
    result = script(f"{command} whiteness -l", tmp_path)
    assert result.code == 2 and "--stop whiteness: " in result.err


@pytest.mark.parametrize("rule", RULES)
def test_before_an_outer_iteration_has_ended_nothing_is_chosen(rule):
    """DMILO-PGD's first iterate ends none."""
    record = {"iterates": ["0_before"], "ends_outer": [False], "misfit": [0.0], "structure": [0.0]}
    assert stop({"sigma": 0.01, **record}, rule, True) == (0, False)


@pytest.mark.parametrize("rule", RULES)
def test_dmilo_pgd_stops_by_every_rule(run_method, tiny_prior, rule):
    run = run_method("dmilo-pgd", "inpainting", "--stop", rule, "-n", 1)
    record = json.loads((run.folder / "record" / "astronaut.json").read_text())
    assert record["ends_outer"] == [False, True, False, True]
    assert record["ends_outer"][record["chosen"]["iterate"]]


def test_whiteness_is_the_iterate_that_leaves_least_structure():
    assert stop(RECORD, "whiteness", True) == (3, True)


@pytest.mark.parametrize("rule", ["discrepancy", "whiteness"])
def test_a_run_reports_its_choice_and_what_that_costs(run_method, tiny_prior, rule):
    steps = ("--outer", 3, "--inner", 2)
    run = run_method("dmilo", "inpainting", "--stop", rule, "--sigma", 0.5, iterations=steps)
    records = [
        json.loads((run.folder / "record" / f"{name}.json").read_text())
        for name in ("astronaut", "grace_hopper")
    ]
    for record in records:
        wanted, reached = stop(record, rule, True)
        assert record["chosen"] == {"rule": rule, "iterate": wanted, "reached": reached}
    psnr = [record["psnr"][record["chosen"]["iterate"]] for record in records]
    assert run.summary["chosen"]["psnr"]["mean"] == pytest.approx(np.mean(psnr))
    regret = run.summary["best"]["psnr"]["mean"] - np.mean(psnr)
    assert run.summary["regret"]["mean"] == pytest.approx(regret, abs=1e-9) and regret >= 0
    log = (run.folder / "log.txt").read_text()
    assert "astronaut: chosen psnr: " in log and "regret (best - chosen), avg psnr: " in log
    assert f"{np.mean(psnr):.2f} dB (chosen" in run.out


def test_a_rule_that_never_holds_is_reported(run_method, tiny_prior):
    steps = ("--outer", 2, "--inner", 1)
    run = run_method("dmilo", "inpainting", "--sigma", 0.0001, iterations=steps)
    assert run.summary["never_reached"] == ["astronaut", "grace_hopper"]
    assert run.summary["chosen"] == run.summary["final"]


def test_the_result_of_a_photograph_is_the_chosen_iterate(
    script, tmp_path, tiny_prior, monkeypatch
):
    monkeypatch.setitem(
        RULES, "discrepancy", lambda record, ends: ends[1] if len(ends) > 1 else None
    )
    options = "--method dmilo --preset paper --sigma 1 --outer 3 --inner 1 --name r --cuda -1"
    result = script(f"restore.py data/demo/astronaut.png {options} -l", tmp_path)
    assert result.code == 0, result.err
    run = tmp_path / "r" / "run"
    record = json.loads((run / "record" / "astronaut.json").read_text())
    assert record["chosen"] == {"rule": "discrepancy", "iterate": 1, "reached": True}
    first, chosen, final, result = (
        (run / "images" / "astronaut" / f"{name}.png").read_bytes()
        for name in ("0_after", "1_after", "final", "result")
    )
    assert first != chosen == result != final
    assert (tmp_path / "r" / "astronaut.png").read_bytes() == chosen


def test_equal_samples_are_a_warning(run_method, tiny_prior):
    run = run_method("pnp", "inpainting", "--samples", 2)
    assert "the samples are equal" in run.err and "they differ by" not in run.out


def test_several_samples_leave_each_their_mean_and_their_spread(run_method, tiny_prior):
    one = run_method("dmilo", "inpainting", name="one")
    run = run_method("dmilo", "inpainting", "--samples", 3, name="three")
    pictures = run.folder / "images" / "astronaut"

    def read(name):
        return np.asarray(Image.open(pictures / f"{name}.png"), float) / 255

    assert (pictures / "sample_0.png").read_bytes() == (
        one.folder / "images" / "astronaut" / "final.png"
    ).read_bytes()
    samples = np.stack([read(f"sample_{k}") for k in range(3)])
    assert not np.array_equal(samples[0], samples[1]) and not np.array_equal(samples[1], samples[2])
    assert np.abs(read("mean") - samples.mean(0)).max() < 1 / 255
    figures = json.loads((run.folder / "record" / "astronaut.json").read_text())
    known, mask = samples * 2 - 1, read("mask") > 0.5
    spread = np.sqrt(known.var(0, ddof=1).mean(-1))
    for key, where in (("spread", np.ones_like(mask)), ("spread_missing", ~mask)):
        rms = np.sqrt(np.square(spread[where]).mean())
        assert figures["samples"][key] == pytest.approx(rms, rel=0.02)
    # 91.5 % of Student's t with two degrees of freedom
    half = 2.104 * (4 / 3) ** 0.5 * known.std(0, ddof=1)
    inside = np.abs(read("origin") * 2 - 1 - known.mean(0)) <= half
    assert figures["samples"]["inside_83"] == pytest.approx(inside.mean(), abs=0.02)
    assert figures["samples"]["inside_83_missing"] == pytest.approx(inside[~mask].mean(), abs=0.02)
    bounds = np.load(pictures / "interval.npz")
    assert bounds["percent"] == 83 and bounds["low"].shape == (3, 64, 64)
    low, high = ((known.mean(0) + side * half).clip(-1, 1).transpose(2, 0, 1) for side in (-1, 1))
    assert np.abs(bounds["low"] - low).max() < 0.05 and np.abs(bounds["high"] - high).max() < 0.05
    assert figures["nfe_total"] == 3 * one.summary["nfe_per_image"]
    summary = run.summary["samples"]
    assert summary["count"] == 3
    assert summary["best_single"]["psnr"] >= run.summary["final"]["psnr"]["mean"]
    assert Image.open(pictures / "spread.png").width == 64 and "3 samples: PSNR" in run.out
