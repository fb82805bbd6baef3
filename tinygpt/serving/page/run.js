// One run, live: its curves, what was typed, samples, log, hardware and disk, and the buttons to stop it,
// resume it, compare it and write with it.
import { PALETTE, smoothed, table } from "/page-report/shared.js";
import { events, get, post } from "./api.js";
import { Chart, legend } from "./chart.js";
import { ago, ask, bytes, command, commandLine, copyButton, duration, empty, fixed, h, inFrame, isNumber, plain, refill, setText, short, status, tell, typed } from "./dom.js";
import { compareLink, keyConfig, runLink, selected, stepWords, sweepLink } from "./runs.js";

const AXES = { tokens: "tokens", step: "steps", elapsed_s: "seconds" };
const NOT_DRAWN = new Set(["step", "tokens", "elapsed_s", "time"]);
// One metric has one colour in every chart.
const COLOURS = Object.fromEntries(["train/loss", "val/loss", "val/bpb", "optim/lr", "optim/grad_norm", "perf/tokens_per_sec", "perf/mfu"]
  .map((metric, i) => [metric, PALETTE[i]]));
const TOGETHER = [["train/loss", "val/loss", "val/loss_ema"], ["val/bpb", "val/bpb_ema"]]; // metrics of one chart
const MOST_ROWS = 6000; // in the page; more are fetched again, thinned
const LOG_LINES = 400;
const DRAW_MS = 400; // new rows are drawn together, because a redraw takes time that the run may need

const colourOf = (metric) => COLOURS[metric] ?? PALETTE[[...metric].reduce((sum, c) => sum + c.charCodeAt(0), 3) % PALETTE.length];

