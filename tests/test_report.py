"""report.html of runs and tables, parsed; tests/test_browser.py opens it in a browser."""

import base64
import hashlib
import html.parser
import io
import json
import os
import re
import time
from urllib.parse import unquote_to_bytes

import pytest
from PIL import Image

from experiment.summary import write_summary
from report import page as report
from report import table as report_table
from report.charts import axis
from report.page import write_report

MADE_WITH = {"revision": "0", "versions": {"python": "3"}, "device": "cpu", "threads": 1}
ODD_NAMES = ["<img src=x onerror=alert(1)>", '"><script>alert(1)</script>', "{{ 7 * 7 }}"]
ODD_NAMES += ['it\'s "quoted" & so', "100 % #1?a=b;c", "Grüße aus Köln", "javascript:alert(1)"]
ODD_NAMES += ["folder/<b>inside", os.fsdecode(b"no \xff unicode")]


def make_record(psnr=(20.0, 24.0, 23.0), **more):
    """A record with as many iterates as PSNRs; psnr None: of a photograph, three iterates."""
    n, figures = len(psnr or (1, 2, 3)), {}
    if psnr:
        figures = {"psnr": list(psnr), "ssim": [p / 40 for p in psnr]}
        figures["lpips_alex"] = [(40 - p) / 100 for p in psnr]
    return {
        **figures,
        "sigma": 0.01,
        "residual": [0.1 / (k + 1) for k in range(n)],
        "iterates": [f"{k}_x" for k in range(n)],
        "ends_outer": [True] * n,
        "nfe": [10 * (k + 1) for k in range(n)],
        "elapsed": [1.0] * n,
        "chosen": {"rule": "discrepancy", "iterate": n - 1, "reached": True},
        "seconds": 12.5,
        "nfe_total": 10 * n,
        "made_with": MADE_WITH,
        **more,
    }


PICTURES = ("measurement", "origin", "final", "result", "0_x", "1_x", "2_x")
OF_PHOTOS = ("measurement", "mask", "final", "result", "0_x", "1_x", "2_x")


def save_picture(path, size=(8, 8)):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Image.new("RGB", size, "teal").save(path)


def make_run(
    folder,
    records,
    method="dmilo",
    task="inpainting",
    pictures=PICTURES,
    side=8,
    about="",
    **settings,
):
    """A run's folder; its pictures have side x side px."""
    for name, record in records.items():
        for which in pictures:
            save_picture(os.path.join(folder, "images", name, f"{which}.png"), (side, side))
        path = os.path.join(folder, "record", f"{name}.json")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            json.dump(record, f)
    head = {"method": method, "dataset": "demo", "task": task, "about": about}
    write_summary(folder, head, records, {"preset": "fast", "data": "data/demo", **settings})
    return str(folder)


def make_restored(top, records, pictures=OF_PHOTOS, **more):
    """A folder as restore.py leaves it: pictures and settings.json, the run in run/."""
    make_run(os.path.join(top, "run"), records, pictures=pictures, **more)
    for name in records:
        save_picture(os.path.join(top, f"{name}.png"))
    with open(os.path.join(top, "settings.json"), "w") as f:
        f.write("{}")
    return str(top)


