// What the page of a comparison and the page of tinygpt.serve have in common. The first has all of its
// scripts inside, without the word export; the second imports this file.

// Okabe and Ito's colours, which people with any colour vision tell apart
export const PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8c8c8c", "#b8a800"];
export const ONE_BY_ONE = 8;
// beyond eight groups colours repeat with another line and another marker
export const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
export const SYMBOLS = ["circle", "square", "diamond", "cross", "triangle-up", "star"];
export const LABEL_PX = 13;

export function element(tag, text, attributes) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  return made;
}

export function options(select, pairs, chosen) {
  for (const [value, text] of pairs) select.append(element("option", text, { value }));
  if (chosen !== undefined) select.value = chosen;
}

export function shown(value) {
  if (value === null || value === undefined) return "null";
  if (typeof value === "number" && !Number.isInteger(value)) return String(+value.toPrecision(5));
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

export const nameOf = (run) => run.label + (run.words ? " · " + run.words : "");

// Tables

// `finish`, if given, gets each line of the body with its row, also after sorting.
export function table(target, headings, rows, numeric, finish) {
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
      finish?.(line, row);
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

// A table for each way of measuring, with its notes and conclusion.
export function resultTables(box, data) {
  for (const found of data.tables) {
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
  if (!data.tables.length) box.append(element("p", "No run has finished yet."));
}

// Curves

export const AXES = { tokens: "tokens", step: "steps", time: "seconds", flops: "FLOPs" };

export function xOf(run, curve, axis) {
  if (axis === "step") return curve.step;
  if (axis === "time") return curve.elapsed_s;
  const each = run.tokens_per_step * (axis === "flops" ? run.flops_per_token || 0 : 1);
  return curve.step.map((step) => step * each);
}

export function smoothed(values, weight) {
  if (!weight) return values;
  let sum = 0, total = 0;
  return values.map((value) => {
    sum = weight * sum + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return sum / total;
  });
}

// The mean of each configuration over its seeds, with the least and the largest value, at the steps
// that all of its runs have.
export function groupMeans(chosen, metric, axis, weight) {
  const groups = new Map();
  for (const run of chosen) groups.set(run.words, [...(groups.get(run.words) || []), run]);
  const found = [];
  for (const [words, members] of groups) {
    const common = members.map((run) => run.curves[metric]).filter(Boolean);
    if (!common.length) continue;
    const shortest = common.reduce((a, b) => (a.step.length <= b.step.length ? a : b));
    const places = common.map((c) => new Map(c.step.map((step, i) => [step, c.value[i]])));
    const at = shortest.step.map((step) => places.map((place) => place.get(step)));
    const whole = at.map((values) => values.every((v) => typeof v === "number"));
    const pick = (list) => list.filter((_, i) => whole[i]);
    const values = pick(at);
    const smooth = (combine) => smoothed(values.map(combine), weight);
    found.push({ words, members, x: pick(xOf(members[0], shortest, axis)),
      middle: smooth((v) => v.reduce((a, b) => a + b, 0) / v.length),
      high: smooth((v) => Math.max(...v)), low: smooth((v) => Math.min(...v)) });
  }
  return found;
}

// Numbers by size, everything else as text: localeCompare's own numbers hold 0.001 and 0.01 equal.
export function byValue(a, b) {
  const numbers = typeof a === "number" && typeof b === "number";
  return numbers ? a - b : shown(a) < shown(b) ? -1 : shown(a) > shown(b) ? 1 : 0;
}

export function distinct(values) {
  return [...new Map(values.map((v) => [shown(v), v])).values()].sort(byValue);
}

// Where a value lies between the lowest and the highest, from 0 to 1.
export function scale(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (high === low) return () => 0.5;
  const log = low > 0 && high / low > 20;
  return (v) => log ? Math.log(v / low) / Math.log(high / low) : (v - low) / (high - low);
}

// Contrast of a line with what is behind it (WCAG 2.2, 1.4.11: at least 3). Thin lines on black need more.
const CONTRAST = { light: 3, dark: 4.5 };

function luminance(rgb) {
  const [r, g, b] = rgb.map((v) => (v <= 10.31 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
export function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

// "#0072B2" or "hsl(220 75% 45%)" -> red, green and blue, from 0 to 255
export function rgbOf(colour) {
  if (colour.startsWith("#")) return [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  const [hue, saturation, lightness] = colour.match(/[\d.]+/g).map(Number);
  const part = (n) => {
    const k = (n + hue / 30) % 12;
    const width = saturation / 100 * Math.min(lightness, 100 - lightness);
    return 2.55 * (lightness - width * Math.max(-1, Math.min(k - 3, 9 - k, 1)));
  };
  return [part(0), part(8), part(4)];
}

// The colour, mixed with black or white until it is seen on the page's cards.
export function readable(colour, card = getComputedStyle(document.documentElement).getPropertyValue("--card").trim()) {
  const [own, back] = [rgbOf(colour), rgbOf(card)];
  const dark = luminance(back) < 0.2;
  for (let part = 0; part < 1; part += 0.04) {
    const mixed = own.map((v) => Math.round(v + part * ((dark ? 255 : 0) - v)));
    if (contrast(mixed, back) >= CONTRAST[dark ? "dark" : "light"]) {
      return "#" + mixed.map((v) => v.toString(16).padStart(2, "0")).join("");
    }
  }
  return dark ? "#ffffff" : "#000000";
}

// value -> colour, dash and symbol
export function styles(values) {
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

// Cost against quality

export const COSTS = { elapsed_s: "seconds", n_params: "parameters", flops: "FLOPs", tokens: "tokens" };

// The runs that any point of cost against val/bpb shows, cheapest first, and those on the front.
export function costs(runs, cost) {
  const points = runs.filter((r) => r.status === "finished" && r.metrics[cost] && r.metrics["val/bpb"]);
  points.sort((a, b) => a.metrics[cost] - b.metrics[cost] || a.metrics["val/bpb"] - b.metrics["val/bpb"]);
  let best = Infinity;
  const front = points.filter((r) => r.metrics["val/bpb"] < best && ((best = r.metrics["val/bpb"]), true));
  return { points, front };
}

// What matters

export function importance(box, shares) {
  const found = Object.entries(shares);
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
    const filled = element("i");
    filled.style.width = `${Math.max(100 * share, 0.5)}%`;
    bar.append(filled);
    bars.append(element("span", key), bar, element("span", (100 * share).toFixed(0) + " %"));
  }
  box.append(bars);
}

// A line for each finished run through its settings to its val/bpb.
export function parallel(box, runs, all) {
  const keys = all.filter((key) => new Set(runs.map((r) => shown(r.config[key]))).size > 1);
  const points = runs.filter((r) => r.status === "finished" && r.metrics["val/bpb"]);
  if (!keys.length || points.length < 2) return;
  const NS = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(NS, "svg");
  const width = Math.max(box.clientWidth, 300), height = 320;
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
    path.style.stroke = readable(scores.length > ONE_BY_ONE ? style(run.metrics["val/bpb"]).colour : PALETTE[0]);
    const title = document.createElementNS(NS, "title");
    title.textContent = `${nameOf(run)}: ${run.metrics["val/bpb"].toFixed(4)}`;
    path.append(title);
    svg.append(path);
  }
  box.replaceChildren(svg);
}

// Configs, evaluations and runs

// The fields of two runs side by side; those that are equal too if `all`.
export function configFields(target, left, right, all) {
  target.replaceChildren();
  const head = target.createTHead().insertRow();
  for (const text of ["field", left.label, right.label]) head.append(element("th", text, { scope: "col" }));
  const body = target.createTBody();
  for (const key of [...new Set([...Object.keys(left.config), ...Object.keys(right.config)])]) {
    const [a, b] = [left, right].map((r) => (key in r.config ? shown(r.config[key]) : "—"));
    if (a === b && !all) continue;
    const row = body.insertRow();
    if (a !== b) row.className = "differs";
    for (const text of [key, a, b]) row.insertCell().textContent = text;
  }
  if (!body.rows.length) body.insertRow().insertCell().textContent = "no field differs";
}

// A table for each suite and protocol.
export function evaluationTables(box, evaluations) {
  for (const found of evaluations) {
    box.append(element("h3", found.title));
    const scroll = element("div", null, { class: "scroll", tabindex: "0" });
    const made = element("table");
    scroll.append(made);
    box.append(scroll);
    table(made, found.headings.map((text) => text || "number"), found.rows,
      new Set(found.headings.map((_, i) => i).slice(1)));
  }
}

export function runTable(target, data) {
  const { runs } = data;
  const headings = ["run", ...data.keys, "seed", "status", "val/bpb", "tokens", "seconds", "why"];
  const number = (value, digits) => value === undefined || value === null ? ""
    : value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
  const rows = runs.map((run) => [run.label, ...data.keys.map((key) => shown(run.config[key])),
    shown(run.config.seed), run.status, number(run.metrics["val/bpb"], 4), number(run.metrics.tokens, 0),
    number(run.metrics.elapsed_s, 0), [run.error, ...run.warnings].filter(Boolean).join("; ")]);
  const n = data.keys.length;
  table(target, headings, rows, new Set([n + 3, n + 4, n + 5]));
}
