"""report.html in a browser: Debian's chromium and chromium-driver, driven by selenium."""

import json
import os
import shutil
from urllib.parse import quote

import pytest
from test_report import ODD_NAMES, OF_PHOTOS, make_record, make_restored, make_run

from report.page import write_report

pytestmark = [pytest.mark.slow, pytest.mark.browser]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    driver = shutil.which("chromedriver")
    if not driver or not shutil.which("chromium"):
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


class Tab:
    """A page in the browser, in a window of a size and in light or dark colours."""

    def __init__(self, chromium, path, width=1400, height=900, scheme="light"):
        self.driver = chromium
        colours = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", colours)
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
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
        path = self.run("return getComputedStyle(document.querySelector('.after')).clipPath")
        return float(path.rstrip("%)px").split()[-1].split("(")[-1])

    def wait_for_pictures(self):
        loaded = "return [...document.images].every(i => i.complete && i.naturalWidth > 0)"
        pause = "return new Promise(done => setTimeout(done, 200))"
        assert any(self.run(loaded) or self.run(pause) for _ in range(20))

    def left_alone(self):
        """Nothing was fetched or logged since the page was opened, and no picture is broken."""
        log = [json.loads(one["message"])["message"] for one in self.driver.get_log("performance")]
        requests = [one["params"] for one in log if one["method"] == "Network.requestWillBeSent"]
        urls = [one["request"]["url"] for one in requests]
        assert urls and all(url.startswith(("file:", "data:")) for url in urls), urls
        assert self.driver.get_log("browser") == []
        broken = "return [...document.images].some(i => i.complete && i.naturalWidth === 0)"
        assert not self.run(broken)


@pytest.fixture
def run_page(tmp_path):
    psnr = {"a": (9.0, 10.0), "b": (30.0, 31.0), "c": (20.0, 25.0)}
    records = {name: make_record(values) for name, values in psnr.items()}
    return write_report(make_run(tmp_path / "run", records))


@pytest.fixture
def table_page(tmp_path):
    records = {"a": make_record(), "b": make_record()}
    for method in ("dps", "dmilo"):
        for task in ("inpainting", "motion_deblur"):
            make_run(tmp_path / method / task, records, method, task)
    return write_report(str(tmp_path))


@pytest.fixture
def photo_page(tmp_path):
    record = make_record(None, samples={"count": 2, "spread": 0.03})
    pictures = (*OF_PHOTOS, "mean", "spread", "sample_0", "sample_1")
    photos = {"boat": record, "cup": make_record(None)}
    return write_report(make_restored(tmp_path / "restored", photos, pictures=pictures))