class Page(html.parser.HTMLParser):
    """A parsed page: (tag, attributes) in order, its visible text, the texts of each tag."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.texts, self.open = [], "", {}, []
        self.folder = os.path.dirname(path)
        with open(path, encoding="utf-8") as f:
            self.source = f.read()
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag][-1] += data
        if not {"script", "style"} & set(self.open):
            self.text += data

    def all(self, tag, of_class=""):
        return [
            attributes
            for name, attributes in self.tags
            if name == tag and {of_class} <= {"", *attributes.get("class", "").split()}
        ]

    def files(self):
        """The addresses of pictures and other pages, as bytes."""
        links = [a["src"] for a in self.all("img")] + [a["href"] for a in self.all("a")]
        links += [a["value"] for a in self.all("option") if "." in a["value"]]  # not the zoom's
        links = [one for one in links if not one.startswith(("#", "data:"))]
        return [unquote_to_bytes(one.partition("#")[0]) for one in links]

    def check(self):
        """All links resolve, and no text has become markup."""
        folder = os.fsencode(self.folder)
        assert all(os.path.exists(os.path.join(folder, file)) for file in self.files())
        ids = {a["id"] for _, a in self.tags if "id" in a}
        assert {a["href"][1:] for a in self.all("a") if a["href"].startswith("#")} <= ids
        assert not any(one.startswith("on") for _, a in self.tags for one in a)
        assert len(self.all("script")) == 1
        return self


@pytest.fixture
def page(tmp_path):
    """page(records, …) makes a run and its page -> the Page."""
    return lambda records, **more: Page(write_report(make_run(tmp_path / "run", records, **more)))


def test_a_run_s_page_has_its_figures_and_pictures(page):
    result = page({"a": make_record(), "b": make_record((30.0, 31.0, 32.0))}).check()
    table = result.source.partition('class="sortable"')[2].partition("</table>")[0]
    rows = re.findall(r"<tr>.*?</tr>", table, re.S)
    figures = "a 23.00 0.575 0.1700 0.0333 23.00 24.00 30 12.5"
    assert len(rows) == 3 and re.sub(r"<[^>]*>", " ", rows[1]).split() == figures.split()
    assert "27.50 ± 4.50" in " ".join(result.text.split()) and len(result.files()) > 20
    assert all(a["alt"].startswith(("a: ", "b: ")) for a in result.all("img"))


def test_only_its_own_script_may_run(page):
    result = page({"a": make_record()})
    script = re.search(r"<script>(.*)</script>", result.source, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policies = [a["content"] for a in result.all("meta") if "http-equiv" in a]
    assert [policy.partition("script-src ")[2] for policy in policies] == [f"'sha256-{digest}'"]
    assert policies[0].startswith("default-src 'none'; img-src 'self' data:;")
    assert "</script" not in script
    assert "http:" not in result.source and "https:" not in result.source


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_of_any_characters_are_escaped(page, tmp_path, name):
    plain = page({"a": make_record()})
    page({name: make_record(failed=name)}, data=name, preset=name, about=name).check()
    odd = Page(write_report(make_run(tmp_path / "odd", {name: make_record()}, task=name))).check()
    assert [tag for tag, _ in odd.tags] == [tag for tag, _ in plain.tags]
    photos = {name: make_record(None), f"{name} 2": make_record(None, failed=name)}
    photo = Page(write_report(make_restored(tmp_path / "#1? %", photos, task=name))).check()
    for one in (odd, photo):
        assert name.encode(errors="backslashreplace").decode() in one.texts["h2"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_of_any_characters_are_escaped_in_a_table(tmp_path, name):
    folder = tmp_path / "a #1?" / name
    for method in ("dmilo", "<b>dps"):
        make_run(folder / method, {name: make_record()}, method=method, about="<b>dps")
    result = Page(write_report(str(folder))).check()
    assert all(a.get("class") for a in result.all("b")) and len(result.files()) >= 8


@pytest.mark.usefixtures("tiny_prior", "short_searches")
def test_a_real_photograph_with_an_odd_name(script, tmp_path):
    odd = tmp_path / "<img src=x onerror=alert(1)>.png"
    save_picture(odd, (64, 64))
    arguments = (odd, "--sigma", 0.1, "-l", tmp_path, "--name", "out", "--cuda", -1)
    result = script("restore.py", *arguments)
    assert result.code == 0, result.err
    photo = Page(tmp_path / "out" / "report.html").check()
    assert odd.stem in photo.texts["h1"] and os.fsencode(odd.name) in photo.files()


def test_many_images_are_paged(page, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "PER_PAGE", 3)
    pages = [page({f"x{n}": make_record() for n in range(7)}).check()]
    pages += [Page(tmp_path / "run" / f"report-{n}.html").check() for n in (2, 3)]
    ids = [[a["id"] for a in one.all("article")] for one in pages]
    assert ids == [["i0", "i1", "i2"], ["i3", "i4", "i5"], ["i6"]]
    links = re.findall(r'<th scope="row"><a href="([^"]*)">x\d', pages[0].source)
    assert links[:4] == ["#i0", "#i1", "#i2", "report-2.html#i3"] and len(links) == 7
    assert {b"report.html", b"report-3.html"} <= set(pages[1].files())
    assert not os.path.exists(tmp_path / "run" / "report-4.html")


def test_200_images_take_two_seconds_and_less_than_5_mb(tmp_path):
    folder = make_run(tmp_path, {f"face {n}": make_record() for n in range(200)})
    start = time.process_time()
    path = write_report(folder)
    assert time.process_time() - start < 2 and os.path.getsize(path) < 5e6


def test_curves_join_the_ends_of_outer_iterations(page):
    for ends in ([True, True, True], [False, True, True]):
        circles = page({"a": make_record(ends_outer=ends)}).all("circle")
        assert len(circles) == 2 * sum(ends)  # PSNR and residual


def test_a_photograph_comes_first_with_a_link_to_its_file(tmp_path):
    path = write_report(make_restored(tmp_path, {"cup": make_record(None)}))
    photo = Page(path).check()
    assert path == str(tmp_path / "report.html") and not (tmp_path / "run/report.html").exists()
    assert photo.all("img", "after")[0]["src"] == photo.all("a")[0]["href"] == "cup.png"
    assert photo.all("img", "before")[0]["src"] == "run/images/cup/measurement.png"
    folds = re.findall(r"<details>.*?</details>", photo.source, re.S)
    assert len(folds) == 2 and "<svg" in folds[0]
    outside = re.sub(r"<(details|script|style)>.*?</\1>", "", photo.source, flags=re.S)
    assert "<svg" not in outside and not re.search("(?i)psnr|final|chosen|best|residual", outside)


@pytest.mark.parametrize("before", [True, False])
def test_a_photograph_restored_in_part(tmp_path, before):
    top = make_restored(tmp_path, {"cup": make_record(None)}, pictures=("measurement", "final"))
    save_picture(tmp_path / "cup.png", (32, 20))
    if before:
        save_picture(tmp_path / "run/images/cup/before.png", (32, 20))
    photo = Page(write_report(top)).check()
    assert [a["src"] for a in photo.all("img")].count("cup.png") == 1
    assert bool(photo.all("input")) == before  # else no picture of the whole for a slider
    assert len(photo.all("option")) == (8 if before else 0)  # two per side, four zooms


def test_a_photograph_that_failed(tmp_path):
    top = make_restored(tmp_path, {"cup": {"failed": "too large", "again": True}}, pictures=())
    os.remove(tmp_path / "cup.png")
    photo = Page(write_report(top)).check()
    assert "too large" in photo.text and not photo.all("img")


def test_samples_and_an_estimated_kernel(page, tmp_path):
    figures = {"psnr": 25.5, "ssim": 0.8, "lpips_alex": 0.1}
    samples = {"count": 2, "spread": 0.0321, "inside_83": 0.954, "mean": figures}
    samples["each"] = [figures, {**figures, "psnr": 24.25}]
    pictures = [*OF_PHOTOS, "sample_0", "sample_1", "mean", "spread", "kernel", "kernel_true"]
    record = make_record(samples=samples, kernel_error=0.25)
    text = page({"a": record}, pictures=pictures).check().text
    assert all(one in text for one in ("24.25 dB", "4.1 of 255", "95 %", "0.250"))
    photo = make_record(None, samples={"count": 2, "spread": 0.0321})
    result = Page(write_report(make_restored(tmp_path, {"a": photo}, pictures=pictures))).check()
    thumbs = [os.path.basename(a["href"]) for a in result.all("a", "thumb")]
    assert thumbs[:4] == ["mean.png", "spread.png", "sample_0.png", "sample_1.png"]
    assert not any("spread" in a["value"] for a in result.all("option"))  # of another shape


@pytest.mark.parametrize("gone", ["pictures", "chosen", "iterates"])
def test_an_incomplete_run_has_a_page(page, gone):
    record = make_record()
    if gone == "iterates":
        record = {key: [] if isinstance(value, list) else value for key, value in record.items()}
        record["failed"] = "0_x is not finite"
    if gone != "pictures":
        del record["chosen"]
    result = page({"a": record}, **({"pictures": ()} if gone == "pictures" else {}))
    assert ("0_x is not finite" in result.text) == (gone == "iterates")
    assert ("23.00" in result.text) == (gone != "iterates")
    assert bool(result.all("img")) == (gone != "pictures")


@pytest.fixture
def table(tmp_path):
    """Two tasks of three methods: best PSNR, best LPIPS, and a slow one."""
    figures = {"dps": (31.0, 0.3, 12.5), "dmilo": (32.0, 0.1, 12.5), "daps": (33.0, 0.2, 99.0)}
    for method, (psnr, lpips, seconds) in figures.items():
        record = make_record((psnr,), lpips_alex=[lpips], seconds=seconds)
        records = {f"{n}": record for n in range(10)}
        for task in ("inpainting", "motion_deblur"):
            pictures = ("measurement", "origin", "final")
            make_run(tmp_path / "runs" / method / task, records, method, task, pictures)
    return tmp_path


def test_a_table_marks_the_best_and_holds_copies_of_pictures(table):
    result = Page(write_report(str(table))).check()
    cell = r'<span class="(\w*)">([\d.]+)</span><small class="(\w*)">([\d.]+)'
    rows = [("best", "33.00", "second", "0.2000"), ("second", "32.00", "best", "0.1000")]
    rows += [("", "31.00", "", "0.3000")]
    assert re.findall(cell, result.source) == [row for row in rows for _ in range(2)]
    assert len(result.all("a", "cell")) == 6
    copies = [a["src"] for a in result.all("img") if a["src"].startswith("data:image/webp;base64,")]
    assert len(copies) == 2 * (2 + 3) * report_table.PREVIEWS
    assert Image.open(io.BytesIO(base64.b64decode(copies[0].partition(",")[2]))).size == (8, 8)


def test_a_table_links_the_pages_of_its_runs(table):
    dps, cup = b"runs/dps/inpainting/report.html", b"cup/report.html"
    make_restored(table / "cup", {"cup": make_record(None)}, about="by hand")
    without = Page(write_report(str(table))).check()
    assert not {dps, cup} & set(without.files())
    write_report(str(table / "runs" / "dps" / "inpainting"))
    write_report(str(table / "cup"))
    both = Page(write_report(str(table))).check()
    assert {dps, cup, b"cup/cup.png"} <= set(both.files()) and "by hand" in both.text


def test_a_run_called_run_is_not_taken_for_its_parent(tmp_path):
    for name in ("run", "other"):
        make_run(tmp_path / name, {"a": make_record()})
    assert len(Page(write_report(str(tmp_path))).check().all("a", "cell")) == 2


def test_the_front_leaves_out_slower_methods_of_lower_psnr(tmp_path):
    figures = {"a": (20.0, 1.0), "b": (25.0, 10.0), "c": (24.0, 50.0), "d": (30.0, 100.0)}
    for method, (psnr, seconds) in figures.items():
        make_run(tmp_path / method, {"0": make_record((psnr,), seconds=seconds)}, method)
    source = Page(write_report(str(tmp_path))).source
    points = re.findall(r'class="number" cx="([\d.]+)" cy="([\d.]+)"', source)
    line = re.findall(r'class="curve" d="M([\d. ]+)"', source)
    assert line[0].split() == [n for i in (0, 1, 3) for n in points[i]]


def test_runs_of_one_name_are_distinguished(tmp_path):
    for folder, more in (("first", {}), ("second", {}), ("other", {"sigma": 0.05})):
        make_run(tmp_path / folder, {"a": make_record()}, **more)
    make_restored(tmp_path / "cup", {"cup": make_record(None)})
    result = Page(write_report(str(tmp_path)))
    assert [" ".join(text.split()) for text in result.texts["h2"]] == [
        "inpainting, cup",
        "inpainting, data/demo",
        "inpainting, data/demo, sigma 0.05",
    ]
    assert "dmilo, fast, first" in result.text and "dmilo, fast, second" in result.text


@pytest.mark.parametrize("summary", [None, "", "[]", "{", '{"method": 1}', "no record", "missing"])
def test_a_folder_without_a_finished_run_is_one_line(script, tmp_path, summary):
    folder = tmp_path / "missing" if summary == "missing" else tmp_path
    if summary not in ("no record", "missing"):
        os.makedirs(tmp_path / "record")
    if summary is not None:
        (tmp_path / "summary.json").write_text(summary)
    result = script("report", folder)
    assert result.code == 2 and len(result.err.splitlines()) == 1 and str(folder) in result.err


@pytest.mark.parametrize(
    "values", [[1.0], [0.0, 0.0], [-3.0, 5.0], [1e-9, 1e9], [0.0, 1e-12], [99.99, 100.0]]
)
@pytest.mark.parametrize("logarithmic", [True, False])
def test_an_axis_covers_its_values_and_has_a_few_ticks(values, logarithmic):
    position, ticks = axis(values, 0, 100, logarithmic)
    assert all(0 < position(value) < 100 for value in values)
    assert all(0 <= at <= 100 for at, _ in ticks)
    assert 1 <= len(ticks) == len({text for _, text in ticks}) <= 40
