"""The page in a browser: by keyboard alone, for screen readers, in light and dark, with hostile names, and with 1,000 modules."""

from __future__ import annotations

import time

import pytest
from torch import nn

import adapterstate
from adapterstate import LoraConfig
from adapterstate.diagrams.dot import anchor
from adapterstate.inspector import page
from adapterstate.inspector.example import example

from .browser import Browser
from .models import HOSTILE, hostile, small

TAB, ENTER, LEFT, RIGHT, DOWN, HOME, END = "\ue004", "\ue007", "\ue012", "\ue014", "\ue015", "\ue011", "\ue010"
SPACE = " "


def walk(browser: Browser, until: str, steps: int = 80) -> None:
    """Press the tab key until the focus is on what matches."""
    for _ in range(steps):
        browser.press(TAB)
        if browser.run("return document.activeElement.matches(arguments[0])", until):
            return
    raise AssertionError(f"the tab key does not lead to {until}")


def test_by_keyboard_alone(browser: Browser) -> None:
    """Tab leads to the time line and the simulator in the order of the page; arrows, Enter and Ctrl+Z do the rest; the focus stays."""
    browser.open(page(example()))
    browser.press(TAB)
    assert browser.focused().text == "Skip to the present state"
    walk(browser, "#history-slider")
    assert browser.focused().get_attribute("aria-valuetext") == "8. merge_adapter(['poet'])"
    browser.press(LEFT)
    assert browser.focused().get_attribute("aria-valuetext") == "7. leave disable_adapter()"
    browser.press(HOME)
    assert browser.text("#history-step .none") == "No adapter is present; every module is unwrapped."
    browser.press(RIGHT, RIGHT)
    assert browser.text("#history-status").startswith("2. add_adapter('chemist', its config, on_overlap='error'). 3 modules changed.")
    walk(browser, ".entries button")
    browser.press(DOWN, DOWN, DOWN)
    assert browser.focused().text == "5. set_requires_grad(['chemist'], False)"
    assert browser.focused().get_attribute("aria-current") == "step"
    browser.press(END)
    assert browser.focused().text == "8. merge_adapter(['poet'])"
    walk(browser, "#sim-events button")
    browser.press(ENTER)
    assert browser.focused().get_attribute("data-event") == "add_adapter('poet', its config, on_overlap='error')"
    browser.press(DOWN, SPACE)
    assert browser.read()["summary"] == "adapters enabled; active: poet"
    assert browser.focused().get_attribute("data-event") == "add_adapter('chemist', its config, on_overlap='error')"
    browser.undo()
    browser.undo()
    assert browser.text("#sim-log") == ""
    assert browser.focused().get_attribute("data-group") == "add_adapter"
    assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_time_line_lights_the_charts(browser: Browser) -> None:
    """At each event the diagrams light the states that something is in after it; the arrows that it took are red, and no others."""
    state = small()
    seen = [state.facts]
    end = state.subscribe(lambda _: seen.append(state.facts))
    for event, *arguments in (("set_adapter", "chemist"), ("disable_adapters",), ("set_requires_grad", "poet", False), ("merge_adapter",)):
        getattr(state, event)(*arguments)
    end()
    browser.open(page(state))
    read = (
        """return ["lit", "taken"].map((kind) => [...document.querySelectorAll(`#history-charts .${kind}`)].map((one) => one.id).sort());"""
    )
    taken = {
        0: set(),  # layer 2 to 5 have no chemist; the others stay active
        1: {("activation", "active", "inactive")},
        2: {("enablement", "enabled", "disabled")},
        3: {("trainability", "trainable", "frozen")},
        4: {("activation", "active", "merged")},
    }
    for back, facts in enumerate(reversed(seen)):
        lit, arrows = browser.run(read)
        expected = {("activation", one.activation) for one in facts.modules.values()} | {("enablement", facts.enablement)}
        expected |= {("trainability", one.trainability) for one in facts.adapters.values()}
        assert lit == sorted(f"past-{anchor(*one)}" for one in expected)
        titles = {browser.text(f"#{arrow} title") for arrow in arrows}
        if at := len(seen) - 1 - back:
            assert titles == {f"{chart}.{before}->{chart}.{after}" for chart, before, after in taken[at]}
        browser.one("[aria-label='Previous event']").send_keys(ENTER)


def test_the_focus_is_not_lost(browser: Browser) -> None:
    """Who presses a button that is then gone is put beside it, not at the beginning of the page."""
    browser.open(page(small()))
    browser.play(["add_adapter('poet', its config, on_overlap='error')", "set_adapter([])"])
    browser.run("""document.querySelector(`[data-event="delete_adapter('poet')"]`).focus()""")
    browser.press(ENTER)
    assert browser.focused().get_attribute("data-event")
    browser.play(["disable_adapters()"])
    browser.one("#sim-undo").send_keys(ENTER)
    assert browser.focused().get_attribute("data-event")
    browser.one("[aria-label='First event']").send_keys(ENTER)
    assert browser.focused().text == "0. before the first event"


def test_arrows_scroll_where_something_scrolls(browser: Browser) -> None:
    """Inside the grid of the time line they move the grid, not the time."""
    browser.open(page(example()))
    browser.run("document.querySelector('#history-step .scroll').focus()")
    browser.press(LEFT)
    assert browser.text("#history-status").startswith("8.")


