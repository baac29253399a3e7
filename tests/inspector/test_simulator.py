"""The simulator against the machine: what a reader clicks to is what the planner says, in every respect that the page shows."""

from __future__ import annotations

import random
from typing import Any

from adapterstate import CHARTS
from adapterstate.diagrams.dot import anchor
from adapterstate.explore import SIMULATOR
from adapterstate.explore.calls import public_call
from adapterstate.explore.menu import Menu
from adapterstate.inspection import status_of
from adapterstate.inspector import page
from adapterstate.machine.plan import Plan, plan
from adapterstate.machine.records import Event, Facts

from .browser import Browser
from .models import small

SEQUENCES, LENGTH = 200, 12


def expected(facts: Facts, last: Plan) -> dict[str, Any]:
    """What the page has to show of facts, and of the event that was clicked last.

    Adapters in the order of the world: states that differ only in the order in which adapters came are one in the graph.
    """
    status = status_of(facts)
    held = ["disable_adapters()"] if facts.disabled_by_call else []
    names = [name for name in SIMULATOR.adapters if name in status.adapters]
    return {
        "summary": status.summary + (f"; held by {held[0]}" if held else ""),
        "head": [[name, status.adapters[name]] for name in names],
        "rows": sorted(
            [path, facts.modules[path].activation] + [f"{cells[name]} {status.kinds[path][name]}" if cells[name] else "-" for name in names]
            for path, cells in status.modules.items()
        ),
        "why": sorted(map(str, last.refusals) if not last.accepted else _taken(last)),
        "lit": sorted(
            {anchor("activation", one.activation) for one in facts.modules.values()}
            | {anchor("enablement", facts.enablement)}
            | {anchor("trainability", one.trainability) for one in facts.adapters.values()}
        ),
        "taken": sorted(
            {
                f"{move.chart}.{move.before}->{move.chart}.{move.after}"
                for move in last.steps[0].moves
                if last.accepted and move.before != move.after
            }
        ),
        "refused": sorted(public_call(event) for event in events(facts) if not plan(CHARTS, facts, [event]).accepted),
        "offered": sorted(public_call(event) for event in events(facts)),
    }


def _taken(last: Plan) -> list[str]:
    """Every row taken, as the page says it."""
    return [
        f"{move.chart} {subject or 'the model'}: {move.before} → {move.after}{' (stays)' * (move.before == move.after)}"
        for move in last.steps[0].moves
        for subject in move.subjects
    ]


MENU = Menu(SIMULATOR)


def events(facts: Facts) -> tuple[Event, ...]:
    return MENU.events(facts)


def shown(read: dict[str, Any]) -> dict[str, Any]:
    """What the page shows; the order of modules, reasons and events has no meaning."""
    found = {key: value for key, value in read.items() if key not in ("status", "log")}
    # Two subjects that take one arrow light it once.
    found["taken"] = sorted(set(read["taken"]))
    return found | {key: sorted(found[key]) for key in ("rows", "why", "refused", "offered")}


def test_clicking_is_what_the_machine_does(browser: Browser) -> None:
    """200 random sequences: after each click, the state, the reasons or rows, and what is offered and refused next are the planner's."""
    browser.open(page(small()))
    chance = random.Random(2758)
    reached, accepted, refused = set(), 0, 0
    wanted: dict[tuple[str, str], dict[str, Any]] = {}
    for _ in range(SEQUENCES):
        facts, clicks, path = Facts(), [], []
        for _ in range(LENGTH):
            event = chance.choice(events(facts))
            found = plan(CHARTS, facts, [event])
            accepted, refused = accepted + found.accepted, refused + (not found.accepted)
            facts = found.after if found.accepted else facts
            key = (repr(facts), public_call(event) + str(found.before))
            if key not in wanted:
                wanted[key] = expected(facts, found)
            clicks.append(public_call(event))
            path.append((wanted[key], found.accepted))
            reached.add(repr(status_of(facts)))
        for number, (read, (want, yes)) in enumerate(zip(browser.play(clicks), path, strict=True), 1):
            assert shown(read) == want, clicks[:number]
            assert read["log"] == number
            assert (" is refused; nothing has changed." in read["status"]) is not yes
    assert accepted > 1000
    assert refused > 300
    assert len(reached) > 100


def test_undo_and_reset(browser: Browser) -> None:
    """Undo goes back one event at a time, refused ones included, to what was shown before; reset goes back to the start."""
    browser.open(page(small()))
    start = browser.read()
    first, second, third = browser.play(
        ["add_adapter('poet', its config, on_overlap='error')", "merge_adapter(['poet'])", "delete_adapter('poet')"]
    )
    assert third["why"] == [
        "q_proj (lora): 'poet' is merged  [not_merged_here]",
        "lm_head (modules_to_save): 'poet' is merged  [not_merged_here]",
    ]
    for before in (second, first, start):
        browser.one("#sim-undo").click()
        after = browser.read()
        assert {**after, "status": ""} == {**before, "status": ""}
    assert not browser.one("#sim-undo").is_enabled()
    browser.play(["disable_adapters()"])
    browser.one("#sim-reset").click()
    assert {**browser.read(), "status": ""} == {**start, "status": ""}
    assert browser.text("#sim-status") == "Back at the start. No adapter is present."


def test_the_mouse(browser: Browser) -> None:
    """The buttons can be hit where they are drawn."""
    browser.open(page(small()))
    browser.one("""[data-event="add_adapter('chemist', its config, on_overlap='error')"]""").click()
    browser.one("""[data-event="add_adapter('chemist', its config, on_overlap='error')"]""").click()
    assert (
        browser.text("#sim-log")
        == "add_adapter('chemist', its config, on_overlap='error')add_adapter('chemist', its config, on_overlap='error') ✕ refused"
    )
    assert browser.one("#sim-why li").text == "there is an adapter 'chemist' already; delete it first, or choose another name [name_is_new]"
