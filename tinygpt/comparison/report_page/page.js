"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const runs = data.runs;
const dark = matchMedia("(prefers-color-scheme: dark)");
// Okabe and Ito's colours, which people with any colour vision tell apart
const PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8c8c8c", "#b8a800"];
const ONE_BY_ONE = 8;
// beyond eight groups colours repeat with another line and another marker
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const SYMBOLS = ["circle", "square", "diamond", "cross", "triangle-up", "star"];
const LABEL_PX = 13;
const SPARSE = 12; // points of a curve up to which each is marked

function element(tag, text, attributes) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  return made;
}

function options(select, pairs, chosen) {
  for (const [value, text] of pairs) select.append(element("option", text, { value }));
  if (chosen !== undefined) select.value = chosen;
}

function shown(value) {
  if (value === null || value === undefined) return "null";
  if (typeof value === "number" && !Number.isInteger(value)) return String(+value.toPrecision(5));
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

const name = (run) => run.label + (run.words ? " · " + run.words : "");

// Tables

function table(target, headings, rows, numeric) {
  target.replaceChildren();
  const head = target.createTHead().insertRow();
  let order = null;
  const body = target.createTBody();
  const fill = () => {
    body.replaceChildren();
    for (const row of rows) {
      const line = body.insertRow();
      row.forEach((cell, i) => {
        const made = line.insertCell();
        made.textContent = cell;
        if (numeric.has(i)) made.className = "number";
        if (headings[i] === "why") made.className = "wide";
        if (headings[i] === "status") made.className = "status-" + cell;
      });
    }
  };
  headings.forEach((text, i) => {
    const cell = element("th", null, { scope: "col", class: numeric.has(i) ? "number" : "" });
    const button = element("button", text || "in words", { type: "button", title: "sort by this" });
    button.onclick = () => {
      order = order === i ? -1 - i : i;
      const sign = order < 0 ? -1 : 1;
      const value = (row) => parseFloat(row[i].replaceAll(",", ""));
      rows.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        const by = isNaN(x) || isNaN(y) ? byValue(a[i], b[i]) : x - y;
        return sign * by;
      });
      fill();
    };
    cell.append(button);
    head.append(cell);
  });
  fill();
}

function results() {
  $("introduction").textContent = data.introduction;
  for (const found of data.tables) {
    const box = $("tables");
    box.append(element("h3", "Measured on " + found.protocol));
    const scroll = element("div", null, { class: "scroll", tabindex: "0" });
    const made = element("table");
    scroll.append(made);
    box.append(scroll);
    const told = (i) => i > found.headings.indexOf("") && found.rows.length > 1
      && found.rows.every((row) => row[i] === found.rows[0][i]);
    const columns = found.headings.map((_, i) => i).filter((i) => !told(i));
    const equal = found.headings.map((_, i) => i).filter(told);
    const text = new Set(["", ...data.keys]);
    const numeric = new Set(columns.map((i, at) => (text.has(found.headings[i]) ? -1 : at)).filter((at) => at >= 0));
    const pick = (row) => columns.map((i) => row[i]);
    table(made, pick(found.headings), found.rows.map(pick), numeric);
    if (equal.length) {
      const words = equal.map((i) => `${found.headings[i]} ${found.rows[0][i]}`).join(", ");
      box.append(element("p", `The same for all: ${words}.`, { class: "note" }));
    }
    for (const note of found.notes) box.append(element("p", "Note: " + note, { class: "note" }));
    box.append(element("p", found.conclusion, { class: "conclusion" }));
  }
  if (!data.tables.length) $("tables").append(element("p", "No run has finished yet."));
}

// Curves

const AXES = { tokens: "tokens", step: "steps", time: "seconds", flops: "FLOPs" };

function xOf(run, curve, axis) {
  if (axis === "step") return curve.step;
  if (axis === "time") return curve.elapsed_s;
  const each = run.tokens_per_step * (axis === "flops" ? run.flops_per_token || 0 : 1);
  return curve.step.map((step) => step * each);
}

