// What comparison.html shows, for any selection of runs, again whenever one of them has moved on.
import { AXES, COSTS, configFields, costs, evaluationTables, groupMeans, importance, nameOf, parallel, resultTables, runTable,
  shown, smoothed, styles, xOf } from "/page-report/shared.js";
import { events, get, lines } from "./api.js";
import { Chart, legend } from "./chart.js";
import { breath, command, commandLine, empty, h, inFrame, plain, refill, setText, tell } from "./dom.js";
import { compareLink, runLink, selected, sweepLink } from "./runs.js";

const AGAIN_MS = 3000; // between two comparisons, at least,
const SHARE = 20; // and this many times what one takes
const MOST_LEGEND = 16;

export async function open(box, settings, about) {
  const ids = settings.getAll("id");
  if (!ids.length) return choose(box, about);
  const x = settings.get("x") ?? "tokens";
  let data = null;
  let closed = false;

  const introduction = h("p.quiet.under");
  const chosen = h("div.chips.chosen", { role: "group", "aria-label": "compared runs" });
  const part = (title, ...children) => h("section.card", { "aria-label": title.toLowerCase() }, h("h2", null, title), ...children);
  const control = (text, made) => h("label", null, `${text} `, made);
  const select = (pairs = []) => h("select", null, pairs.map(([value, text]) => h("option", { value }, text)));
  const metric = select(), axis = select(Object.entries(AXES)), colourBy = select(), cost = select(Object.entries(COSTS));
  const unit = select([["runs", "each run"], ["means", "means over seeds"]]);
  const smooth = h("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: 0 });
  const logX = h("input", { type: "checkbox" }), logY = h("input", { type: "checkbox" });
  const only = h("input", { type: "search", placeholder: "finished, lr=0.001 …", autocomplete: "off" });
  const chart = new Chart({ label: "curves of the compared runs", height: 440 });
  const front = new Chart({ label: "cost against val/bpb", height: 380 });
  const curveWords = h("div"), thinned = h("p.quiet");
  const tables = h("div"), share = h("div"), paths = h("div.parallel-box"), suites = h("div");
  const left = select(), right = select(), all = h("input", { type: "checkbox" }), fields = h("table");
  const sampleLeft = select(), sampleRight = select();
  const texts = [h("pre.text", { tabindex: "0", "aria-label": "sample on the left" }), h("pre.text", { tabindex: "0", "aria-label": "sample on the right" })];
  const list = h("table");
  const file = h("div");
  const evaluated = part("Evaluations", suites, h("p.quiet", null, "Each number with its 95 % interval, from RUN/evaluation/."));
  axis.value = x;

  box.append(h("div.heading", null, h("h1", null, "Compare")), introduction, chosen,
    part("Results", tables),
    part("Curves", h("div.controls", null, control("metric", metric), control("over", axis), control("colour by", colourBy), control("show", unit),
      control("smooth", smooth), control("log x", logX), control("log y", logY), control("only", only)), chart.element, curveWords, thinned),
    h("div.two", null,
      part("Cost", h("div.controls", null, control("val/bpb against", cost)), front.element, h("p.quiet", null, "On the line: no other run is both cheaper and better.")),
      part("What matters", share, paths)),
    evaluated,
    h("div.two", null,
      part("Configs side by side", h("div.controls", null, control("left", left), control("right", right), control("fields that are equal too", all)),
        h("div.scroll.tall", { tabindex: "0", role: "region", "aria-label": "fields" }, fields)),
      part("Samples", h("div.controls", null, control("left", sampleLeft), control("right", sampleRight)), h("div.columns", null, texts))),
    part("Runs", file, h("div.scroll", { tabindex: "0", role: "region", "aria-label": "compared runs" }, list)));

  const runs = () => data.runs;
  const words = (run) => plain(nameOf(run));
  const colourValue = (run) => colourBy.value === "configuration" ? run.words : colourBy.value === "status" ? run.status : run.config[colourBy.value];
  const looks = () => styles(runs().map(colourValue)); // of all runs: a value has one colour in every plot and with every filter

  const curves = inFrame(() => {
    if (closed || !data) return;
    const wanted = only.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const kept = runs().filter((run) => {
      const text = `${run.label} ${run.status} ${run.words}`.toLowerCase();
      return wanted.every((word) => text.includes(word));
    });
    const look = looks();
    const series = unit.value === "means"
      ? groupMeans(kept, metric.value, axis.value, +smooth.value).map((one) => ({ ...look(colourValue(one.members[0])), width: 2,
        name: `${plain(one.words) || "all"} (${one.members.length})`, group: shown(colourValue(one.members[0])), x: one.x, y: one.middle,
        low: one.members.length > 1 ? one.low : null, high: one.members.length > 1 ? one.high : null }))
      : kept.filter((run) => run.curves[metric.value]).map((run) => ({ ...look(colourValue(run)), name: words(run), group: shown(colourValue(run)),
        x: xOf(run, run.curves[metric.value], axis.value), y: smoothed(run.curves[metric.value].value, +smooth.value) }));
    chart.draw(series, { x: AXES[axis.value], y: metric.value, logX: logX.checked, logY: logY.checked,
      none: fetching ? "The curves are being read." : "No run has this metric yet." });
    const groups = [...new Map(series.map((one) => [one.group, { ...one, name: one.group }])).values()];
    refill(curveWords, groups.map((one) => [one.group, one.colour, one.dash]),
      () => groups.length > 1 && groups.length <= MOST_LEGEND && legend(groups, chart));
    setText(thinned, `${kept.length} of ${runs().length} runs. ${data.thinned ?? ""}`);
  });

  // The curves of a metric come from the server in parts, and are drawn as they come. They outlive a new
  // comparison, after which only those of the runs that have moved on are read again.
  const read = new Map(); // metric -> run's id -> { curve: null if it has none, stale }
  let fetching = null; // what aborts it
  async function fetchCurves() {
    const name = metric.value;
    if (!read.has(name)) read.set(name, new Map());
    const known = read.get(name);
    fetching?.abort();
    fetching = null;
    take();
    const wanted = runs().map((run) => run.id).filter((id) => known.get(id)?.stale ?? true);
    if (!wanted.length) return;
    const own = fetching = new AbortController();
    try {
      for await (const part of lines("/api/curves", { id: wanted, metric: name }, own.signal)) {
        for (const { id, curve } of part) known.set(id, { curve, stale: false });
        take();
      }
    } catch (error) {
      if (error.name !== "AbortError") tell(error.message, "error");
    }
    if (fetching !== own) return;
    fetching = null;
    const isCurve = [...known.values()].some(({ curve }) => curve?.step.length > 1);
    if (!isCurve && !metric.dataset.chosen && name === "val/bpb" && data.metrics.includes("train/loss")) {
      metric.value = "train/loss"; // until there is a second evaluation
      fetchCurves();
    } else take();
  }
  function take() {
    const known = read.get(metric.value);
    for (const run of runs()) run.curves = { [metric.value]: known?.get(run.id)?.curve ?? undefined };
    curves();
  }

  const dots = inFrame(() => {
    if (closed || !data) return;
    const { points, front: edge } = costs(runs(), cost.value);
    const look = looks();
    const xy = (some) => ({ x: some.map((run) => run.metrics[cost.value]), y: some.map((run) => run.metrics["val/bpb"]) });
    front.draw([{ ...xy(edge), colour: "#888888", dash: "dot", steps: true, silent: true },
      ...points.map((run) => ({ ...look(colourValue(run)), ...xy([run]), points: true, name: words(run), group: shown(colourValue(run)) }))],
    { x: COSTS[cost.value], y: "val/bpb", none: "A point for each finished run; none has finished." });
  });

  // Options of a select; keeps what was chosen if it is still there.
  function choices(target, pairs, first) {
    const text = JSON.stringify(pairs);
    if (target.dataset.text === text) return;
    const before = target.dataset.text ? target.value : String(first ?? "");
    target.dataset.text = text;
    target.replaceChildren(...pairs.map(([value, name]) => h("option", { value }, name)));
    if (pairs.some(([value]) => String(value) === before)) target.value = before;
  }

  function pair() {
    if (!data) return;
    configFields(fields, runs()[left.value], runs()[right.value], all.checked);
    [sampleLeft, sampleRight].forEach((side, i) => setText(texts[i], plain(runs()[side.value]?.sample || "This run has written no sample.")));
  }

  // In steps with a breath between them, so that the page answers meanwhile, also with hundreds of runs.
  async function draw() {
    const shows = data;
    const steps = [() => {
      introduction.textContent = plain(data.introduction);
      chosen.replaceChildren(...ids.map((id) => h("span.chip", null, h("a", { href: (runs().some((run) => run.id?.startsWith(`${id}/`)) ? sweepLink : runLink)(id) }, id),
        h("a.remove", { href: compareLink(ids.filter((other) => other !== id)), "aria-label": `leave out ${id}` }, "×"))),
      h("a.chip", { href: "#/runs" }, "add runs"));
      tables.replaceChildren();
      resultTables(tables, data);
      choices(metric, data.metrics.map((name) => [name, name]), "val/bpb");
      choices(colourBy, [["configuration", "configuration"], ["status", "status"], ...data.keys.map((key) => [key, key])],
        data.keys.length === 1 ? data.keys[0] : "configuration");
    }, () => {
      fetchCurves();
      dots();
    }, () => {
      const each = runs().map((run, i) => [i, words(run)]);
      for (const side of [left, sampleLeft]) choices(side, each, data.first ?? 0);
      for (const side of [right, sampleRight]) choices(side, each, data.second ?? each.length - 1);
    }, pair, () => {
      share.replaceChildren();
      importance(share, data.importance);
      paths.replaceChildren();
      parallel(paths, runs(), data.keys);
    }, () => {
      refill(file, ids, () => [h("p.note", null, "The same as one file that needs no server, with the numbers as CSV and JSON:"),
        commandLine(`python -m tinygpt.compare ${ids.map((id) => quoted(`${about.output_dir}/${id}`)).join(" ")}`)]);
      evaluated.hidden = !data.evaluations.length;
      suites.replaceChildren();
      evaluationTables(suites, data.evaluations);
      runTable(list, data);
      for (const scroll of box.querySelectorAll(".scroll")) {
        scroll.setAttribute("role", "region");
        if (!scroll.hasAttribute("aria-label")) scroll.setAttribute("aria-label", "table");
      }
    }];
    for (const step of steps) {
      if (closed || data !== shows) return; // a newer one is drawn
      step();
      await breath();
    }
    box.dataset.drawn = runs().length;
  }

  let took = 0;
  async function fresh() {
    const began = performance.now();
    const found = await get("/api/compare", { id: ids, x });
    took = performance.now() - began;
    if (closed) return;
    const first = data === null;
    data = found;
    if (first && data.runs.length > 12 && new Set(data.runs.map((run) => run.words)).size < data.runs.length) unit.value = "means";
    await draw();
  }

  metric.addEventListener("input", () => { metric.dataset.chosen = "yes"; fetchCurves(); });
  for (const one of [axis, colourBy, unit, smooth, logX, logY, only]) one.addEventListener("input", curves);
  colourBy.addEventListener("input", dots);
  cost.addEventListener("input", dots);
  for (const one of [left, right, all, sampleLeft, sampleRight]) one.addEventListener("input", pair);
  await fresh();
  let waits = null;
  const stop = events(() => ({}), {
    runs(event) {
      const mine = event.runs.filter((run) => ids.includes(run.id) || ids.includes(run.sweep));
      for (const known of read.values()) for (const { id } of mine) if (known.has(id)) known.get(id).stale = true;
      if (!mine.length || waits) return;
      waits = setTimeout(() => {
        waits = null;
        fresh().catch((error) => tell(error.message, "error"));
      }, Math.max(AGAIN_MS, SHARE * took));
    },
  });
  return () => { closed = true; stop(); fetching?.abort(); clearTimeout(waits); chart.close(); front.close(); };
}

const quoted = (text) => (/^[\w./=@%+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

// Without a selection: how to make one, and the sweeps, which are one.
async function choose(box, about) {
  const { runs, sweeps } = await get("/api/runs");
  box.append(h("h1", null, "Compare"));
  if (!runs.length) {
    box.append(empty(`There are no runs in ${about.output_dir} yet. A sweep trains several to compare:`,
      command(about, "train -m dataset=storyworld optimizer.lr=1e-3,3e-3 seed=0,1,2", "output_dir", "cache_dir")));
    return null;
  }
  box.append(h("div.empty", null, h("p", null, "Tick runs in the ", h("a", { href: "#/runs" }, "list of runs"), " and press Compare."),
    selected.size ? h("p", null, h("a.button.primary", { href: compareLink(selected) }, `Compare the ${selected.size} selected runs`)) : null,
    sweeps.length ? [h("p", null, "Or compare the runs of a sweep:"),
      h("ul.links", null, sweeps.slice(0, 12).map((sweep) => h("li", null, h("a", { href: compareLink([sweep.id]) }, plain(sweep.name || sweep.id)),
        h("span.quiet", null, ` ${sweep.runs.length} runs over ${sweep.swept.join(", ")}`))))] : null,
    h("p.note", null, "The same in a terminal writes one file that needs no server:"), commandLine(command(about, "compare latest", "output_dir"))));
  return null;
}
