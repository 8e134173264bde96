"""report.html of runs and tables as it stands on disk; tests/test_browser.py opens it."""

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
from report.page import axis, write_report

MADE_WITH = {"revision": "0", "versions": {"python": "3"}, "device": "cpu", "threads": 1}
ODD_NAMES = [
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    'it\'s "quoted" & so',
    "100 % #1?a=b;c",
    "Grüße aus Köln",
    "a b",
    "{{ 7 * 7 }}",
    "javascript:alert(1)",
    "folder/<b>inside",
    os.fsdecode(b"no \xff unicode"),
]


def make_record(psnr=(20.0, 24.0, 23.0), **more):
    """What a record of as many iterates holds; psnr None: of a photograph."""
    n = len(psnr or (1, 2, 3))
    figures = (
        {
            "psnr": list(psnr),
            "ssim": [p / 40 for p in psnr],
            "lpips_alex": [(40 - p) / 100 for p in psnr],
        }
        if psnr
        else {}
    )
    return {
        "sigma": 0.01,
        **figures,
        "residual": [0.1 / (k + 1) for k in range(n)],
        "iterates": [f"{k}_x" for k in range(n)],
        "evaluations": [10 * (k + 1) for k in range(n)],
        "elapsed": [1.0] * n,
        "chosen": {"rule": "discrepancy", "iterate": n - 1, "reached": True},
        "seconds": 12.5,
        "network_evaluations": 10 * n,
        "made_with": MADE_WITH,
        **more,
    }


PICTURES = ("measurement", "origin", "final", "result", "0_x", "1_x", "2_x")


def make_run(
    folder, records, method="dmilo", task="inpainting", pictures=PICTURES, side=8, **settings
):
    """A run's folder as it would be left, its pictures of side x side pixels."""
    for name, record in records.items():
        for which in pictures:
            path = os.path.join(folder, "images", name, f"{which}.png")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            Image.new("RGB", (side, side), "teal").save(path)
        path = os.path.join(folder, "record", f"{name}.json")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            json.dump(record, f)
    head = {"method": method, "dataset": "demo", "task": task}
    write_summary(folder, head, records, {"preset": "fast", "data": "data/demo", **settings})
    return str(folder)


