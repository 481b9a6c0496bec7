"""The page of hidden units in a real browser, by what a reader sees of it.

Needs Chromium, its driver and ``pip install -e ".[browser]"``; without them the tests are skipped.
"""

import os
import re
import shutil
import time
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from experiments.hidden_units.attribution import BACK, OUTPUTS, Attribution
from experiments.hidden_units.findings import score_units
from experiments.hidden_units.page import page, run_data
from experiments.hidden_units.recording import LEVELS, Recording, Signal
from experiments.hidden_units.texts import in_sequence, reading
from jaxrnn.data.text import Vocabulary

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    if os.environ.get("BROWSER_TESTS"):
        raise RuntimeError("expected Chromium and its driver, got neither, or one without the other")
    pytest.skip("Chromium and its driver are not installed", allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver", reason='needs pip install -e ".[browser]"')
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

pytestmark = pytest.mark.slow
TEXT = (
    'He said "so it is" and went.\nShe asked "why </script> not" of \u200fthem all.\n'
    "A line without any, and then another one.\n"
) * 8 + "é"
UNITS = 40
# The character just read did most for the next one, and the one before it half as much against it.
MOVED = Attribution(np.array([100, 300]), np.zeros((2, OUTPUTS, BACK)))
MOVED.moved[..., :2] = 1.0, -0.5
QUOTES = 17  # the unit that follows quotes; its h falls inside them


def recorded(seed):
    """Random units, one of which follows quotes."""
    text = reading([TEXT], Vocabulary.of(TEXT.replace("é", "")), {})
    random = np.random.default_rng(seed)
    values = random.integers(60, 200, (len(TEXT), UNITS)).astype(np.uint8)
    inside = text.labels["inside quotes"]
    values[:, QUOTES] = np.where(inside, 20, 230) + random.integers(0, 9, len(TEXT))
    signals = tuple(Signal(1, "h", unit) for unit in range(UNITS))
    low, high = np.full(UNITS, -1.0), np.ones(UNITS)
    return Recording(signals, values, low, high, np.full(len(TEXT), 1.5)), text


def data_of(name, seed):
    recording, text = recorded(seed)
    return run_data(name, recording, text, score_units(recording, text), MOVED)


def words():
    """A model that reads words, which nothing is known of but its units."""
    text = in_sequence([["the ", "cat ", "sat\n"], ["it ", "sat\n\n"]] * 40, {}, {})
    recording, _ = recorded(2)
    recording = recording._replace(
        values=recording.values[: len(text.text)], nats=np.full(len(text.text), np.nan)
    )
    return run_data("words", recording, text, score_units(recording, text))


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "units.html"
    path.write_text(page([data_of("first", 0), data_of("second", 1), words()]), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,800"):
        options.add_argument(argument)
    downloads = tmp_path_factory.mktemp("downloads")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.downloads = downloads
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, address):
    """The page as it is when it is opened; nothing may be said on the console, whatever is done."""
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(address)
    yield browser
    assert browser.get_log("browser") == []


def labelled(browser, label, kind):
    """The control that stands beside a visible label."""
    return browser.find_element(By.XPATH, f"//label[starts-with(normalize-space(.), '{label}')]//{kind}")


def press(browser, text):
    browser.find_element(By.XPATH, f"//button[normalize-space(.)='{text}']").click()


def status(browser):
    return browser.find_element(By.CSS_SELECTOR, "[role=status]").text


def units(browser):
    """The units of the list from top to bottom, by their names."""
    rows = browser.find_elements(By.CSS_SELECTOR, "[role=option]")
    return [
        row.find_element(By.TAG_NAME, "b").text for row in sorted(rows, key=lambda row: row.location["y"])
    ]


def colours(browser, start, end):
    """Of characters of the first line: red, green, blue."""
    signs = browser.find_elements(By.CSS_SELECTOR, ".row span")[start:end]
    return [
        tuple(map(int, sign.value_of_css_property("background-color").strip("rgba()").split(",")[:3]))
        for sign in signs
    ]


def chosen(browser):
    return browser.find_element(By.CSS_SELECTOR, "[aria-selected=true] b").text


def test_a_reader_finds_the_unit_of_quotes(opened):
    """Following visible labels alone."""
    Select(labelled(opened, "Follows", "select")).select_by_visible_text("inside quotes")
    best = units(opened)[0]
    assert best == f"h {QUOTES}, layer 1"
    assert chosen(opened) == best
    assert f"first: {best}" in [title.text for title in opened.find_elements(By.TAG_NAME, "h2")]
    quote = TEXT.index('"')
    (r, _, b), *_ = colours(opened, quote + 1, quote + 2)
    assert b > r  # low: purple
    (r, _, b), *_ = colours(opened, 1, 2)
    assert r > b  # high: orange


def test_text_is_what_it_was(opened):
    """What could end the program or turn the line around stands as it is; strangers are marked."""
    rows = opened.find_elements(By.CSS_SELECTOR, ".row")
    shown = "".join(row.get_attribute("textContent") for row in rows)
    assert TEXT.replace("\n", "↵").startswith(shown)
    assert "</script>" in shown
    opened.execute_script("document.querySelector('.text').scrollTop = 1e6")
    time.sleep(0.2)
    assert [mark.text for mark in opened.find_elements(By.CSS_SELECTOR, ".strange")] == ["é"]


def test_search_by_text(opened):
    box = labelled(opened, "Find", "input")
    box.send_keys("without any" + Keys.ENTER)
    assert status(opened) == "Place 1 of 8 of “without any”"
    press(opened, "Next")
    assert status(opened) == "Place 2 of 8 of “without any”"
    box.clear()
    box.send_keys("nowhere" + Keys.ENTER)
    assert status(opened) == "No place of “nowhere”"


def test_search_by_the_units_that_are_on(opened):
    """Against the same rule in NumPy."""
    press(opened, "Like the selection")
    assert status(opened) == "Select some characters of the text first"
    start, end = 3, 5
    opened.execute_script(
        "const signs = document.querySelectorAll('.row span'), range = document.createRange();"
        "range.setStart(signs[arguments[0]].firstChild, 0);"
        "range.setEnd(signs[arguments[1] - 1].firstChild, 1);"
        "getSelection().removeAllRanges(); getSelection().addRange(range);",
        start,
        end,
    )
    press(opened, "Like the selection")
    values = recorded(0)[0].values.astype(float)
    low, high = ends(values)
    is_on = np.clip((values - low) / (high - low), 0, 1) >= 0.75
    on = is_on[start:end].all(0)
    enough = int(np.ceil(0.8 * on.sum()))
    places = is_on[:, on].sum(1) >= enough
    places[start:end] = False
    runs = int(np.sum(places & ~np.r_[False, places[:-1]]))
    what = f"where {enough} of the {on.sum()} units that are on in the selection are on"
    assert status(opened) == f"Place 1 of {runs} {what}"


def ends(values):
    """The levels at or below which a twentieth of the values lie, and nineteen."""
    counts = np.stack([np.bincount(column, minlength=LEVELS + 1) for column in values.T.astype(int)])
    seen = np.cumsum(counts, axis=1)
    low, high = ((seen <= part * len(values)).sum(1) for part in (0.05, 0.95))
    return low, np.maximum(high, low + 1)


def test_the_address_keeps_what_one_sees(opened):
    Select(labelled(opened, "Follows", "select")).select_by_visible_text("capital")
    opened.find_elements(By.CSS_SELECTOR, "[role=option]")[3].click()
    before, address = (chosen(opened), units(opened)[:20]), opened.current_url
    opened.get("about:blank")
    opened.get(address)
    assert (chosen(opened), units(opened)[:20]) == before
    assert Select(labelled(opened, "Follows", "select")).first_selected_option.text == "capital"


def test_keys_move_through_the_list(opened):
    names = units(opened)
    body = opened.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, "k")
    assert chosen(opened) == names[1]
    body.send_keys("/")
    assert opened.switch_to.active_element == labelled(opened, "Find", "input")