function smoothed(values, weight) {
  if (!weight) return values;
  let sum = 0, total = 0;
  return values.map((value) => {
    sum = weight * sum + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return sum / total;
  });
}

function kept() {
  const words = $("filter").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  return runs.filter((run) => {
    const text = (run.label + " " + run.status + " " + run.words).toLowerCase();
    return words.every((word) => text.includes(word));
  });
}

// Numbers by size, everything else as text: localeCompare's own numbers hold 0.001 and 0.01 equal.
function byValue(a, b) {
  const numbers = typeof a === "number" && typeof b === "number";
  return numbers ? a - b : shown(a) < shown(b) ? -1 : shown(a) > shown(b) ? 1 : 0;
}

function distinct(values) {
  return [...new Map(values.map((v) => [shown(v), v])).values()].sort(byValue);
}

// Where a value lies between the lowest and the highest, from 0 to 1.
function scale(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (high === low) return () => 0.5;
  const log = low > 0 && high / low > 20;
  return (v) => log ? Math.log(v / low) / Math.log(high / low) : (v - low) / (high - low);
}

// value -> colour, dash and symbol
function styles(values) {
  const different = distinct(values);
  const numbers = values.every((v) => typeof v === "number");
  if (numbers && different.length > ONE_BY_ONE) {
    const place = scale(values);
    return (value) => ({ colour: `hsl(${Math.round(220 - 190 * place(value))} 75% 45%)`,
      dash: DASHES[0], symbol: SYMBOLS[0] });
  }
  const order = different.map(shown);
  return (value) => {
    const i = Math.max(order.indexOf(shown(value)), 0);
    const round = Math.floor(i / PALETTE.length);
    return { colour: PALETTE[i % PALETTE.length], dash: DASHES[round % DASHES.length],
      symbol: SYMBOLS[round % SYMBOLS.length] };
  };
}

// Of all runs, so that a value has one colour in every plot and with every filter.
const styleOfRuns = () => styles(runs.map(colourValue));

const colourValue = (run) => {
  const key = $("colour").value;
  return key === "configuration" ? run.words : key === "status" ? run.status : run.config[key];
};

function layout(xTitle, yTitle, extra) {
  const css = getComputedStyle(document.documentElement);
  const [text, line] = ["--text", "--line"].map((n) => css.getPropertyValue(n).trim());
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  return { paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: { color: text, size: 12 },
    margin: { l: 56, r: 12, t: 10, b: 46 }, hovermode: "closest", showlegend: false,
    xaxis: { ...axis, title: { text: xTitle }, exponentformat: "SI" },
    yaxis: { ...axis, title: { text: yTitle } }, ...extra };
}
const PLOT = { responsive: true, displaylogo: false, displayModeBar: false };

function means(chosen, metric, axis, weight, style) {
  const groups = new Map();
  for (const run of chosen) groups.set(run.words, [...(groups.get(run.words) || []), run]);
  const traces = [];
  for (const [words, members] of groups) {
    const common = members.map((run) => run.curves[metric]).filter(Boolean);
    if (!common.length) continue;
    const shortest = common.reduce((a, b) => (a.step.length <= b.step.length ? a : b));
    const at = shortest.step.map((step) => common.map((c) => c.value[c.step.indexOf(step)]));
    const whole = at.map((values) => values.every((v) => typeof v === "number"));
    const pick = (list) => list.filter((_, i) => whole[i]);
    const x = pick(xOf(members[0], shortest, axis));
    const values = pick(at);
    const middle = smoothed(values.map((v) => v.reduce((a, b) => a + b, 0) / v.length), weight);
    const { colour: c, dash } = style(colourValue(members[0]));
    if (members.length > 1) {
      const high = smoothed(values.map((v) => Math.max(...v)), weight);
      const low = smoothed(values.map((v) => Math.min(...v)), weight);
      traces.push({ x: [...x, ...[...x].reverse()], y: [...high, ...low.reverse()], fill: "toself",
        fillcolor: c, opacity: 0.18, line: { width: 0 }, hoverinfo: "skip", mode: "lines" });
    }
    traces.push({ x, y: middle, mode: "lines", line: { color: c, width: 2, dash },
      group: shown(colourValue(members[0])), text: `${words || "all"} (${members.length})`,
      hovertemplate: "%{y:.4f} at %{x}<extra>%{fullData.text}</extra>" });
  }
  return traces;
}