class Page(html.parser.HTMLParser):
    """What a browser would make of a page: (tag, attributes) in order, the texts outside scripts, those of each kind of element."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.inside, self.texts, self.open = [], "", {}, {}, []
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
        """The addresses of pictures and links that are none of the page itself, as bytes."""
        found = [a["src"] for a in self.all("img")] + [a["href"] for a in self.all("a")]
        found += [
            a["value"] for a in self.all("option") if "/" in a["value"]
        ]  # not those of the zoom
        return [
            unquote_to_bytes(one.partition("#")[0])
            for one in found
            if not one.startswith(("#", "data:"))
        ]


@pytest.fixture
def page(tmp_path):
    """page(records, …) makes a run and its page -> the Page."""
    return lambda records, **more: Page(write_report(make_run(tmp_path / "run", records, **more)))


def test_a_run_s_page_tells_its_figures_without_a_script(page):
    seen = page({"a": make_record(), "b": make_record((30.0, 31.0, 32.0))}, mask_prob=0.7)
    for told in (
        "2 images of demo",
        "preset fast",
        "noise sigma 0.01",
        "27.50 ± 4.50",
        "mask_prob",
        "0.7",
        "oracle",
        "12.5 s and 30 network",
    ):
        assert told in " ".join(seen.text.split()), told
    rows = re.findall(
        r"<tr>.*?</tr>", seen.source.partition('class="sortable"')[2].partition("</table>")[0], re.S
    )
    assert len(rows) == 3 and re.sub(r"<[^>]*>", " ", rows[1]).split() == [
        "a",
        "23.00",
        "0.575",
        "0.1700",
        "0.0333",
        "23.00",
        "24.00",
        "30",
        "12.5",
    ]


def test_every_picture_is_there_and_has_an_alternative_text(page, tmp_path):
    seen = page({"a": make_record()})
    assert len(seen.files()) > 10 and all(
        os.path.exists(os.path.join(os.fsencode(tmp_path / "run"), file)) for file in seen.files()
    )
    assert all(a["alt"].startswith("a: ") for a in seen.all("img"))
    ids = {a["id"] for _, a in seen.tags if "id" in a}
    assert {a["href"][1:] for a in seen.all("a") if a["href"].startswith("#")} <= ids


def test_only_its_own_script_may_run(page):
    seen = page({"a": make_record()})
    script = re.search(r"<script>(.*)</script>", seen.source, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = [
        a["content"] for a in seen.all("meta") if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == [
        f"default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    ]
    assert len(seen.all("script")) == 1 and len(script.splitlines()) <= 150
    assert "</script" not in script and "http:" not in seen.source and "https:" not in seen.source


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_of_any_letters_are_letters(page, tmp_path, name):
    plain, odd = (
        page({"a": make_record()}),
        page({name: make_record(failed=name)}, data=name, preset=name),
    )
    only_one = Page(write_report(make_run(tmp_path / "odd", {name: make_record()}, task=name)))
    assert [tag for tag, _ in only_one.tags] == [tag for tag, _ in plain.tags]
    for seen in (odd, only_one):
        assert not any(
            attribute.startswith("on") for _, attributes in seen.tags for attribute in attributes
        )
        assert len(seen.all("script")) == 1
    assert all(
        os.path.exists(os.path.join(os.fsencode(tmp_path / "odd"), file))
        for file in only_one.files()
    )
    assert name.encode(errors="backslashreplace").decode() in only_one.texts["h2"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_of_any_letters_stand_in_a_table_too(tmp_path, name):
    folder = tmp_path / "a #1?" / name
    for method in ("dmilo", "<b>dps"):
        make_run(folder / method, {name: make_record()}, method=method)
    seen = Page(write_report(str(folder)))
    assert (
        len(seen.all("script")) == 1
        and not seen.all("b", "other")
        and "b" not in [tag for tag, a in seen.tags if not a.get("class")]
    )
    assert not any(
        attribute.startswith("on") for _, attributes in seen.tags for attribute in attributes
    )
    assert len(seen.files()) >= 8 and all(
        os.path.exists(os.path.join(os.fsencode(folder), file)) for file in seen.files()
    )


@pytest.mark.usefixtures("tiny_prior", "short_searches")
def test_a_real_run_of_a_file_with_an_odd_name(script, tmp_path):
    odd = tmp_path / "<img src=x onerror=alert(1)>.png"
    Image.new("RGB", (64, 64), "teal").save(odd)
    result = script(
        "dmilo.py",
        "--measured",
        odd,
        "--sigma",
        0.1,
        "-l",
        tmp_path / "out",
        "--name",
        "run",
        "--cuda",
        -1,
    )
    assert result.code == 0 and "report.html" in result.out, result.err
    folder = tmp_path / "out" / "photo" / "denoising" / "run"
    seen = Page(folder / "report.html")
    assert odd.stem in seen.texts["h2"] and not any("onerror" in a for _, a in seen.tags)
    assert all((folder / file.decode()).exists() for file in seen.files())


def test_many_images_are_paged(page, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "PER_PAGE", 3)
    pages = [
        page({f"x{n}": make_record() for n in range(7)}),
        *(Page(tmp_path / "run" / f"report-{n}.html") for n in (2, 3)),
    ]
    assert [[a["id"] for a in seen.all("article")] for seen in pages] == [
        ["i0", "i1", "i2"],
        ["i3", "i4", "i5"],
        ["i6"],
    ]
    rows = re.findall(r'<th scope="row"><a href="([^"]*)">(x\d)', pages[0].source)
    assert rows == [
        ("#i0", "x0"),
        ("#i1", "x1"),
        ("#i2", "x2"),
        *((f"report-2.html#i{n}", f"x{n}") for n in (3, 4, 5)),
        ("report-3.html#i6", "x6"),
    ]
    assert {b"report.html", b"report-3.html"} <= set(pages[1].files())
    assert not os.path.exists(tmp_path / "run" / "report-4.html")


def test_two_hundred_images_are_written_in_two_seconds_and_less_than_five_megabytes(tmp_path):
    folder = make_run(tmp_path, {f"face {n}": make_record() for n in range(200)})
    started = time.process_time()
    path = write_report(folder)
    assert time.process_time() - started < 2 and os.path.getsize(path) < 5e6


def test_curves_join_the_ends_of_outer_iterations(page):
    circles = lambda seen: len(seen.all("circle")) / 2  # of PSNR and residual
    assert circles(page({"a": make_record()})) == 3  # an old record does not say
    assert circles(page({"a": make_record(ends_outer=[False, True, True])})) == 2


def test_a_photograph_has_no_psnr(page):
    seen = page(
        {"cup": make_record(None)}, pictures=("measurement", "final", "result"), measured=True
    )
    assert (
        "nobody knows the true pictures" in seen.text
        and "PSNR, dB" not in seen.text
        and "chosen residual" in seen.text
    )


def test_samples_and_a_kernel_that_was_found(page):
    figures = {"psnr": 25.5, "ssim": 0.8, "lpips_alex": 0.1}
    samples = {
        "count": 2,
        "spread": 0.0321,
        "inside_83": 0.954,
        "mean": figures,
        "each": [figures, {**figures, "psnr": 24.25}],
    }
    pictures = (
        "measurement",
        "final",
        "result",
        "sample_0",
        "sample_1",
        "mean",
        "spread",
        "kernel",
        "kernel_true",
    )
    seen = page({"a": make_record(samples=samples, kernel_error=0.25)}, pictures=pictures)
    for told in (
        "24.25 dB",
        "samples' spread 4.1 of 255",
        "95 % of the true values in the 83 % interval",
        "kernel off by 0.250",
        "kernel found",
        "true kernel",
        "sample 1",
    ):
        assert told in " ".join(seen.text.split()), told


@pytest.mark.parametrize("gone", ["pictures", "chosen", "iterates"])
def test_a_run_that_lacks_something_has_a_page(page, gone):
    failed = {
        key: []
        for key in ("psnr", "ssim", "lpips_alex", "residual", "iterates", "evaluations", "elapsed")
    }
    record = make_record()
    if gone == "iterates":
        record.update(failed, failed="0_x is not finite")
    if gone != "pictures":
        del record["chosen"]
    seen = page({"a": record}, **({"pictures": ()} if gone == "pictures" else {}))
    assert ("failed: 0_x is not finite" in seen.text) == (gone == "iterates") and (
        "23.00" in seen.text
    ) == (gone != "iterates")
    assert bool(seen.all("img")) == (gone != "pictures")


@pytest.fixture
def table(tmp_path):
    """Two tasks of three methods, one of which is the best in PSNR, another in LPIPS; the third is slow."""
    figures = {
        "dps": (31.0, {"lpips_alex": [0.3]}),
        "dmilo": (32.0, {"lpips_alex": [0.1]}),
        "daps": (33.0, {"lpips_alex": [0.2], "seconds": 99.0}),
    }
    for method, (psnr, more) in figures.items():
        for task in ("inpainting", "motion_deblur"):
            make_run(
                tmp_path / "runs" / method / task,
                {f"{n}": make_record((psnr,), **more) for n in range(10)},
                method,
                task,
                pictures=("measurement", "origin", "final"),
            )
    return tmp_path


def test_a_table_marks_the_best_and_the_second(table):
    seen = Page(write_report(str(table)))
    cells = re.findall(
        r'<span class="(\w*)">([\d.]+)</span><small class="(\w*)">([\d.]+)', seen.source
    )
    rows = [
        ("best", "33.00", "second", "0.2000"),
        ("second", "32.00", "best", "0.1000"),
        ("", "31.00", "", "0.3000"),
    ]
    assert cells == [cell for cell in rows for _ in range(2)]
    ids = {a["id"] for _, a in seen.tags if "id" in a}
    assert len(seen.all("a", "cell")) == 6 and all(
        a["href"][1:] in ids for a in seen.all("a", "cell")
    )


def test_a_table_holds_copies_of_its_first_pictures(table):
    seen = Page(write_report(str(table)))
    copies = [a["src"] for a in seen.all("img") if a["src"].startswith("data:image/webp;base64,")]
    assert len(copies) == 2 * (2 + 3) * report.SHOWN
    assert Image.open(io.BytesIO(base64.b64decode(copies[0].partition(",")[2]))).size == (8, 8)


def test_a_table_leads_to_the_pages_of_its_runs(table):
    assert (
        b"runs/dps/inpainting/report.html" not in Page(write_report(str(table))).files()
    )  # an old run, which has none
    write_report(str(table / "runs" / "dps" / "inpainting"))
    assert b"runs/dps/inpainting/report.html" in Page(write_report(str(table))).files()


def test_the_front_leaves_out_what_is_slower_and_no_better(tmp_path):
    for method, psnr, seconds in (
        ("a", 20.0, 1.0),
        ("b", 25.0, 10.0),
        ("c", 24.0, 50.0),
        ("d", 30.0, 100.0),
    ):
        make_run(tmp_path / method, {"0": make_record((psnr,), seconds=seconds)}, method)
    source = Page(write_report(str(tmp_path))).source
    points = re.findall(r'class="number" cx="([\d.]+)" cy="([\d.]+)"', source)
    line = re.findall(r'class="curve" d="M([\d. ]+)"', source)
    assert line[0].split() == [n for i in (0, 1, 3) for n in points[i]]


def test_runs_of_one_name_are_told_apart(tmp_path):
    for folder, more in (("first", {}), ("second", {}), ("other", {"sigma": 0.05})):
        make_run(tmp_path / folder, {"a": make_record()}, **more)
    make_run(
        tmp_path / "cup",
        {"cup": make_record(None)},
        pictures=("measurement", "result"),
        measured=True,
    )
    seen = Page(write_report(str(tmp_path)))
    assert [" ".join(text.split()) for text in seen.texts["h2"]] == [
        "inpainting, cup",
        "inpainting, data/demo",
        "inpainting, data/demo, sigma 0.05",
    ]
    assert "dmilo, fast, first" in seen.text and "dmilo, fast, second" in seen.text


@pytest.mark.parametrize("content", [None, "", "[]", "{", '{"method": 1}'])
def test_what_is_no_run_is_one_line(script, tmp_path, content):
    os.makedirs(tmp_path / "record")
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    result = script("report", tmp_path)
    assert result.code == 2 and len(result.err.splitlines()) == 1 and str(tmp_path) in result.err


def test_a_folder_without_runs_is_one_line(script, tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        result = script("report", folder)
        assert (
            result.code == 2
            and len(result.err.splitlines()) == 1
            and "no finished run" in result.err
        )


@pytest.mark.parametrize(
    "values", [[1.0], [0.0, 0.0], [-3.0, 5.0], [1e-9, 1e9], [0.0, 1e-12], [99.99, 100.0]]
)
@pytest.mark.parametrize("logarithmic", [True, False])
def test_an_axis_holds_its_values_and_a_few_marks(values, logarithmic):
    place, marks = axis(values, 0, 100, logarithmic)
    assert all(0 < place(value) < 100 for value in values)
    assert (
        all(0 <= at <= 100 for at, _ in marks)
        and 1 <= len(marks) <= 40
        and len({text for _, text in marks}) == len(marks)
    )