def test_two_models_side_by_side(opened):
    Select(labelled(opened, "Beside", "select")).select_by_visible_text("second")
    panels = opened.find_elements(By.CSS_SELECTOR, ".text")
    assert len(panels) == 2
    opened.execute_script("arguments[0].scrollTop = 60", panels[0])
    time.sleep(0.2)
    assert opened.execute_script("return arguments[0].scrollTop", panels[1]) == 60
    Select(labelled(opened, "Model", "select")).select_by_visible_text("second")
    titles = [title.text for title in opened.find_elements(By.TAG_NAME, "h2")]
    assert sum(title.startswith("second: ") for title in titles) >= 1


def test_pictures_of_what_one_sees(opened):
    for name, suffix in (("SVG", "svg"), ("PNG", "png")):
        press(opened, name)
        deadline = time.monotonic() + 20
        while not (found := list(opened.downloads.glob(f"*.{suffix}"))):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if suffix == "svg":
            signs = ElementTree.parse(found[0]).getroot().findall("{http://www.w3.org/2000/svg}text")
            text = "".join(sign.text or " " for sign in signs)
            assert text.startswith("He said")
        else:
            time.sleep(0.2)
            with Image.open(found[0]) as picture:
                assert picture.size[0] == 2 * 96 * 8


def test_a_place_is_told_under_the_pointer(opened):
    sign = opened.find_elements(By.CSS_SELECTOR, ".row span")[9]
    webdriver.ActionChains(opened).move_to_element(sign).perform()
    tip = opened.find_element(By.CSS_SELECTOR, "[role=tooltip]").text
    assert '"s", step 9' in tip
    assert "next character: 1.50 nats" in tip
    assert "inside quotes" in tip