function curves() {
  const [metric, axis, weight] = [$("metric").value, $("axis").value, +$("smooth").value];
  const chosen = kept();
  const style = styleOfRuns();
  const traces = $("unit").value === "means" ? means(chosen, metric, axis, weight, style)
    : chosen.filter((run) => run.curves[metric]).map((run) => {
      const curve = run.curves[metric];
      const { colour, dash, symbol } = style(colourValue(run));
      return { x: xOf(run, curve, axis), y: smoothed(curve.value, weight), text: name(run),
        group: shown(colourValue(run)),
        mode: curve.value.length > SPARSE ? "lines" : "lines+markers",
        line: { color: colour, width: 1.4, dash }, marker: { color: colour, symbol, size: 5 },
        hovertemplate: "%{y:.4f} at %{x}<extra>%{fullData.text}</extra>" };
    });
  const named = new Map();
  for (const trace of traces) if (trace.group !== undefined) named.set(trace.group, trace);
  for (const trace of traces) {
    trace.showlegend = named.get(trace.group) === trace;
    trace.legendgroup = trace.group;
    if (trace.showlegend) trace.name = trace.group;
  }
  const legend = named.size > 1 && named.size <= 16 && $("plot").clientWidth > 700;
  const extra = { showlegend: legend, legend: { orientation: "h", y: -0.2 } };
  const made = layout(AXES[axis], metric, extra);
  if ($("logx").checked) made.xaxis.type = "log";
  if ($("logy").checked) made.yaxis.type = "log";
  Plotly.react("plot", traces, made, PLOT);
  $("thinned").textContent = `${chosen.length} of ${runs.length} runs. ${data.thinned}`;
}

// Cost against quality

const COSTS = { elapsed_s: "seconds", n_params: "parameters", flops: "FLOPs", tokens: "tokens" };

function front() {
  const cost = $("cost").value;
  const points = runs.filter((r) => r.status === "finished" && r.metrics[cost] && r.metrics["val/bpb"]);
  points.sort((a, b) => a.metrics[cost] - b.metrics[cost] || a.metrics["val/bpb"] - b.metrics["val/bpb"]);
  let best = Infinity;
  const edge = points.filter((r) => r.metrics["val/bpb"] < best && ((best = r.metrics["val/bpb"]), true));
  const style = styleOfRuns();
  const of = points.map((r) => style(colourValue(r)));
  const xy = (list) => ({ x: list.map((r) => r.metrics[cost]), y: list.map((r) => r.metrics["val/bpb"]) });
  const traces = [
    { ...xy(edge), mode: "lines", line: { shape: "hv", color: "#888", dash: "dot" }, hoverinfo: "skip" },
    { ...xy(points), mode: "markers", text: points.map(name),
      marker: { size: 9, color: of.map((s) => s.colour), symbol: of.map((s) => s.symbol) },
      hovertemplate: "%{text}<br>%{y:.4f} for %{x}<extra></extra>" }];
  Plotly.react("front", traces, layout(COSTS[cost], "val/bpb"), PLOT);
}

// What matters

function importance() {
  const box = $("importance");
  const found = Object.entries(data.importance);
  if (!found.length) {
    box.append(element("p", "At least eight finished runs of one table are needed to say which field matters."));
    return;
  }
  box.append(element("p", "Share of the variance of val/bpb between runs that a field explains by itself "
    + "(epsilon squared of a one-way analysis of variance); fields that always change together share it:",
    { class: "quiet" }));
  const bars = element("div", null, { class: "bars" });
  for (const [key, share] of found) {
    const bar = element("span");
    bar.append(element("i", null, { style: `width:${Math.max(100 * share, 0.5)}%` }));
    bars.append(element("span", key), bar, element("span", (100 * share).toFixed(0) + " %"));
  }
  box.append(bars);
}

