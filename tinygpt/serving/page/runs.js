// The list of all runs, live: single runs and sweeps, newest first.
import { get, events } from "./api.js";
import { sparkline } from "./chart.js";
import { afterPause, ago, breath, command, empty, fixed, h, inFrame, isNumber, plain, refill, roughly, setText, short, status, tell, typed } from "./dom.js";

export const selected = new Set(); // ids; outlives the view
const opened = new Map(); // sweep -> whether its runs are shown
const STATUSES = ["running", "unfinished", "finished", "failed"];
const TOGETHER = 20; // rows that the browser lays out together, and skips together out of sight
const SLICE_MS = 8; // of making rows, before the page may answer
const ROW_PX = matchMedia("(max-width: 760px)").matches ? 96 : 60; // about, until a row is made
const OFTEN_SHOWN = 12; // a sweep of at most this many runs is open at first

export const runLink = (id) => `#/run?${new URLSearchParams({ id })}`;
export const sweepLink = (id) => `#/sweep?${new URLSearchParams({ id })}`;
export const compareLink = (ids) => `#/compare?${new URLSearchParams([...ids].map((id) => ["id", id]))}`;

const leaf = (key) => key.split(".").pop();

// "gpt 4×128 · char · lr 0.001 · seed 0"; of a run in a sweep its swept fields, which tell it from the others.
export function keyConfig(run, swept) {
  const c = run.config ?? {};
  if (swept?.length) {
    const alone = (key) => swept.filter((other) => leaf(other) === leaf(key)).length === 1;
    return swept.map((key) => `${alone(key) ? leaf(key) : key}=${typed(c[key])}`).join("  ");
  }
  const size = isNumber(c["model.n_layer"]) ? ` ${c["model.n_layer"]}×${c["model.d_model"] ?? "?"}` : "";
  return [`${c.model ?? ""}${size}`.trim(), c.dataset, c.tokenizer, c.optimizer,
    c["optimizer.lr"] === undefined ? null : `lr ${typed(c["optimizer.lr"])}`,
    c.seed === undefined ? null : `seed ${c.seed}`].filter(Boolean).join(" · ");
}

export function stepWords(run) {
  if (!isNumber(run.step)) return run.status === "queued" ? "waits" : "";
  const total = isNumber(run.max_steps) ? ` / ${fixed(run.max_steps)}` : "";
  const left = run.status === "running" && isNumber(run.eta_s) ? ` · ${roughly(run.eta_s)} left` : "";
  return `${fixed(run.step)}${total}${left}`;
}

// A row whose texts follow its run.
function row(id, onSelect) {
  const box = h("input", { type: "checkbox" });
  const link = h("a.name", { href: runLink(id) });
  const config = h("span.config");
  const why = h("span.why");
  const state = h("div.cell.state", { role: "cell" });
  const progress = h("progress", { max: 1 });
  const step = h("span.step");
  const spark = h("div.cell.line", { role: "cell" });
  const [score, loss, speed, params, when] = ["score", "loss", "speed", "params", "when"].map((kind) => h(`div.cell.number.${kind}`, { role: "cell" }));
  const made = h("div.row", { role: "row", "data-id": id },
    h("div.cell.pick", { role: "cell" }, box),
    h("div.cell.who", { role: "cell" }, link, config, why),
    state, h("div.cell.how", { role: "cell" }, progress, step), spark, score, loss, speed, params, when);
  box.addEventListener("change", () => onSelect(id, box.checked));
  let last = [];
  return {
    element: made,
    update(run, sweep, minute) {
      if (last[0] === run && last[1] === sweep && last[2] === minute) return;
      last = [run, sweep, minute];
      const name = plain(run.name || run.id);
      setText(link, sweep ? `${run.id.split("/").pop()}${run.name && run.name !== run.id.split("/").pop() ? ` ${name}` : ""}` : name);
      box.setAttribute("aria-label", `select ${name}`);
      setText(config, plain(keyConfig(run, sweep?.swept)) + (run.tags?.length ? `  #${run.tags.map(plain).join(" #")}` : ""));
      setText(why, plain((run.error ?? "").split("\n")[0]));
      why.classList.toggle("mild", ["interrupted", "stopped", "paused"].includes(run.status)); // no fault
      if (state.textContent !== run.status) state.replaceChildren(status(run.status));
      progress.value = run.progress ?? 0;
      progress.setAttribute("aria-label", `progress of ${name}`);
      progress.classList.toggle("none", !isNumber(run.progress));
      setText(step, stepWords(run));
      const words = isNumber(run.loss) ? `training loss, now ${run.loss.toFixed(4)}` : "no loss yet";
      refill(spark, run.sparkline, () => sparkline(run.sparkline, words));
      setText(score, fixed(run.metric?.best ?? run.metric?.value, 4));
      score.title = run.metric ? `${run.metric.name}, the best of this run` : "";
      setText(loss, fixed(run.loss, 4));
      setText(speed, short(run.tokens_per_s));
      setText(params, short(run.n_params));
      setText(when, ago(run.started));
      when.title = run.started ?? run.created ?? "";
    },
    select(on) { box.checked = on; },
  };
}

