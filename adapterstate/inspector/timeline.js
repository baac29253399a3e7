// The journal, one event at a time.

fill("history-notice", data.history.notice);
if (data.history.entries.length) {
  const { before, entries } = data.history;
  const steps = entries.map((entry) => ({ ...entry, text: entry.events.join(", then ") || entry.name }));
  if (before !== null) steps.unshift({ number: 0, text: "before the first event", view: before, moves: null, start: true });
  let at = -1;

  const title = (step) => (step.start ? "0. before the first event" : `${step.number}. ${step.text}`);
  const items = steps.map((step, place) => make("button", { type: "button", tabindex: "-1", "data-step": place, click: () => go(place) },
    make("span", {}, title(step)), !step.start && step.noop ? make("span", { class: "mark" }, " changes nothing") : ""));
  const button = (label, said, target) => make("button", { type: "button", "aria-label": said, click: () => go(target()) }, label);
  const controls = [button("First", "First event", () => 0), button("Previous", "Previous event", () => at - 1),
    button("Next", "Next event", () => at + 1), button("Last", "Last event", () => steps.length - 1)];
  const slider = make("input", { type: "range", id: "history-slider", min: 0, max: steps.length - 1, "aria-label": "Event",
    input: () => go(Number(slider.value)) });
  const said = make("p", { role: "status", id: "history-status", class: "status" });
  const shown = make("div", { id: "history-step" });
  const list = make("ol", { class: "entries", "aria-label": "Events of the journal" }, ...items.map((item) => make("li", {}, item)));

  function go(place) {
    const next = Math.max(0, Math.min(steps.length - 1, place));
    if (next === at) return;
    if (at >= 0) { items[at].removeAttribute("aria-current"); items[at].tabIndex = -1; }
    at = next;
    const step = steps[at], view = step.view === null ? null : data.views[step.view];
    items[at].setAttribute("aria-current", "step");
    items[at].tabIndex = 0;
    if (list.contains(document.activeElement)) items[at].focus();
    // By hand, since scrollIntoView would also scroll the page.
    list.scrollTop = items[at].offsetTop - list.offsetTop - list.clientHeight / 2;
    slider.value = at;
    slider.setAttribute("aria-valuetext", title(step));
    // A button that is disabled loses the focus.
    if (controls.includes(document.activeElement) && (at === 0 || at === steps.length - 1)) items[at].focus();
    controls[0].disabled = controls[1].disabled = at === 0;
    controls[2].disabled = controls[3].disabled = at === steps.length - 1;
    const changes = step.start || step.noop ? "" : step.changed === null ? " No module changed."
      : ` ${count(paths(data, step.changed).length, "module")} changed.`;
    const method = step.start || step.events.length === 0 || step.name === step.events[0].split("(")[0] ? "" : ` (by ${step.name})`;
    said.replaceChildren(`${title(step)}${method}.${step.noop ? " It changed nothing." : changes}`, view ? heard(` Now ${view.summary}.`) : "");
    shown.replaceChildren(
      view ? grid(data, view) : make("p", { class: "note" }, "What was the case after this event is not known."),
      ...(step.start || step.changed === null ? [] : [make("h3", {}, "Modules changed"), modules(data, step.changed)]),
      ...(step.moves === null ? [] : [make("h3", {}, "Rows taken"), rowsTaken(data, data.charts, step.moves)]));
    light("past-", data.charts, view, step.moves ?? []);
  }

  const keys = { ArrowLeft: () => at - 1, ArrowUp: () => at - 1, ArrowRight: () => at + 1, ArrowDown: () => at + 1, Home: () => 0,
    End: () => steps.length - 1 };
  fill("history-parts", make("div", { class: "columns", keydown: (event) => {
    // Inside what scrolls by itself the arrows scroll.
    if (!keys[event.key] || event.ctrlKey || event.altKey || event.metaKey || event.target.closest(".scroll, .paths")) return;
    event.preventDefault();
    go(keys[event.key]());
  } },
  make("div", { class: "side" }, make("div", { class: "controls" }, ...controls), slider,
    make("p", { class: "quiet" }, "Arrow keys step through the events; Home and End go to the ends."), list),
  make("div", { class: "wide" }, said, shown)));
  go(steps.length - 1);
}
