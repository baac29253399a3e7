// What the parts of the page share. Everything written by users enters as text, never as HTML.

const data = JSON.parse(document.getElementById("data").textContent);

/** Make an element. Attributes that are null or false are left out; functions listen to the event they are named after. */
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** The paths of a group of modules: groups are kept as runs of neighbours. */
function paths(book, group) {
  const runs = book.groups[group], found = [];
  for (let at = 0; at < runs.length; at += 2)
    for (let place = runs[at]; place <= runs[at + 1]; place++) found.push(book.paths[place] || "the model");
  return found;
}

const FEW = 4, NAMED = 2; // so many modules are all named; of more, so many before the rest is counted

/** The modules of a group: few by name, many behind something that opens. The list is only made when it is opened. */
function modules(book, group) {
  const found = paths(book, group);
  if (found.length === 1) return make("code", {}, found[0]);
  const named = found.slice(0, NAMED).join(", "), more = found.length - NAMED;
  if (found.length <= FEW) return make("span", {}, `${found.length} modules: `, make("code", {}, found.join(", ")));
  return make("details", { class: "modules", toggle: (event) => {
    if (event.target.open && event.target.children.length === 1)
      event.target.append(make("ul", { class: "paths", tabindex: "0", "aria-label": `${found.length} modules` },
        ...found.map((path) => make("li", {}, make("code", {}, path)))));
  } }, make("summary", {}, `${found.length} modules: `, make("code", {}, named), ` and ${more} more`));
}

/** The table of modules and adapters of a view. Every cell says its state in words. */
function grid(book, view) {
  const caption = make("caption", {}, view.summary, view.held ? `; held by ${view.held}` : "");
  if (!view.adapters.length)
    return make("div", { class: "grid" }, make("p", { class: "caption" }, view.summary, view.held ? `; held by ${view.held}` : ""),
      make("p", { class: "none" }, "No adapter is present; every module is unwrapped."));
  const head = make("tr", {}, make("th", { scope: "col" }, "module"), make("th", { scope: "col" }, "state"),
    ...view.adapters.map(([name, trainability, use]) => make("th", { scope: "col" }, make("b", {}, name), make("br"),
      make("span", { class: `chip s-${trainability}` }, trainability), ` ${use}`)));
  const rows = view.rows.map(([state, group, cells]) => make("tr", {},
    make("th", { scope: "row" }, modules(book, group)), make("td", {}, state),
    ...cells.map(([cell, kinds], at) => cell
      ? make("td", { class: `s-${cell}${view.adapters[at][1] === "frozen" ? " dashed" : ""}` }, make("b", {}, cell), ` ${kinds}`)
      : make("td", { class: "absent" }, "-"))));
  return make("div", { class: "grid scroll", tabindex: "0", role: "group", "aria-label": "Modules and adapters" },
    make("table", { class: view.enablement }, caption, make("thead", {}, head), make("tbody", {}, ...rows)));
}

/** The rows that were taken, as sentences. */
function rowsTaken(book, charts, moves) {
  if (!moves.length) return make("p", {}, "No row was taken: nothing was concerned.");
  return make("ul", { class: "rows" }, ...moves.map((move) => {
    const chart = charts[move.chart], row = chart.rows[move.row];
    const who = move.modules === undefined ? make("code", {}, move.subjects.join(", ")) : modules(book, move.modules);
    return make("li", {}, make("span", { class: "where" }, chart.name), " ", who, ": ", chip(move.before), " → ", chip(move.after),
      move.before === move.after ? " (stays)" : "",
      row.case ? make("div", { class: "case" }, row.case) : null,
      ...row.guards.map(([name, label]) => make("div", { class: "case" }, `guard passed: ${label} `, make("code", {}, name))));
  }));
}

/** Mark in diagrams, whose identifiers begin with `prefix`, the states that something is in, and the arrows that were just taken. */
function light(prefix, charts, view, moves) {
  document.querySelectorAll(`[id^="${prefix}"]`).forEach((one) => one.classList.remove("lit", "taken"));
  const mark = (id, kind) => document.getElementById(prefix + id)?.classList.add(kind);
  const lit = view === null ? {} : { activation: view.rows.map((row) => row[0]), enablement: [view.enablement],
    trainability: view.adapters.map((one) => one[1]) };
  for (const chart of charts) for (const one of lit[chart.name] ?? []) mark(chart.states[one], "lit");
  for (const { chart, row, before } of moves) mark(charts[chart].rows[row].arrows[before], "taken");
}

const chip = (state) => make("span", { class: `chip s-${state}` }, state);

const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;

const fill = (id, ...children) => document.getElementById(id).replaceChildren(...children);

/** Text for screen readers: it stands elsewhere for those who see. */
const heard = (text) => make("span", { class: "heard" }, text);