function sweepRow(id, onToggle, onSelect) {
  const box = h("input", { type: "checkbox" });
  const toggle = h("button.toggle", { type: "button" }, "▸");
  const link = h("a.name", { href: sweepLink(id) });
  const words = h("span.config");
  const why = h("span.why");
  const state = h("div.cell.state", { role: "cell" });
  const counts = h("div.cell.counts", { role: "cell" });
  const score = h("div.cell.number.score", { role: "cell" });
  const when = h("div.cell.number.when", { role: "cell" });
  const made = h("div.row.sweep", { role: "row", "data-id": id },
    h("div.cell.pick", { role: "cell" }, box),
    h("div.cell.who", { role: "cell" }, h("span.title", null, toggle, link), words, why),
    state, counts, score, when);
  toggle.addEventListener("click", () => onToggle(id));
  box.addEventListener("change", () => onSelect(id, box.checked));
  return {
    element: made,
    update(sweep, runs, open) {
      setText(link, plain(sweep.name || sweep.id));
      box.setAttribute("aria-label", `select all runs of ${plain(sweep.name || sweep.id)}`);
      setText(toggle, open ? "▾" : "▸");
      toggle.setAttribute("aria-expanded", String(open));
      toggle.setAttribute("aria-label", `runs of ${plain(sweep.name || sweep.id)}`);
      setText(words, [`sweep over ${(sweep.swept ?? []).map(leaf).join(", ")}`, sweep.search, sweep.stopping].filter((word) => word && word !== "none").join(" · "));
      setText(why, (sweep.failures ?? []).length ? `${sweep.failures.length} failed: ${plain(sweep.failures[0].reason).split("\n")[0]}` : "");
      if (state.textContent !== sweep.status) state.replaceChildren(status(sweep.status));
      const text = countWords(sweep.counts);
      refill(counts, text, () => [shares(sweep.counts), h("span.step", null, text)]);
      const best = runs.get(sweep.best);
      setText(score, best ? fixed(best.metric?.best ?? best.metric?.value, 4) : "");
      setText(when, ago(sweep.created));
    },
    select(on, some) {
      box.checked = on;
      box.indeterminate = some && !on;
    },
  };
}

export const countWords = (counts) =>
  Object.entries(counts ?? {}).map(([name, n]) => `${n} ${name}`).join(", ");

// How many of a sweep's runs have which status, as one bar.
export function shares(counts) {
  const total = Object.values(counts ?? {}).reduce((a, b) => a + b, 0) || 1;
  return h("div.shares", { role: "img", "aria-label": countWords(counts) }, Object.entries(counts ?? {}).map(([name, n]) => {
    const part = h(`i.status-${/^[a-z]+$/.test(name) ? name : "other"}`);
    part.style.width = `${100 * n / total}%`;
    return part;
  }));
}

