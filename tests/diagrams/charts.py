"""Charts to draw: the three, derived ones, and ones whose words are as awkward as words can be."""

from __future__ import annotations

import attrs

from adapterstate.errors import EventRefusedError
from adapterstate.machine import guards as g
from adapterstate.machine.charts import ACTIVATION, CHARTS, ENABLEMENT, TRAINABILITY, Chart, Row
from adapterstate.machine.guards import Choice, Guard

AWKWARD = "say \"x\" or 'y': [a] (b) {c}; <i>&amp; #35; #quot; `k` | *e* _u_ ~s~ 100% \\n \\l --> %% $x$ -- ,\nnext line\ttab é"
"""Every letter that means something to one of the formats."""

ODD_GUARD = Guard("odd|`guard`", AWKWARD, EventRefusedError, g.known.judge)
ODD_CHOICE = Choice('odd "choice": [x]', ("yes; no", "1. maybe", "- not"), AWKWARD + "?", g.first.select)

DEMANDING = ACTIVATION.with_guard("set_adapter", Guard("alone", "it is the only one", EventRefusedError, g.known.judge), source="merged")
LESS = ACTIVATION.without("unmerge_adapter", source="inactive")
ODD_LABELS = ACTIVATION.with_guard("delete_adapter", ODD_GUARD)

ODD_NAMES = Chart(
    name='odd "chart": <b>',
    subject="thing; or [what] |",
    states=("end", "state", "box3", 'a "b": c;\\', "[*]", "under_score_", "root"),
    initial="end",
    final=("[*]", "root"),
    rows=(
        Row("go `there` | now", ("end", "state"), None, None, "state"),
        Row("->", ("state",), ODD_CHOICE, "yes; no", "box3", (ODD_GUARD, g.known)),
        Row("->", ("state",), ODD_CHOICE, "1. maybe", 'a "b": c;\\'),
        Row("->", ("state",), ODD_CHOICE, "- not", "="),
        Row("finish", ("box3", 'a "b": c;\\'), None, None, "[*]"),
        Row("under", ("end",), None, None, "under_score_", (ODD_GUARD,)),
        Row("root", ("under_score_",), None, None, "root"),
    ),
)

DRAWN = {
    "activation": ACTIVATION,
    "enablement": ENABLEMENT,
    "trainability": TRAINABILITY,
    "with a guard": DEMANDING,
    "with a guard for one case": ACTIVATION.with_guard("delete_adapter", g.known, value="nothing"),
    "without rows": LESS,
    "of another subject": attrs.evolve(TRAINABILITY, subject="person"),
    "odd labels": ODD_LABELS,
    "odd names": ODD_NAMES,
}

ALL = [*CHARTS]
