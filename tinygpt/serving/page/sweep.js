// A sweep, live: its rungs and pauses, its failures with their reasons, and a table of its runs.
import { styles, table } from "/page-report/shared.js";
import { events, get, post } from "./api.js";
import { Chart, legend } from "./chart.js";
import { ago, ask, commandLine, duration, fixed, h, inFrame, isNumber, plain, refill, setText, short, status, tell, typed } from "./dom.js";
import { compareLink, countWords, runLink, shares } from "./runs.js";

const MOST_LEGEND = 16;

export async function open(box, settings) {
  const id = settings.get("id");
  const runs = new Map();
  let sweep = null;
  let closed = false;
  const state = h("span.state");
  const title = h("h1", null, plain(id));
  const compare = h("a.button.primary", { href: compareLink([id]) }, "Compare its runs");
  const stopButton = h("button.danger", { type: "button", onclick: () => stopAll() }, "Stop");
  const resumeButton = h("button", { type: "button", onclick: () => resumeAll() }, "Resume");
  const counts = h("div");
  const under = h("p.quiet.under");
  const go = h("div");
  const failed = h("section.card", { "aria-label": "failures", hidden: true });
  const rungs = h("section.card", { "aria-label": "rungs", hidden: true });
  const chart = new Chart({ label: `training losses of the runs of ${id}`, height: 300, xWords: (v) => `${short(v)}` });
  const words = h("div");
  const target = h("table.runs");
  box.append(h("p.crumbs", null, h("a", { href: "#/runs" }, "Runs")),
    h("div.heading", null, title, state, h("span.gap"), h("div.buttons", null, stopButton, resumeButton, compare)), under, counts, go,
    h("section.card", { "aria-label": "curves" }, h("h2", null, "Training loss"), chart.element, words),
    failed, rungs,
    h("section.card", { "aria-label": "runs" }, h("h2", null, "Runs"), h("div.scroll", { tabindex: "0", role: "region", "aria-label": "runs of the sweep" }, target)));

  const number = (run) => run.id.split("/").pop();
  // The losses of the list's small lines are enough to see which runs are good, and come with the events.
  const known = new WeakMap(); // summary -> curve
  function curveOf(run) {
    if (!known.has(run)) {
      const y = run.sparkline ?? [];
      known.set(run, { x: y.map((_, i) => y.length > 1 ? 1 + (run.step - 1) * i / (y.length - 1) : run.step), y });
    }
    return known.get(run);
  }

  const draw = inFrame(() => {
    if (closed || !sweep) return;
    setText(title, plain(sweep.name || sweep.id));
    if (state.textContent !== sweep.status) state.replaceChildren(status(sweep.status));
    setText(under, [`over ${sweep.swept.join(", ")}`, ["search", "stopping", "launcher"].filter((name) => sweep[name]).map((name) => `${name}=${sweep[name]}`).join(" "),
      countWords(sweep.counts), sweep.created && `begun ${ago(sweep.created)}`].filter(Boolean).join(" · "));
    refill(counts, sweep.counts, () => shares(sweep.counts));
    stopButton.hidden = !sweep.can.stop;
    resumeButton.hidden = !sweep.can.resume;
    setText(resumeButton, sweep.can.retry_failed ? "Try the failed again" : "Resume");
    const command = sweep.resume_command;
    refill(go, command, () => command && [h("p.note", null, sweep.can.retry_failed ? "Try the failed runs again in a terminal with" : "Go on in a terminal with"),
      commandLine(command)]);
    failed.hidden = !sweep.failures.length;
    refill(failed, sweep.failures, () => [h("h2", null, "Failures"), h("ul.failures", null, sweep.failures.map(({ run, reason }) =>
      h("li", null, h("a", { href: runLink(run) }, `run ${run.split("/").pop()}`), h("span.why", null, plain(reason)))))]);
    rungs.hidden = !sweep.rungs.length;
    refill(rungs, sweep.rungs, () => [h("h2", null, "Rungs"), h("p.quiet", null, `stopping=${sweep.stopping} compares the runs at these steps; the best go on, the others pause.`),
      h("table", null, h("thead", null, h("tr", null, ["step", "reached", "paused there"].map((text) => h("th.number", { scope: "col" }, text)))),
        h("tbody", null, sweep.rungs.map((rung) => h("tr", null, [rung.step, rung.reached, rung.paused].map((n) => h("td.number", null, fixed(n)))))))]);
    const inside = sweep.runs.map((one) => runs.get(one)).filter(Boolean);
    const others = sweep.swept.filter((key) => key !== "seed"); // seeds of a configuration have its colour
    const keys = others.length ? others : sweep.swept;
    const value = (run) => keys.length === 1 ? run.config[keys[0]] : keys.map((key) => `${key.split(".").pop()}=${typed(run.config[key])}`).join(" ");
    const style = styles(inside.map(value));
    const groups = new Map();
    const series = inside.map((run) => {
      const look = style(value(run));
      const group = typed(value(run));
      groups.set(group, { group, name: keys.length === 1 ? `${keys[0].split(".").pop()}=${group}` : group, ...look });
      return { ...look, name: `run ${number(run)}: ${sweep.swept.map((key) => `${key}=${typed(run.config[key])}`).join(" ")}`, group,
        ...curveOf(run) };
    });
    chart.draw(series, { x: "steps", y: "", none: "No run has a row yet." });
    const looks = [...groups.values()];
    refill(words, looks, () => looks.length <= MOST_LEGEND && legend(looks, chart));
    rowsTable(inside);
    box.dataset.drawn = inside.length;
  });

  // The table is made once for a set of runs; later only the cells that changed are written.
  const lines = new Map(); // run's number -> its cells' texts and its line
  function rowsTable(inside) {
    const n = sweep.swept.length;
    const cells = inside.map((run) => [number(run), ...sweep.swept.map((key) => plain(typed(run.config[key]))), run.status,
      isNumber(run.step) ? `${fixed(run.step)}${run.max_steps ? ` / ${fixed(run.max_steps)}` : ""}` : "", short(run.tokens_per_s), fixed(run.loss, 4),
      fixed(run.metric?.value, 4), duration(run.elapsed_s), plain((run.error ?? "").split("\n")[0])]);
    const names = cells.map(([name]) => name).join();
    if (target.dataset.runs !== names) {
      target.dataset.runs = names;
      lines.clear();
      table(target, ["run", ...sweep.swept, "status", "step", "tokens/s", "loss", sweep.objective, "time", "why"], cells,
        new Set([0, ...[3, 4, 5, 6, 7].map((i) => i + n - 1)]), (line, row) => {
          lines.set(row[0], { line, row });
          line.cells[0].replaceChildren(h("a", { href: runLink(`${id}/${row[0]}`) }, row[0]));
        });
    }
    for (const now of cells) {
      const { line, row } = lines.get(now[0]);
      now.forEach((text, i) => {
        if (row[i] === text && line.cells[i].textContent === text) return;
        row[i] = text;
        line.cells[i].textContent = text;
        if (i === n + 1) line.cells[i].className = `status-${text}`;
      });
      line.classList.toggle("best", `${id}/${now[0]}` === sweep.best);
    }
  }

  async function stopAll() {
    const sure = await ask({ title: `Stop the sweep ${plain(sweep.name || id)}?`, yes: "Stop the sweep",
      text: "Its running runs save a checkpoint and end, as with Ctrl-C in its terminal, and those that wait do not begin. Resume goes on with all of them." });
    if (sure) await asked(stopButton, "/api/stop", () => "The runs save and end");
  }

  async function resumeAll() {
    const retries = sweep.can.retry_failed;
    const sure = await ask({ title: `${retries ? "Try the failed runs again in" : "Resume"} ${plain(sweep.name || id)}?`, yes: retries ? "Try them again" : "Resume the sweep",
      text: `It goes on in a process of its own on the server's machine, as with ${sweep.resume_command}` });
    if (sure) await asked(resumeButton, "/api/resume", ({ pid }) => `The sweep goes on in process ${pid}`);
  }

  async function asked(button, path, done) {
    button.disabled = true;
    try {
      tell(done(await post(path, { id, confirm: true })));
    } catch (error) {
      tell(error.message, "error");
    }
    button.disabled = false;
  }

  async function fresh() {
    const found = await get("/api/runs");
    if (closed) return;
    for (const run of found.runs) if (run.sweep === id) runs.set(run.id, run);
    sweep = found.sweeps.find((one) => one.id === id);
    if (!sweep) throw new Error(`There is no sweep ${id} here. It may have been deleted or moved.`);
    draw();
  }

  await fresh();
  let connected = 0;
  const stop = events(() => ({}), {
    open() { if (connected++) fresh().catch(() => {}); },
    runs(event) {
      for (const run of event.runs) if (run.sweep === id) runs.set(run.id, run);
      sweep = event.sweeps?.find((one) => one.id === id) ?? sweep;
      draw();
    },
  });
  return () => { closed = true; stop(); chart.close(); };
}