def test_the_slider_moves_by_pointer(chromium, run_page):
    from selenium.webdriver import ActionChains

    tab = Tab(chromium, run_page)
    frame = tab.one(".frame")
    width = frame.size["width"]
    press = ActionChains(chromium).move_to_element(frame).click_and_hold()
    press.move_by_offset(width // 4, 0).perform()
    assert tab.split() == pytest.approx(75, abs=1)
    ActionChains(chromium).release().move_by_offset(-width // 2, 0).perform()
    assert tab.split() == pytest.approx(75, abs=1)
    tab.left_alone()


def test_the_slider_moves_by_touch(chromium, run_page):
    tab = Tab(chromium, run_page, width=400)
    tab.run("document.querySelector('.frame').scrollIntoView()")
    box = tab.one(".frame").rect

    def touch(kind, *shares):
        y = tab.run("return document.querySelector('.frame').getBoundingClientRect().top") + 50
        points = [{"x": box["x"] + share * box["width"], "y": y} for share in shares]
        event = {"type": kind, "touchPoints": points}
        chromium.execute_cdp_cmd("Input.dispatchTouchEvent", event)

    touch("touchStart", 0.5)
    for share in (0.4, 0.3, 0.2):
        touch("touchMove", share)
    touch("touchEnd")
    assert tab.split() == pytest.approx(20, abs=1)
    tab.left_alone()


def test_zoom_shows_hard_pixels_and_keeps_the_split_in_sight(chromium, tmp_path):
    tab = Tab(chromium, write_report(make_run(tmp_path, {"large": make_record()}, side=500)))
    look = "const f = document.querySelector('.frame'), s = f.firstElementChild; return "
    assert tab.run(look + "f.offsetWidth") == 384
    assert tab.run(look + "getComputedStyle(s.children[0]).imageRendering") == "auto"
    tab.run(
        "const s = document.querySelector('.zoom'); s.value = 8;"
        "s.dispatchEvent(new Event('input', {bubbles: true}))"
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

    def order():
        return [row.text.split()[0] for row in tab.all(".sortable tbody tr")]

    heading = next(one for one in tab.all(".sortable button") if one.text.startswith("PSNR"))
    assert order() == ["a", "b", "c"]
    heading.click()
    assert order() == ["a", "c", "b"]  # 10 before 25 before 31: by value, not by letters
    heading.click()
    assert order() == ["b", "c", "a"]
    tab.left_alone()


def test_a_photograph_is_restored_at_first_and_compared_by_the_slider(chromium, photo_page):
    tab = Tab(chromium, photo_page)
    assert tab.split() == 0 and tab.one(".after").size["width"] >= 600
    slider = tab.one("input[type=range]")
    slider.send_keys("\ue014" * 10)  # the right arrow
    assert tab.split() == 10
    slider.send_keys("\ue010")  # End
    assert tab.split() == 100
    tab.one("a.thumb[href$='sample_1.png']").click()
    assert tab.split() == 50  # so that both are visible
    assert tab.one(".after").get_attribute("src").endswith("run/images/boat/sample_1.png")
    assert tab.one(".after").get_attribute("alt").endswith("sample 1")
    assert chromium.current_url.endswith("report.html")
    tab.left_alone()
    tab.one("a.thumb[href$='spread.png']").click()  # of another shape: not for the slider
    assert chromium.current_url.endswith("spread.png")


def test_a_cell_leads_to_its_strip(chromium, table_page):
    tab = Tab(chromium, table_page)
    tab.all("a.cell")[-1].click()
    article = tab.all("article")[-1]
    right = article.find_element("css selector", ".after").get_attribute("src")
    assert right.endswith("dps/motion_deblur/images/a/final.png")
    assert article.find_element("css selector", ".card:target h3").text.startswith("2 dps, fast")
    article.find_elements("css selector", ".card:target a.thumb")[1].click()
    assert article.find_element("css selector", ".name").text == "b"
    left = article.find_element("css selector", ".before").get_attribute("src")
    assert left.endswith("images/b/measurement.png")
    tab.left_alone()


def test_a_table_without_its_runs_shows_its_copies(chromium, table_page, tmp_path):
    alone = shutil.copy(table_page, tmp_path / "alone.html")
    tab = Tab(chromium, alone)
    for name in ("dps", "dmilo"):
        os.rename(tmp_path / name, tmp_path / f"{name} elsewhere")
    chromium.get(chromium.current_url)
    tab.run("document.querySelectorAll('.stack').forEach(s => s.scrollIntoView())")
    tab.wait_for_pictures()


@pytest.mark.parametrize("kind", ["run", "table"])
def test_odd_names_do_nothing(chromium, tmp_path, kind):
    records = {name: make_record() for name in ODD_NAMES}
    for run in ("a", "b"):
        head = {"method": f"<b>{run}", "task": "<script>alert(2)</script>"}
        folder = make_run(tmp_path / "#1? %" / run, records, **head)
    tab = Tab(chromium, write_report(folder if kind == "run" else str(tmp_path / "#1? %")))
    tab.run("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    tab.wait_for_pictures()
    tab.left_alone()


def test_no_other_script_runs(chromium, run_page):
    tab = Tab(chromium, run_page)
    tab.run("""
        const html = '<img src="data:," onerror="window.ran = 1">';
        document.body.insertAdjacentHTML('beforeend', html);
        const script = document.createElement('script');
        script.textContent = 'window.ran = 2';
        document.body.append(script);
    """)
    tab.run("return new Promise(done => setTimeout(done, 200))")
    assert tab.run("return window.ran === undefined")
    log = [entry["message"] for entry in chromium.get_log("browser")]
    assert any("Content Security Policy" in message for message in log)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("kind", ["run_page", "photo_page", "table_page"])
def test_narrow_and_wide_light_and_dark(chromium, request, tmp_path, kind, width, scheme):
    tab = Tab(chromium, request.getfixturevalue(kind), width, 1400, scheme)
    assert tab.run("return document.documentElement.scrollWidth") == width
    colour = tab.run("return getComputedStyle(document.body).backgroundColor")
    red = int(colour.split("(")[1].split(",")[0])
    assert (red < 60) == (scheme == "dark")
    chromium.save_screenshot(str(tmp_path / f"{kind}-{width}-{scheme}.png"))
    tab.left_alone()
