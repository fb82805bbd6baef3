const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const runs = data.runs;
const dark = matchMedia("(prefers-color-scheme: dark)");
const SPARSE = 12; // points of a curve up to which each is marked

// Curves

function kept() {
  const words = $("filter").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  return runs.filter((run) => {
    const text = (run.label + " " + run.status + " " + run.words).toLowerCase();
    return words.every((word) => text.includes(word));
  });
}

// Of all runs, so that a value has one colour in every plot and with every filter.
const styleOfRuns = () => {
  const style = styles(runs.map(colourValue));
  return (value) => ({ ...style(value), colour: readable(style(value).colour) });
};

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
  const traces = [];
  for (const { words, members, x, middle, high, low } of groupMeans(chosen, metric, axis, weight)) {
    const { colour: c, dash } = style(colourValue(members[0]));
    if (members.length > 1) {
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
      return { x: xOf(run, curve, axis), y: smoothed(curve.value, weight), text: nameOf(run),
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

function front() {
  const cost = $("cost").value;
  const { points, front: edge } = costs(runs, cost);
  const style = styleOfRuns();
  const of = points.map((r) => style(colourValue(r)));
  const xy = (list) => ({ x: list.map((r) => r.metrics[cost]), y: list.map((r) => r.metrics["val/bpb"]) });
  const traces = [
    { ...xy(edge), mode: "lines", line: { shape: "hv", color: "#888888", dash: "dot" }, hoverinfo: "skip" },
    { ...xy(points), mode: "markers", text: points.map(nameOf),
      marker: { size: 9, color: of.map((s) => s.colour), symbol: of.map((s) => s.symbol) },
      hovertemplate: "%{text}<br>%{y:.4f} for %{x}<extra></extra>" }];
  Plotly.react("front", traces, layout(COSTS[cost], "val/bpb"), PLOT);
}

// Configs and samples

function fields() {
  configFields($("fields"), runs[$("left").value], runs[$("right").value], $("all").checked);
}

function samples() {
  for (const side of ["left", "right"]) {
    const run = runs[$("sample-" + side).value];
    $("text-" + side).textContent = run.sample || "This run has written no sample.";
  }
}

function begin() {
  $("introduction").textContent = data.introduction;
  resultTables($("tables"), data);
  const none = !data.evaluations.length;
  $("evaluations").hidden = none;
  document.querySelector('nav a[href="#evaluations"]').hidden = none;
  evaluationTables($("suites"), data.evaluations);
  const names = new Set(runs.flatMap((run) => Object.keys(run.curves)));
  const decides = runs.some((run) => run.curves["val/bpb"] && run.curves["val/bpb"].step.length > 1);
  options($("metric"), data.metrics.filter((m) => names.has(m)).map((m) => [m, m]),
    decides ? "val/bpb" : names.has("train/loss") ? "train/loss" : undefined);
  options($("axis"), Object.entries(AXES), data.x);
  options($("colour"), [["configuration", "configuration"], ["status", "status"], ...data.keys.map((k) => [k, k])],
    data.keys.length === 1 ? data.keys[0] : "configuration");
  options($("cost"), Object.entries(COSTS));
  if (runs.length > 12 && new Set(runs.map((run) => run.words)).size < runs.length) $("unit").value = "means";
  const choices = runs.map((run, i) => [i, nameOf(run)]);
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
  curves(); front(); fields(); samples();
  importance($("importance"), data.importance);
  parallel($("parallel"), runs, data.keys);
  runTable($("run-table"), data);
  document.body.dataset.ready = "yes";
}
begin();
