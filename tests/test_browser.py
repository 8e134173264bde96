"""report.html in a browser: Debian's chromium and chromium-driver, steered by selenium (pip install selenium)."""

import json
import os
import shutil
from urllib.parse import quote

import pytest
from test_report import ODD_NAMES, make_record, make_run

from report.page import write_report

pytestmark = [pytest.mark.slow, pytest.mark.browser]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="needs selenium: pip install selenium"
    )
    driver = shutil.which("chromedriver")
    if not driver or not shutil.which("chromium"):
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


class Tab:
    """A page in the browser, in a window of a size and in light or dark colours."""

    def __init__(self, chromium, path, width=1400, height=900, scheme="light"):
        self.driver = chromium
        chromium.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )
        chromium.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        for log in ("browser", "performance"):
            chromium.get_log(log)  # what was there before
        chromium.get("file://" + quote(os.path.abspath(path)))

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def split(self):
        """Where the right picture begins, in percent of the stack's width."""
        return float(
            self.run("return getComputedStyle(document.querySelector('.after')).clipPath")
            .split("(")[1]
            .rstrip("%)px")
            .split()[-1]
        )

    def left_alone(self):
        """Was nothing fetched, said to the console or asked of the user since the page was opened?"""
        messages = [
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        ]
        fetched = [
            m["params"]["request"]["url"]
            for m in messages
            if m["method"] == "Network.requestWillBeSent"
        ]
        assert fetched and all(url.startswith(("file:", "data:")) for url in fetched), fetched
        assert self.driver.get_log("browser") == []
        assert self.run(
            "return document.images.length === 0 || [...document.images].every(i => !i.complete || i.naturalWidth > 0)"
        )


@pytest.fixture
def run_page(tmp_path):
    psnr = {"a": (9.0, 10.0), "b": (30.0, 31.0), "c": (20.0, 25.0)}
    return write_report(
        make_run(tmp_path / "run", {name: make_record(values) for name, values in psnr.items()})
    )


@pytest.fixture
def table_page(tmp_path):
    for method in ("dps", "dmilo"):
        for task in ("inpainting", "motion_deblur"):
            make_run(
                tmp_path / method / task, {"a": make_record(), "b": make_record()}, method, task
            )
    return write_report(str(tmp_path))


def test_the_slider_moves_by_keyboard(chromium, run_page):
    tab = Tab(chromium, run_page)
    slider = tab.one("input[type=range]")
    assert tab.split() == 50
    slider.send_keys("\ue014" * 10)  # the right arrow
    assert tab.split() == 60
    slider.send_keys("\ue011")  # Home
    assert tab.split() == 0
    tab.left_alone()