function parallel() {
  const keys = data.keys.filter((key) => new Set(runs.map((r) => shown(r.config[key]))).size > 1);
  const points = runs.filter((r) => r.status === "finished" && r.metrics["val/bpb"]);
  if (!keys.length || points.length < 2) return;
  const NS = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(NS, "svg");
  const width = Math.max($("parallel").clientWidth, 300), height = 320;
  svg.setAttribute("class", "parallel");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "Each line is a run: its settings from left to right, and its val/bpb");
  const leaf = (key) => key.split(".").pop();
  const alone = (key) => keys.filter((other) => leaf(other) === leaf(key)).length === 1;
  const axes = [...keys.map((key) => ({ title: alone(key) ? leaf(key) : key, value: (r) => r.config[key] })),
    { title: "val/bpb", value: (r) => r.metrics["val/bpb"] }];
  const text = (x, y, words, anchor, whole) => {
    const made = document.createElementNS(NS, "text");
    made.setAttribute("x", x); made.setAttribute("y", y); made.setAttribute("text-anchor", anchor);
    made.textContent = words;
    if (whole !== words) made.append(document.createElementNS(NS, "title")), made.lastChild.textContent = whole;
    svg.append(made);
  };
  const gap = (width - 100) / Math.max(axes.length - 1, 1);
  axes.forEach((axis, i) => {
    axis.x = 30 + i * gap;
    const values = points.map(axis.value);
    const numbers = values.every((v) => typeof v === "number");
    const different = distinct(values);
    const names = different.map(shown);
    const byNumber = numbers ? scale(values) : null;
    const place = (v) => numbers ? byNumber(v) : names.indexOf(shown(v)) / Math.max(names.length - 1, 1);
    const height_of = (v) => height - 30 - place(v) * (height - 70);
    axis.y = (run) => height_of(axis.value(run));
    const line = document.createElementNS(NS, "line");
    for (const [k, v] of Object.entries({ x1: axis.x, x2: axis.x, y1: 40, y2: height - 30 })) line.setAttribute(k, v);
    svg.append(line);
    // two rows of titles, so each may be as wide as two gaps; 7 px a character
    const most = Math.max(6, Math.floor(2 * gap / 7) - 1);
    const short = axis.title.length > most ? "…" + axis.title.slice(1 - most) : axis.title;
    const anchor = i === 0 ? "start" : i === axes.length - 1 ? "end" : "middle";
    text(i === axes.length - 1 && i > 0 ? width - 4 : axis.x, 14 + (i % 2) * 15, short, anchor, axis.title);
    let last = Infinity;
    const ticks = numbers && different.length > ONE_BY_ONE
      ? [different[0], different[different.length - 1]] : different;
    for (const v of ticks) {
      const y = height_of(v);
      if (last - y < LABEL_PX) continue;
      last = y;
      const label = typeof v === "number" ? String(+v.toPrecision(4)) : shown(v);
      const room = Math.max(4, Math.floor((gap - 12) / 7));
      text(axis.x + 6, y + 4, label.length > room ? label.slice(0, room - 1) + "…" : label, "start", label);
    }
  });
  const scores = points.map((r) => r.metrics["val/bpb"]);
  const style = styles(scores);
  for (const run of [...points].sort((a, b) => b.metrics["val/bpb"] - a.metrics["val/bpb"])) {
    const path = document.createElementNS(NS, "path");
    path.setAttribute("d", "M" + axes.map((axis) => `${axis.x.toFixed(1)},${axis.y(run).toFixed(1)}`).join("L"));
    path.style.stroke = scores.length > ONE_BY_ONE ? style(run.metrics["val/bpb"]).colour : PALETTE[0];
    const title = document.createElementNS(NS, "title");
    title.textContent = `${name(run)}: ${run.metrics["val/bpb"].toFixed(4)}`;
    path.append(title);
    svg.append(path);
  }
  $("parallel").replaceChildren(svg);
}