def bars(browser):
    """Under which characters there is one: its height in pixels and its colour, by the step."""
    script = (
        "return Array.from(document.querySelectorAll('.panel:first-child .row span'))"
        ".filter((sign) => sign.style.boxShadow).map((sign) => [+sign.dataset.step, sign.style.boxShadow])"
    )
    found = {}
    for step, shadow in browser.execute_script(script):
        red, _, blue = map(int, re.search(r"rgb\((\d+), (\d+), (\d+)\)", shadow).groups())
        height = int(re.search(r"-(\d+)px", shadow)[1])
        found[step] = (height, "orange" if red > blue else "purple")
    return found


def test_what_moved_the_next_character(opened):
    press(opened, "What moved it")
    middle = next(at for at in range(100 + OUTPUTS // 2, 164) if not TEXT[at + 1].isspace())
    read, following = (TEXT[step].replace("\n", "↵") for step in (middle, middle + 1))
    assert status(opened).startswith(f"What moved the logit of “{following}” after “{read}”: orange raised")
    assert bars(opened) == {middle: (7, "orange"), middle - 1: (4, "purple")}
    sign = opened.find_element(By.CSS_SELECTOR, f".row span[data-step='{middle + 3}']")
    sign.click()
    assert set(bars(opened)) == {middle + 3, middle + 2}
    address = opened.current_url
    opened.get("about:blank")
    opened.get(address)
    assert set(bars(opened)) == {middle + 3, middle + 2}
    press(opened, "What moved it")
    assert min(bars(opened)) >= 300 + OUTPUTS // 2 - 1


def test_a_step_may_be_a_word(opened):
    Select(labelled(opened, "Model", "select")).select_by_visible_text("words")
    assert not opened.find_element(By.XPATH, "//button[.='What moved it']").is_displayed()
    lines = opened.find_elements(By.CSS_SELECTOR, ".row")
    assert [line.get_attribute("textContent") for line in lines[:4]] == [
        "the cat sat",
        "it sat",
        "",
        "the cat sat",
    ]
    labelled(opened, "Find", "input").send_keys("at sat" + Keys.ENTER)
    assert status(opened) == "Place 1 of 40 of “at sat”"
    assert [sign.text for sign in opened.find_elements(By.CSS_SELECTOR, ".found")[:2]] == ["cat ", "sat"]
    webdriver.ActionChains(opened).move_to_element(opened.find_element(By.CSS_SELECTOR, ".found")).perform()
    assert "nats" not in opened.find_element(By.CSS_SELECTOR, "[role=tooltip]").text
    press(opened, "SVG")