def test_for_screen_readers(browser: Browser) -> None:
    """Everything that can be reached has a name and a role; what changes is announced; tables have headers."""
    browser.open(page(example()))
    browser.play(["add_adapter('poet', its config, on_overlap='error')"])
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    reached = browser.all("button, input, summary, a[href], [tabindex='0']")
    assert len(reached) > 40
    for element in reached:
        assert element.accessible_name.strip(), element.get_attribute("outerHTML")[:200]
        assert element.aria_role not in ("none", "generic"), element.get_attribute("outerHTML")[:200]
    assert [(one.aria_role, one.accessible_name) for one in browser.all("section")] == [
        ("region", "Now"),
        ("region", "What would be refused now"),
        ("region", "History"),
        ("region", "Charts"),
        ("region", "Simulator"),
    ]
    assert [one.aria_role for one in browser.all("#sim-status, #history-status")] == ["status", "status"]
    assert {one.aria_role for one in browser.all("thead th")} == {"columnheader"}
    assert {one.aria_role for one in browser.all("tbody th")} == {"rowheader"}
    for drawn in browser.all("svg"):
        assert drawn.aria_role in ("image", "img")
        assert "chart" in drawn.accessible_name or "one for each" in drawn.accessible_name
    assert browser.run("return document.documentElement.lang") == "en"
    assert browser.run("return [...document.querySelectorAll('h1, h2, h3')].map((one) => +one.tagName[1])")[:2] == [1, 2]


CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const parse = (color) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data]; };
const light = (color) => color.slice(0, 3).map((part) => part / 255)
  .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
  .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
const behind = (one) => { for (; one; one = one.parentElement) { const color = parse(getComputedStyle(one).backgroundColor);
  if (color[3]) return color; } return [255, 255, 255]; };
document.querySelectorAll("details").forEach((one) => { one.open = true; });
const found = [];
for (const one of document.body.querySelectorAll("*")) {
  if (one.closest("svg, noscript, script, :disabled")) continue;
  if (![...one.childNodes].some((child) => child.nodeType === 3 && child.data.trim())) continue;
  const [a, b] = [light(parse(getComputedStyle(one).color)), light(behind(one))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  found.push([ratio, one.className + " " + one.textContent.slice(0, 40)]);
}
return found.sort((a, b) => a[0] - b[0]);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(browser: Browser, scheme: str) -> None:
    """All text stands out from what is behind it, by the 4.5 that WCAG AA asks for."""
    browser.scheme(scheme)
    browser.open(page(example()))
    browser.play(["add_adapter('poet', its config, on_overlap='error')", "merge_adapter(['poet'])", "delete_adapter('poet')"])
    back = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(255, 255, 255)") is (scheme == "light")
    found = browser.run(CONTRAST)
    assert len(found) > 200
    assert found[0][0] >= 4.5, found[:5]


def test_a_narrow_window(browser: Browser) -> None:
    """The page itself never scrolls sideways: what is wide scrolls in its frame."""
    browser.driver.set_window_size(520, 900)
    browser.open(page(example()))
    browser.play(["add_adapter('poet', its config, on_overlap='error')"])
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    browser.driver.set_window_size(1280, 1000)


def test_hostile_names_are_text(browser: Browser) -> None:
    """They are shown as they are, and nothing in them runs or becomes an element."""
    browser.open(page(hostile()))
    assert HOSTILE in browser.text("#now-grid")
    assert "onerror" in browser.text("#now-grid")
    for part in ("#history-parts", "#refused-list", "#charts"):
        assert "</script><b id=hacked>" in browser.text(part)
    assert browser.all("#hacked, img") == []
    assert browser.run("return window.hacked === undefined")
    assert browser.driver.title == "<i id=hacked>: adapters"


def test_a_thousand_modules(browser: Browser) -> None:
    """Modules in the same situation are one row; the page opens, steps and unfolds without delay."""
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(1000)))
    state = adapterstate.attach(model)
    state.add_adapter("all", LoraConfig(r=1, target_modules="all-linear"))
    state.add_adapter("most", LoraConfig(r=1, target_modules=r"\d{3}"))
    for name in ("most", "all") * 20:
        state.set_adapter(name)
    state.merge_adapter()
    text = page(state)
    assert len(text) < 600_000
    began = time.perf_counter()
    browser.open(text)
    opened = time.perf_counter() - began
    assert len(browser.all("#now-grid tbody tr")) == 2
    assert browser.run("return document.querySelectorAll('*').length") < 4000
    stepped = browser.run("""
      const began = performance.now(), steps = document.querySelectorAll(".entries button");
      steps.forEach((one) => one.click());
      return (performance.now() - began) / steps.length;""")
    for _ in ("open", "close", "open again"):
        browser.all("#now-grid summary")[-1].click()
        browser.run("return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert [len(browser.all("#now-grid li")), len(browser.all("#now-grid .paths"))] == [900, 1]
    assert opened < 5
    assert stepped < 100


def test_without_scripts(browser: Browser) -> None:
    """The grid and the charts can be read all the same."""
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open(page(small()))
        assert "active modules_to_save" in browser.one("#now-grid").text
        assert "This part needs JavaScript." in browser.one("#simulator").text
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
