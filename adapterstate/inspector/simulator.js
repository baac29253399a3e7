// The simulator follows the edges of the graph that `explore` exported. What may happen is in the edges; there is no rule in here.

{
  const graph = data.simulator, charts = graph.charts;
  const log = []; // what was clicked: { event, from, to, edge }
  let state = 0;

  const worn = graph.world.map(([adapter, path, kinds]) => make("li", {}, make("b", {}, adapter), " on ", make("code", {}, path), `: ${kinds}`));
  const menu = make("div", { id: "sim-events" });
  const said = make("p", { role: "status", id: "sim-status", class: "status" }, "No adapter is present. Choose an event.");
  const why = make("div", { id: "sim-why" });
  const now = make("div", { id: "sim-now" });
  const past = make("ol", { id: "sim-log", "aria-label": "Events so far", class: "log" });
  const undo = make("button", { type: "button", id: "sim-undo", click: back }, "Undo");
  const reset = make("button", { type: "button", id: "sim-reset", click: restart }, "Reset");

  const after = (edge) => (edge[1] === -1 ? "refused" : edge[1] === state ? "same" : "moves");
  const MARKS = { refused: "✕ refused", same: "= changes nothing", moves: "" };

  /** Say what happened. What also stands below is only heard. */
  const say = (text, more) => said.replaceChildren(text, heard(more));

  function choose(edge) {
    const text = graph.events[edge[0]][0], from = state, outcome = after(edge);
    if (edge[1] !== -1) state = edge[1];
    log.push({ text, from, edge, outcome });
    const summary = graph.views[graph.states[state]].summary;
    if (outcome === "refused") say(`${text} is refused; nothing has changed.`, ` ${graph.refusals[edge[2]].join(". ")}`);
    else say(`${text} is accepted${outcome === "same" ? " and changes nothing" : ""}.`, ` Now ${summary}.`);
    explainLast();
    show();
  }

  function explainLast() {
    const last = log.at(-1);
    if (!last) return why.replaceChildren();
    if (last.outcome === "refused") {
      why.replaceChildren(make("h3", {}, "Refused because"), make("ul", { class: "refusals" },
        ...graph.refusals[last.edge[2]].map((reason) => make("li", {}, reason))));
    } else {
      why.replaceChildren(make("h3", {}, "Rows taken"), rowsTaken(graph, charts, graph.moves[last.edge[2]]));
    }
  }

  function back() {
    const last = log.pop();
    if (!last) return;
    state = last.from;
    say(`${last.text} is undone.`, ` Now ${graph.views[graph.states[state]].summary}.`);
    explainLast();
    show();
  }

  function restart() {
    log.length = 0;
    state = 0;
    say("Back at the start.", " No adapter is present.");
    explainLast();
    show();
  }

  function show() {
    const view = graph.views[graph.states[state]], last = log.at(-1);
    now.replaceChildren(grid(graph, view));
    // A button that is disabled loses the focus.
    if (!log.length && [undo, reset].includes(document.activeElement)) menu.querySelector("button").focus();
    undo.disabled = reset.disabled = !log.length;
    past.replaceChildren(...log.map((one) => make("li", {}, make("code", {}, one.text), one.outcome === "moves" ? "" : ` ${MARKS[one.outcome]}`)));
    past.scrollTop = past.scrollHeight;
    offer();
    light("sim-", charts, view, last && last.outcome !== "refused" ? graph.moves[last.edge[2]] : []);
  }

  /** The buttons of this state. Who pressed one stays on it, or on its neighbour where it is gone. */
  function offer() {
    const focused = document.activeElement?.closest?.("#sim-events button")?.dataset;
    const groups = new Map();
    for (const edge of graph.edges[state]) {
      const [text, name] = graph.events[edge[0]], outcome = after(edge);
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(make("button", { type: "button", class: outcome, "data-event": text, "data-group": name, click: () => choose(edge) },
        make("span", {}, text), MARKS[outcome] ? make("span", { class: "mark" }, ` ${MARKS[outcome]}`) : ""));
    }
    menu.replaceChildren(...[...groups].map(([name, buttons]) => make("div", { role: "group", "aria-label": name, class: "events" }, ...buttons)));
    if (!focused) return;
    const all = [...menu.querySelectorAll("button")];
    (all.find((one) => one.dataset.event === focused.event) ?? all.find((one) => one.dataset.group === focused.group) ?? all[0])?.focus();
  }

  const keys = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1 };
  menu.addEventListener("keydown", (event) => {
    const all = [...menu.querySelectorAll("button")], at = all.indexOf(document.activeElement);
    if (!keys[event.key] || at < 0) return;
    event.preventDefault();
    all[(at + keys[event.key] + all.length) % all.length].focus();
  });
  document.getElementById("simulator").addEventListener("keydown", (event) => {
    if (event.key !== "z" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    back();
  });

  fill("simulator-parts",
    graph.notice ? make("p", { class: "note" }, graph.notice) : "",
    make("p", {}, `Click events on a small model and see what happens: all ${graph.states.length} states that it can reach were explored with the `,
      "charts above, and the simulator walks from one to the next. Refused events can be clicked too; they say why."),
    make("ul", { class: "plain" }, ...worn),
    make("div", { class: "columns" },
      make("div", { class: "side" }, make("h3", {}, "Events"), make("p", { class: "quiet" }, "Arrow keys move between events, Enter chooses, Ctrl+Z undoes."), menu),
      make("div", { class: "wide" }, make("div", { class: "controls" }, undo, reset), said, now, why, make("h3", {}, "So far"), past)));
  show();
}