export async function open(box, settings, about) {
  const follows = settings.get("id") === "latest";
  const newest = follows ? (await get("/api/runs")).runs[0] : null;
  if (follows && !newest) {
    box.append(h("h1", null, "The newest run"), empty("There is no run yet. Train one, and this page shows it at once:", command(about, "train dataset=storyworld", "output_dir", "cache_dir")));
    return events(() => ({}), { runs: (event) => { if (event.runs.length) dispatchEvent(new HashChangeEvent("hashchange")); } });
  }
  const id = follows ? newest.id : settings.get("id");
  let [detail, first] = await Promise.all([get("/api/run", { id }), get("/api/rows", { id })]);
  let rows = first.rows;
  let cursor = first.next;
  let closed = false;
  let run = detail.summary;

  // Heading and buttons

  const title = h("h1", null, plain(run.name || run.id));
  const state = h("span.state");
  const stopButton = h("button.danger", { type: "button", onclick: stop }, "Stop");
  const resumeButton = h("button", { type: "button", onclick: resume }, "Resume");
  const compare = h("a.button");
  const write = h("a.button.primary", { href: `#/playground?${new URLSearchParams({ model: id })}` }, "Write with it");
  const progress = h("progress", { max: 1, "aria-label": "progress" });
  const facts = h("dl.facts");
  const why = h("p.problem");
  const warned = h("div");
  box.append(
    h("p.crumbs", null, h("a", { href: "#/runs" }, "Runs"), run.sweep ? [" / ", h("a", { href: sweepLink(run.sweep) }, run.sweep)] : null,
      follows ? h("span.quiet", null, " · follows the newest run") : null),
    h("div.heading", null, title, state, h("span.gap"), h("div.buttons", null, stopButton, resumeButton, compare, write)),
    h("p.quiet.under", null, plain(keyConfig(run))), progress, facts, why, warned);

  function heading() {
    if (state.textContent !== run.status) state.replaceChildren(status(run.status));
    stopButton.hidden = !run.can?.stop;
    resumeButton.hidden = !run.can?.resume;
    write.hidden = !run.can?.generate;
    const others = new Set([...selected, id]);
    setText(compare, others.size > 1 ? `Compare with ${others.size - 1} selected` : "Compare");
    compare.href = compareLink(others);
    progress.value = run.progress ?? 0;
    const now = rows.at(-1) ?? {};
    const found = [
      ["step", stepWords(run)],
      [run.metric?.name ?? "val/bpb", fixed(run.metric?.value, 4) || "—"],
      ["best", fixed(run.metric?.best, 4) || "—"],
      ["loss", fixed(run.loss, 4) || "—"],
      ["tokens", short(run.tokens) || "—"],
      ["tokens/s", short(run.tokens_per_s ?? now["perf/tokens_per_sec"]) || "—"],
      ["time", duration(run.elapsed_s) || "—"],
      ["parameters", short(run.n_params) || "—"],
      ["started", ago(run.started ?? run.created) || "—"],
      ["disk", bytes(detail.disk_bytes) || "—"],
    ];
    if (facts.children.length !== found.length) facts.replaceChildren(...found.map(() => h("div", null, h("dt"), h("dd"))));
    found.forEach(([name, words], i) => {
      setText(facts.children[i].firstChild, name);
      setText(facts.children[i].lastChild, words);
    });
    setText(why, plain(run.error ?? ""));
  }

  async function stop() {
    const sure = await ask({ title: `Stop ${plain(run.name || run.id)}?`, yes: "Stop the run",
      text: "It saves a checkpoint and ends, as with Ctrl-C in its terminal. Resume goes on from there to the same weights." });
    if (!sure) return;
    stopButton.disabled = true;
    try {
      await post("/api/stop", { id, confirm: true });
      tell("The run saves and ends");
    } catch (error) {
      tell(error.message, "error");
    }
    stopButton.disabled = false;
  }

  async function resume() {
    const sure = await ask({ title: `Resume ${plain(run.name || run.id)}?`, yes: "Resume the run",
      text: "It goes on from its newest checkpoint, in a process of its own on the server's machine." });
    if (!sure) return;
    resumeButton.disabled = true;
    try {
      const { pid } = await post("/api/resume", { id, confirm: true });
      tell(`The run goes on in process ${pid}`);
    } catch (error) {
      tell(error.message, "error");
    }
    resumeButton.disabled = false;
  }

  // Curves

  const axis = h("select", null, Object.entries(AXES).map(([value, text]) => h("option", { value }, text)));
  const smooth = h("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: 0 });
  const logY = h("input", { type: "checkbox" });
  const grid = h("div.charts");
  const thinned = h("p.quiet");
  const charts = new Map();
  box.append(h("section.card", { "aria-label": "curves" },
    h("div.heading", null, h("h2", null, "Curves"), h("span.gap"), h("div.controls", null,
      h("label", null, "over ", axis), h("label", null, "smooth ", smooth), h("label", null, logY, " log y"))), grid, thinned));

  const draw = inFrame(() => {
    if (closed) return;
    const metrics = new Set(rows.flatMap((row) => Object.keys(row)).filter((name) => !NOT_DRAWN.has(name)));
    const groups = [...TOGETHER.map((group) => group.filter((name) => metrics.has(name))).filter((group) => group.length),
      ...[...metrics].filter((name) => !TOGETHER.flat().includes(name)).sort((a, b) => order(a) - order(b)).map((name) => [name])];
    if (!groups.length) groups.push(["train/loss"]);
    for (const group of groups) {
      const key = group[0] === "val/loss" ? "train/loss" : group[0];
      let made = charts.get(key);
      if (!made) {
        const wide = TOGETHER.flat().includes(key);
        const chart = new Chart({ label: `${group.join(" and ")} of ${run.name}`, height: wide ? 300 : 170 });
        made = { chart, words: h("div"), element: h(`figure${wide ? ".wide" : ""}`) };
        made.element.append(chart.element, made.words);
        charts.set(key, made);
        grid.append(made.element);
      }
      const series = group.map((name) => {
        const found = rows.filter((row) => isNumber(row[name]) && isNumber(row[axis.value]));
        return { name, group: name, colour: colourOf(name), x: found.map((row) => row[axis.value]),
          y: smoothed(found.map((row) => row[name]), name.startsWith("val/") ? 0 : +smooth.value) };
      });
      const positive = series.every((one) => one.y.every((v) => v > 0));
      made.chart.draw(series, { x: AXES[axis.value], y: group.join(", "), logY: logY.checked && positive,
        none: run.status === "queued" ? "The run waits for its turn." : "No rows yet: the first one comes with the first logged step." });
      refill(made.words, group, () => group.length > 1 && legend(series, made.chart));
    }
    setText(thinned, first.thinned ? `${fixed(first.n_rows)} rows; the charts show the least and the largest of each part, metrics.jsonl has all.` : "");
    heading();
    box.dataset.rows = rows.length;
  });
  const order = (name) => { const i = Object.keys(COLOURS).indexOf(name); return i < 0 ? 99 : i; };
  for (const control of [axis, smooth, logY]) control.addEventListener("input", draw);

  async function fresh() {
    [detail, first] = await Promise.all([get("/api/run", { id }), get("/api/rows", { id })]);
    if (closed) return;
    run = detail.summary;
    rows = first.rows;
    cursor = first.next;
    samples = detail.samples;
    fill();
    draw();
  }

  // Samples and log

  let samples = detail.samples;
  const which = h("select", { "aria-label": "sample of step" });
  const sample = h("pre.text", { tabindex: "0", "aria-label": "sample" });
  const log = h("pre.log", { tabindex: "0", "aria-label": "the end of train.log" });
  const details = h("div.details");
  box.append(h("div.two", null,
    h("section.card", { "aria-label": "samples" }, h("div.heading", null, h("h2", null, "Samples"), h("span.gap"), which), sample),
    h("section.card", { "aria-label": "log" }, h("div.heading", null, h("h2", null, "Log"), h("span.gap"),
      copyButton(() => log.textContent, "Copy the log")), log)), details);
  which.addEventListener("change", showSample);

  function sampleChoices() {
    const before = which.value;
    const follow = !before || before === which.options[0]?.value;
    which.replaceChildren(...samples.map((one) => h("option", { value: one.step }, `step ${fixed(one.step)}`)));
    which.hidden = !samples.length;
    if (!follow) which.value = before;
    showSample();
  }
  function showSample() {
    const found = samples.find((one) => String(one.step) === which.value);
    sample.classList.toggle("quiet", !found);
    setText(sample, found ? plain(found.text) : "The run writes a sample at each evaluation if it has callback=[sample]. There is none yet.");
  }
  function addLog(lines) {
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 24;
    const all = [...(log.textContent ? log.textContent.split("\n") : []), ...lines.map(plain)].slice(-LOG_LINES);
    log.textContent = all.join("\n");
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  // What does not change while a run goes on

  function fill() {
    sampleChoices();
    log.textContent = "";
    addLog(detail.log_tail);
    log.scrollTop = log.scrollHeight;
    warned.replaceChildren(...(detail.warnings ?? []).slice(0, 5).map((text) => h("p.note", null, `Warning: ${plain(text)}`)));
    const wanted = h("input", { type: "search", placeholder: "lr, model.…", "aria-label": "filter the config", autocomplete: "off" });
    const fields = h("table.pairs");
    const show = () => {
      const word = wanted.value.trim().toLowerCase();
      fields.replaceChildren(h("tbody", null, Object.entries(detail.config)
        .filter(([key, value]) => `${key}=${typed(value)}`.toLowerCase().includes(word))
        .map(([key, value]) => h("tr", null, h("th", { scope: "row" }, plain(key)), h("td", null, plain(typed(value)))))));
    };
    wanted.addEventListener("input", show);
    show();
    const git = detail.git;
    details.replaceChildren(
      h("section.card.narrow", { "aria-label": "what was typed" }, h("h2", null, "Typed"),
        detail.command ? commandLine(plain(detail.command)) : null,
        detail.overrides?.length ? h("ul.overrides", { "aria-label": "settings" }, detail.overrides.map((text) => h("li", null, plain(text)))) : null,
        (detail.resumed ?? []).map((one) => h("p.note", null, `resumed ${ago(one.at)}: ${plain(one.command)}`)),
        run.resume_command && run.can?.resume ? [h("p.note", null, "Go on in a terminal with"), commandLine(run.resume_command)] : null,
        git ? h("p.note", null, `commit ${git.commit.slice(0, 10)}${git.dirty ? ", with changes: git.diff" : ""}`) : null),
      h("section.card.narrow", { "aria-label": "hardware" }, h("h2", null, "Hardware and versions"),
        pairs({ ...detail.hardware, ...detail.versions })),
      h("section.card.narrow", { "aria-label": "disk" }, h("h2", null, "Disk"), h("p.note", null, `${run.path}, ${bytes(detail.disk_bytes)}`),
        detail.checkpoints?.length ? pairs(Object.fromEntries(detail.checkpoints.map((c) => [c.name, bytes(c.bytes)])))
          : h("p.quiet", null, "No checkpoint yet.")),
      evaluations(detail.evaluations ?? []),
      h("section.card.config", { "aria-label": "config" }, h("div.heading", null, h("h2", null, "Config"), h("span.gap"), wanted,
        copyButton(() => detail.config_yaml, "Copy config.yaml")), h("div.scroll.tall", { tabindex: "0", role: "region", "aria-label": "all settings" }, fields)));
  }

  heading();
  fill();
  draw();
  const clock = setInterval(heading, 10_000);
  let connected = 0;
  let soon = null;
  const stopEvents = events(() => ({ id, after: cursor }), {
    open() { if (connected++) fresh().catch((error) => tell(error.message, "error")); },
    rows(event) {
      if (event.id !== id) return;
      rows = event.reset ? event.rows : [...rows, ...event.rows];
      cursor = event.next;
      if (rows.length > MOST_ROWS) fresh().catch(() => {});
      soon ??= setTimeout(() => { soon = null; draw(); }, DRAW_MS);
    },
    sample(event) {
      if (event.id !== id) return;
      samples = [{ step: event.step, text: event.text }, ...samples.filter((one) => one.step !== event.step)];
      sampleChoices();
    },
    log(event) { if (event.id === id) addLog(event.lines); },
    runs(event) {
      if (follows && event.runs.some((other) => other.id !== id && (other.created ?? "") > (run.created ?? ""))) {
        dispatchEvent(new HashChangeEvent("hashchange")); // opens the view anew, at the newest run
        return;
      }
      const changed = event.runs.find((other) => other.id === id);
      if (changed) {
        const ended = changed.status !== run.status;
        run = changed;
        heading();
        if (ended) fresh().catch(() => {});
      }
      if (event.removed?.includes(id)) tell("The folder of this run is gone", "error");
    },
  });
  return () => {
    closed = true;
    stopEvents();
    clearTimeout(soon);
    clearInterval(clock);
    for (const { chart } of charts.values()) chart.close();
  };
}

function pairs(values) {
  const entries = Object.entries(values ?? {}).filter(([, value]) => value !== null && value !== undefined);
  if (!entries.length) return h("p.quiet", null, "Nothing is recorded.");
  return h("table.pairs", null, h("tbody", null, entries.map(([key, value]) =>
    h("tr", null, h("th", { scope: "row" }, plain(key)), h("td", null, plain(isNumber(value) ? short(value) : typed(value)))))));
}

function evaluations(found) {
  if (!found.length) return null;
  const made = h("section.card", { "aria-label": "evaluations" }, h("h2", null, "Evaluations"));
  for (const { suite, checkpoint, numbers, notes } of found) {
    const target = h("table");
    made.append(h("h3", null, `${plain(suite)}, ${plain(checkpoint)}`),
      h("div.scroll", { tabindex: "0", role: "region", "aria-label": plain(suite) }, target),
      ...(notes ?? []).map((note) => h("p.note", null, plain(note))));
    table(target, ["number", "value", "95 % interval", "n"], numbers.map((n) => [plain(n.name), isNumber(n.value) ? String(+n.value.toPrecision(5)) : "",
      isNumber(n.low) ? `${+n.low.toPrecision(4)} to ${+n.high.toPrecision(4)}` : "", n.n ? fixed(n.n) : ""]), new Set([1, 3]));
  }
  return made;
}