export async function open(box, settings, about) {
  const runs = new Map();
  const sweeps = new Map();
  const rows = new Map();
  let passing = null; // ids that pass the filter; null: all
  let closed = false;

  const search = h("input", { type: "search", value: settings.get("q") ?? "", "aria-label": "filter runs", autocomplete: "off",
    spellcheck: "false", placeholder: "a name, status=failed, val/bpb<1.2, model.n_layer=4 …" });
  const problem = h("p.problem", { id: "filter-problem", role: "alert" });
  search.setAttribute("aria-describedby", "filter-problem");
  const chips = STATUSES.map((name) => h("button.chip", { type: "button", "aria-pressed": "false",
    onclick: () => toggleStatus(name) }, name));
  const sort = h("select", { "aria-label": "order" }, h("option", { value: "new" }, "newest first"),
    h("option", { value: "best" }, "best val/bpb first"), h("option", { value: "name" }, "by name"));
  sort.value = settings.get("sort") ?? "new";
  let comparison = "";
  const compare = h("button.primary", { type: "button", onclick: () => { location.hash = comparison; } }, "Compare");
  const clear = h("button", { type: "button", onclick: () => { selected.clear(); marks(); } }, "Clear");
  const follow = h("a.button", { href: runLink("latest") }, "Follow the newest");
  const count = h("span.quiet");
  const list = h("div.list", { role: "table", "aria-label": "runs" });
  const headings = h("div.row.head", { role: "row" }, ["", "run", "status", "step", "training loss", "val/bpb", "loss", "tokens/s", "params", "started"]
    .map((text, i) => h(`div.cell.${["pick", "who", "state", "how", "line", "score", "loss", "speed", "params", "when"][i]}${i > 4 ? ".number" : ""}`,
      { role: "columnheader" }, text || h("span.unseen", null, "select"))));
  const body = h("div.body");
  const nothing = h("div");
  list.append(h("div", { role: "rowgroup" }, headings), body);
  box.append(h("div.heading", null, h("h1", null, "Runs"), count, h("span.gap"), follow),
    h("div.toolbar", null, search, h("div.chips", { role: "group", "aria-label": "status" }, chips), sort,
      h("span.gap"), h("div.picked", null, clear, compare)),
    problem, list, nothing);

  const inSweep = (sweep) => (sweep.runs ?? []).filter((id) => runs.has(id));
  const chosen = (id, on) => {
    for (const one of sweeps.has(id) ? inSweep(sweeps.get(id)) : [id]) {
      if (on) selected.add(one);
      else selected.delete(one);
    }
    marks();
  };

  function marks() {
    for (const id of selected) if (runs.size && !runs.has(id)) selected.delete(id);
    for (const [id, made] of rows) {
      if (!sweeps.has(id)) made.select(selected.has(id));
      else {
        const inside = inSweep(sweeps.get(id));
        const n = inside.filter((one) => selected.has(one)).length;
        made.select(n > 0 && n === inside.length, n > 0);
      }
    }
    const whole = [...sweeps.values()].filter((s) => { const inside = inSweep(s); return inside.length > 1 && inside.every((id) => selected.has(id)); });
    const covered = new Set(whole.flatMap(inSweep));
    const ids = [...whole.map((s) => s.id), ...[...selected].filter((id) => !covered.has(id))];
    setText(compare, selected.size ? `Compare ${selected.size}` : "Compare");
    compare.disabled = !selected.size;
    comparison = compareLink(ids);
    clear.disabled = !selected.size;
  }

  const begun = (one) => one.created ?? runs.get(one.runs?.[0])?.created ?? "";
  const score = (run) => run?.metric?.best ?? run?.metric?.value ?? Infinity;
  const ORDER = {
    new: (a, b) => begun(b).localeCompare(begun(a)) || b.id.localeCompare(a.id, "en", { numeric: true }),
    best: (a, b) => score(a.swept ? runs.get(a.best) : a) - score(b.swept ? runs.get(b.best) : b),
    name: (a, b) => (a.name || a.id).localeCompare(b.name || b.id, "en", { numeric: true }),
  };

  // Rows are made once and moved only if their place changes.
  const draw = inFrame(() => {
    if (closed) return;
    const passes = (id) => passing === null || passing.has(id);
    const tops = [...sweeps.values()].filter((s) => inSweep(s).some(passes));
    const known = new Set(tops.map((s) => s.id));
    const alone = [...runs.values()].filter((run) => passes(run.id) && !known.has(run.sweep));
    const order = [];
    const minute = Math.floor(Date.now() / 60_000); // "3 min ago" is written anew
    for (const top of [...tops, ...alone].sort(ORDER[sort.value])) {
      order.push(top.id);
      if (!known.has(top.id)) continue;
      const inside = inSweep(top).filter(passes);
      const isOpen = opened.get(top.id) ?? (passing !== null || inside.length <= OFTEN_SHOWN || top.status === "running");
      const ordered = sort.value === "best" ? inside.sort((a, b) => score(runs.get(a)) - score(runs.get(b)))
        : inside.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
      if (isOpen) order.push(...ordered);
      rowOf(top.id).update(top, runs, isOpen);
    }
    const wanted = new Set(order);
    for (const [id, made] of rows) if (!wanted.has(id)) { made.element.remove(); rows.delete(id); }
    place(order, known, minute);
    const n = passing === null ? runs.size : [...runs.keys()].filter(passes).length;
    const running = [...runs.values()].filter((run) => run.status === "running").length;
    setText(count, `${n === runs.size ? n : `${n} of ${runs.size}`}${running ? ` · ${running} running` : ""}`);
    list.hidden = !order.length;
    follow.hidden = !runs.size;
    nothing.replaceChildren(...order.length ? [] : [!runs.size
      ? empty(`There are no runs in ${about.output_dir} yet. Train one, and it appears here while it learns:`, command(about, "train dataset=storyworld", "output_dir", "cache_dir"))
      : empty("No run passes this filter. Filters are a name, or a field with a value, such as status=finished or optimizer.lr>0.001.")]);
    marks();
  });

  // Put the rows into their places, in slices; the places of those that are not made yet are kept free.
  let places = 0;
  async function place(order, known, minute) {
    const call = ++places;
    while (body.children.length * TOGETHER < order.length) body.append(h("div.rows", { role: "rowgroup" }));
    while ((body.children.length - 1) * TOGETHER >= order.length) body.lastElementChild.remove();
    [...body.children].forEach((group, i) => {
      const n = Math.min(TOGETHER, order.length - i * TOGETHER);
      group.style.containIntrinsicBlockSize = `auto ${ROW_PX * n}px`;
      group.style.minHeight = group.children.length ? "" : `${ROW_PX * n}px`;
    });
    let begun = performance.now();
    for (const [i, group] of [...body.children].entries()) {
      let at = group.firstElementChild;
      for (const id of order.slice(i * TOGETHER, (i + 1) * TOGETHER)) {
        const made = rowOf(id);
        if (runs.has(id)) {
          const sweep = known.has(runs.get(id).sweep) ? sweeps.get(runs.get(id).sweep) : null;
          made.element.classList.toggle("inside", sweep !== null);
          made.update(runs.get(id), sweep, minute);
        }
        if (made.element === at) at = at.nextElementSibling;
        else group.insertBefore(made.element, at);
      }
      group.style.minHeight = "";
      if (performance.now() - begun < SLICE_MS) continue;
      await breath();
      if (closed || call !== places) return;
      begun = performance.now();
    }
    marks();
    box.dataset.drawn = order.length;
  }

  function rowOf(id) {
    if (!rows.has(id)) {
      rows.set(id, sweeps.has(id) ? sweepRow(id, (one) => {
        opened.set(one, rows.get(one).element.querySelector(".toggle").getAttribute("aria-expanded") !== "true");
        draw();
      }, chosen) : row(id, chosen));
    }
    return rows.get(id);
  }

  async function filter() {
    if (closed) return;
    const q = search.value.trim();
    for (const [i, name] of STATUSES.entries()) chips[i].setAttribute("aria-pressed", String(q.split(/\s+/).includes(`status=${name}`)));
    const state = new URLSearchParams();
    if (q) state.set("q", q);
    if (sort.value !== "new") state.set("sort", sort.value);
    history.replaceState(null, "", state.size ? `#/runs?${state}` : "#/runs");
    try {
      const found = await get("/api/runs", { q });
      if (closed || search.value.trim() !== q) return;
      for (const run of found.runs) runs.set(run.id, run);
      for (const sweep of found.sweeps) sweeps.set(sweep.id, sweep);
      passing = q ? new Set(found.runs.map((run) => run.id)) : null;
      if (!q) for (const id of [...runs.keys()].filter((id) => !found.runs.some((run) => run.id === id))) runs.delete(id);
      setText(problem, "");
    } catch (error) {
      setText(problem, error.message);
      if (error.status !== 400) tell(error.message, "error");
    }
    draw();
  }

  function toggleStatus(name) {
    const words = search.value.trim().split(/\s+/).filter((word) => word && !word.startsWith("status="));
    const on = search.value.split(/\s+/).includes(`status=${name}`);
    search.value = [...on ? [] : [`status=${name}`], ...words].join(" ");
    filter();
  }

  const soon = afterPause(250, filter);
  const again = afterPause(1000, filter);
  search.addEventListener("input", soon);
  sort.addEventListener("change", filter);
  const slash = (event) => {
    if (event.key !== "/" || /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName)) return;
    event.preventDefault();
    search.focus();
  };
  document.addEventListener("keydown", slash);
  const clock = setInterval(draw, 30_000);

  const stop = events(() => ({}), {
    open: () => filter(),
    runs(event) {
      for (const run of event.runs) runs.set(run.id, run);
      for (const sweep of event.sweeps ?? []) sweeps.set(sweep.id, sweep);
      for (const id of event.removed ?? []) { runs.delete(id); sweeps.delete(id); }
      if (passing !== null && event.runs.length) again();
      draw();
    },
  });
  if (settings.get("q")) get("/api/runs").then((all) => { // the filter's own answer leaves out the others
    for (const run of all.runs) if (!runs.has(run.id)) runs.set(run.id, run);
    draw();
  }, () => {});
  await filter();
  return () => {
    closed = true;
    stop();
    soon.cancel();
    again.cancel();
    clearInterval(clock);
    document.removeEventListener("keydown", slash);
  };
}