def test_the_slider_moves_by_pointer(chromium, run_page):
    from selenium.webdriver import ActionChains

    tab = Tab(chromium, run_page)
    frame = tab.one(".frame")
    width = frame.size["width"]
    ActionChains(chromium).move_to_element(frame).click_and_hold().move_by_offset(
        width // 4, 0
    ).perform()
    assert tab.split() == pytest.approx(75, abs=1)
    ActionChains(chromium).release().move_by_offset(-width // 2, 0).perform()
    assert tab.split() == pytest.approx(75, abs=1)
    tab.left_alone()


def test_the_slider_moves_by_touch(chromium, run_page):
    tab = Tab(chromium, run_page, width=400)
    tab.run("document.querySelector('.frame').scrollIntoView()")
    box = tab.run(
        "const b = document.querySelector('.frame').getBoundingClientRect(); return [b.left, b.top, b.width]"
    )
    points = lambda at: [{"x": x, "y": box[1] + 50} for x in at]
    touch = lambda kind, *at: chromium.execute_cdp_cmd(
        "Input.dispatchTouchEvent", {"type": kind, "touchPoints": points(at)}
    )
    touch("touchStart", box[0] + box[2] / 2)
    for share in (0.4, 0.3, 0.2):
        touch("touchMove", box[0] + share * box[2])
    touch("touchEnd")
    assert tab.split() == pytest.approx(20, abs=1)
    tab.left_alone()


def test_zoom_shows_hard_pixels_and_keeps_the_split_in_sight(chromium, tmp_path):
    tab = Tab(chromium, write_report(make_run(tmp_path, {"large": make_record()}, side=500)))
    look = (
        "const f = document.querySelector('.frame'), s = document.querySelector('.stack'); return "
    )
    assert (
        tab.run(look + "f.offsetWidth") == 384
        and tab.run(look + "getComputedStyle(s.children[0]).imageRendering") == "auto"
    )
    tab.run(
        "const s = document.querySelector('.zoom'); s.value = 8; s.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    assert tab.run(look + "s.offsetWidth / f.offsetWidth") == pytest.approx(8, abs=0.1)
    assert tab.run(look + "getComputedStyle(s.children[0]).imageRendering") == "pixelated"
    assert tab.split() == pytest.approx(50, abs=1)
    tab.run(look + "f.scrollLeft = 0")
    tab.run("return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert tab.split() == pytest.approx(50 / 8, abs=0.5)
    tab.left_alone()


def test_headings_sort(chromium, run_page):
    tab = Tab(chromium, run_page)
    order = lambda: [row.text.split()[0] for row in tab.all(".sortable tbody tr")]
    heading = next(
        button for button in tab.all(".sortable button") if button.text.startswith("PSNR")
    )
    assert order() == ["a", "b", "c"]
    heading.click()
    assert order() == ["a", "c", "b"]  # 10 before 25 before 31: by value, not by letters
    heading.click()
    assert order() == ["b", "c", "a"]
    tab.left_alone()


def test_a_picture_of_the_strip_comes_under_the_slider(chromium, run_page):
    tab = Tab(chromium, run_page)
    tab.one("a.thumb[href$='0_x.png']").click()
    assert tab.one(".after").get_attribute("src").endswith("images/a/0_x.png") and tab.one(
        ".after"
    ).get_attribute("alt").endswith("0_x")
    assert chromium.current_url.endswith("report.html")
    tab.left_alone()


def test_a_cell_leads_to_its_strip(chromium, table_page):
    tab = Tab(chromium, table_page)
    tab.all("a.cell")[-1].click()
    article = tab.all("article")[-1]
    shown = article.find_element("css selector", ".after").get_attribute("src")
    assert shown.endswith("dps/motion_deblur/images/a/final.png")
    assert article.find_element("css selector", ".card:target h3").text.startswith("2 dps, fast")
    article.find_elements("css selector", ".card:target a.thumb")[1].click()
    assert article.find_element("css selector", ".name").text == "b"
    assert (
        article.find_element("css selector", ".before")
        .get_attribute("src")
        .endswith("images/b/measurement.png")
    )
    tab.left_alone()


def test_a_table_that_stands_alone_shows_its_copies(chromium, table_page, tmp_path):
    alone = shutil.copy(table_page, tmp_path / "alone.html")
    tab = Tab(chromium, alone)
    for name in ("dps", "dmilo"):
        os.rename(tmp_path / name, tmp_path / f"{name} elsewhere")
    chromium.get(chromium.current_url)
    tab.run("document.querySelectorAll('.stack').forEach(s => s.scrollIntoView())")
    shown = "return [...document.images].every(i => i.complete && i.naturalWidth > 0)"
    assert any(
        tab.run(shown) or tab.run("return new Promise(done => setTimeout(done, 200))")
        for _ in range(20)
    )


@pytest.mark.parametrize("kind", ["run", "table"])
def test_odd_names_do_nothing(chromium, tmp_path, kind):
    records = {name: make_record() for name in ODD_NAMES}
    for run in ("a", "b"):
        folder = make_run(
            tmp_path / "#1? %" / run, records, method=f"<b>{run}", task="<script>alert(2)</script>"
        )
    tab = Tab(chromium, write_report(folder if kind == "run" else str(tmp_path / "#1? %")))
    tab.run("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    loaded = "return [...document.images].every(i => i.complete && i.naturalWidth > 0)"
    assert any(
        tab.run(loaded) or tab.run("return new Promise(done => setTimeout(done, 200))")
        for _ in range(20)
    )
    tab.left_alone()


def test_no_other_script_runs(chromium, run_page):
    tab = Tab(chromium, run_page)
    tab.run("""document.body.insertAdjacentHTML('beforeend', '<img src="data:," onerror="window.ran = 1">');
               const s = document.createElement('script'); s.textContent = 'window.ran = 2'; document.body.append(s);""")
    tab.run("return new Promise(done => setTimeout(done, 200))")
    assert tab.run("return window.ran === undefined")
    assert any(
        "Content Security Policy" in entry["message"] for entry in chromium.get_log("browser")
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("kind", ["run", "table"])
def test_narrow_and_wide_light_and_dark(
    chromium, run_page, table_page, tmp_path, kind, width, scheme
):
    tab = Tab(chromium, run_page if kind == "run" else table_page, width, 1400, scheme)
    assert tab.run("return document.documentElement.scrollWidth") == width
    red = int(
        tab.run("return getComputedStyle(document.body).backgroundColor")
        .split("(")[1]
        .split(",")[0]
    )
    assert (red < 60) == (scheme == "dark")
    chromium.save_screenshot(str(tmp_path / f"{kind}-{width}-{scheme}.png"))
    tab.left_alone()


def test_two_hundred_images_open_in_two_seconds(chromium, tmp_path):
    path = write_report(make_run(tmp_path, {f"face {n}": make_record() for n in range(200)}))
    tab = Tab(chromium, path)
    assert tab.run("return performance.getEntriesByType('navigation')[0].loadEventEnd") < 2000
    tab.left_alone()