// Configs and samples

function fields() {
  const [left, right] = [runs[$("left").value], runs[$("right").value]];
  const target = $("fields");
  target.replaceChildren();
  const head = target.createTHead().insertRow();
  for (const text of ["field", left.label, right.label]) head.append(element("th", text, { scope: "col" }));
  const body = target.createTBody();
  for (const key of [...new Set([...Object.keys(left.config), ...Object.keys(right.config)])]) {
    const [a, b] = [left, right].map((r) => (key in r.config ? shown(r.config[key]) : "—"));
    if (a === b && !$("all").checked) continue;
    const row = body.insertRow();
    if (a !== b) row.className = "differs";
    for (const text of [key, a, b]) row.insertCell().textContent = text;
  }
  if (!body.rows.length) body.insertRow().insertCell().textContent = "no field differs";
}

function samples() {
  for (const side of ["left", "right"]) {
    const run = runs[$("sample-" + side).value];
    $("text-" + side).textContent = run.sample || "This run has written no sample.";
  }
}

function evaluations() {
  const none = !data.evaluations.length;
  $("evaluations").hidden = none;
  document.querySelector('nav a[href="#evaluations"]').hidden = none;
  for (const found of data.evaluations) {
    $("suites").append(element("h3", found.title));
    const scroll = element("div", null, { class: "scroll", tabindex: "0" });
    const made = element("table");
    scroll.append(made);
    $("suites").append(scroll);
    table(made, found.headings.map((text) => text || "number"), found.rows,
      new Set(found.headings.map((_, i) => i).slice(1)));
  }
}

function runTable() {
  const headings = ["run", ...data.keys, "seed", "status", "val/bpb", "tokens", "seconds", "why"];
  const number = (value, digits) => value === undefined || value === null ? ""
    : value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
  const rows = runs.map((run) => [run.label, ...data.keys.map((key) => shown(run.config[key])),
    shown(run.config.seed), run.status, number(run.metrics["val/bpb"], 4), number(run.metrics.tokens, 0),
    number(run.metrics.elapsed_s, 0), [run.error, ...run.warnings].filter(Boolean).join("; ")]);
  const n = data.keys.length;
  table($("run-table"), headings, rows, new Set([n + 3, n + 4, n + 5]));
}

function begin() {
  results();
  evaluations();
  const names = new Set(runs.flatMap((run) => Object.keys(run.curves)));
  const decides = runs.some((run) => run.curves["val/bpb"] && run.curves["val/bpb"].step.length > 1);
  options($("metric"), data.metrics.filter((m) => names.has(m)).map((m) => [m, m]),
    decides ? "val/bpb" : names.has("train/loss") ? "train/loss" : undefined);
  options($("axis"), Object.entries(AXES), data.x);
  options($("colour"), [["configuration", "configuration"], ["status", "status"], ...data.keys.map((k) => [k, k])],
    data.keys.length === 1 ? data.keys[0] : "configuration");
  options($("cost"), Object.entries(COSTS));
  if (runs.length > 12 && new Set(runs.map((run) => run.words)).size < runs.length) $("unit").value = "means";
  const choices = runs.map((run, i) => [i, name(run)]);
  for (const side of ["left", "right"]) {
    const i = side === "left" ? data.first : data.second;
    options($(side), choices, i);
    options($("sample-" + side), choices, i);
    $(side).onchange = fields;
    $("sample-" + side).onchange = samples;
  }
  for (const id of ["metric", "axis", "colour", "unit", "smooth", "logx", "logy", "filter"]) $(id).oninput = curves;
  $("colour").addEventListener("input", front);
  $("cost").oninput = front;
  $("all").oninput = fields;
  dark.addEventListener("change", () => { curves(); front(); });
  curves(); front(); importance(); parallel(); fields(); samples(); runTable();
  document.body.dataset.ready = "yes";
}
begin();
