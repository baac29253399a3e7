// The present state: the grid, whether torch agrees, and what would be refused.

fill("now-grid", grid(data, data.views[data.now]));

fill("findings", data.findings.length
  ? make("div", { class: "note" }, make("p", {}, `check() finds ${count(data.findings.length, "place")} where torch differs from the state:`),
    make("ul", {}, ...data.findings.map((finding) => make("li", {}, finding))))
  : make("p", { class: "quiet" }, "check() finds torch as the state says."));

{
  const { accepted, refused, notice } = data.asked;
  const why = ({ guard, reason, kinds, where }) => make("li", {},
    ...(where === null ? [] : [modules(data, where), kinds ? ` (${kinds})` : "", ": "]), reason, " ", guard ? make("code", { class: "guard" }, guard) : null);
  const names = [...new Set(refused.map((one) => one.event))];
  fill("refused-list",
    make("p", {}, `${refused.length} of ${refused.length + accepted.length} events that were put to explain() would be refused. `, notice),
    ...names.map((name) => {
      const here = refused.filter((one) => one.event === name);
      return make("div", { class: "asked" }, make("h3", {}, make("code", {}, name), ` ${here.length} refused`),
        make("ul", { class: "refusals" }, ...here.map((one) => make("li", {}, make("code", { class: "call" }, one.text), " ",
          make("span", { class: "error" }, one.error), make("ul", {}, ...one.reasons.map(why))))));
    }),
    make("details", {}, make("summary", {}, `${count(accepted.length, "event")} would be accepted`),
      make("ul", { class: "plain" }, ...accepted.map((one) => make("li", {}, make("code", {}, one.text), ` ${one.changes}`)))));
}
