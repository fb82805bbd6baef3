// Line and point charts on a canvas. The curves are drawn in slices, a few thousand segments in a frame, so
// that a page with hundreds of them still answers; what the pointer shows is on a second canvas above them.
import { readable } from "/page-report/shared.js";
import { colour, h, inFrame, isNumber, short, svg } from "./dom.js";

const DASH = { solid: [], dash: [7, 4], dot: [2, 3], dashdot: [7, 3, 2, 3], longdash: [11, 4], longdashdot: [11, 3, 2, 3] };
const SLICE = 2000; // line segments that are drawn in a frame
const DRAWN = 60_000; // segments of all curves together, about
const NEAR_PX = 40; // a curve farther than this from the pointer is not named

export class Chart {
  // `label` says to a screen reader what is drawn; `xWords` and `yWords` turn numbers into words.
  constructor({ label, height = 240, xWords = short, yWords = short }) {
    Object.assign(this, { label, xWords, yWords });
    this.series = [];
    this.options = {};
    this.base = h("canvas", { "aria-hidden": "true" });
    this.over = h("canvas", { "aria-hidden": "true" });
    this.tip = h("div.tip", { role: "status" });
    this.none = h("p.nothing");
    this.element = h("div.chart", { tabindex: "0", role: "group", "aria-label": label },
      this.base, this.over, this.none, this.tip);
    this.element.style.height = `${height}px`;
    this.back = document.createElement("canvas");
    this.redraw = inFrame(() => this.#begin());
    this.point = inFrame(() => this.#highlight());
    this.sizes = new ResizeObserver(() => this.redraw());
    this.sizes.observe(this.element);
    this.isNear = this.waits = false; // a chart far out of sight is drawn when it comes near
    this.sight = new IntersectionObserver((entries) => {
      this.isNear = entries.at(-1).isIntersecting;
      if (this.isNear && this.waits) this.redraw();
    }, { rootMargin: "200px" });
    this.sight.observe(this.element);
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.dark.addEventListener("change", this.redraw);
    const move = (event) => {
      const box = this.element.getBoundingClientRect();
      this.at = this.#nearest(event.clientX - box.left, event.clientY - box.top);
      this.point();
    };
    this.element.addEventListener("pointermove", move);
    this.element.addEventListener("pointerdown", move);
    this.element.addEventListener("pointerleave", () => { this.at = null; this.point(); });
    this.element.addEventListener("blur", () => { this.at = null; this.point(); });
    this.element.addEventListener("keydown", (event) => this.#key(event));
  }

  close() {
    this.sizes.disconnect();
    this.sight.disconnect();
    this.dark.removeEventListener("change", this.redraw);
    this.redraw.cancel();
    this.point.cancel();
    this.drawing = null;
  }

  // series: [{name, group, colour, dash, symbol, x, y, low, high, width, points}], x rising.
  // options: {x, y: titles, logX, logY, lines: also join the points, none: text without any point}
  draw(series, options = {}) {
    this.series = series;
    this.options = options;
    if (this.drawing) this.again = true; // when it is done, so that something is seen while data comes fast
    else this.redraw();
  }

  #extent() {
    const key = `${this.options.logX} ${this.options.logY}`;
    const wide = { x0: Infinity, x1: -Infinity, y0: Infinity, y1: -Infinity };
    for (const one of this.series) {
      const known = EXTENTS.get(one.y);
      const found = known?.key === key ? known : extent(one, this.options);
      EXTENTS.set(one.y, { ...found, key });
      wide.x0 = Math.min(wide.x0, found.x0);
      wide.x1 = Math.max(wide.x1, found.x1);
      wide.y0 = Math.min(wide.y0, found.y0);
      wide.y1 = Math.max(wide.y1, found.y1);
    }
    return wide;
  }

  #begin() {
    this.waits = !this.isNear;
    if (this.waits) return;
    const [width, height] = [this.element.clientWidth, this.element.clientHeight];
    if (!width || !height) return;
    const dpr = Math.min(devicePixelRatio || 1, 2);
    for (const canvas of [this.back, this.over]) {
      const [w, hgt] = [Math.round(width * dpr), Math.round(height * dpr)];
      if (canvas.width !== w || canvas.height !== hgt) Object.assign(canvas, { width: w, height: hgt });
    }
    this.dpr = dpr;
    const pen = this.back.getContext("2d");
    pen.setTransform(dpr, 0, 0, dpr, 0, 0);
    pen.clearRect(0, 0, width, height);
    this.card = colour("--card");
    const wide = this.#extent();
    this.frame = null;
    this.none.textContent = wide.x0 === Infinity ? this.options.none ?? "No rows yet." : "";
    if (wide.x0 !== Infinity) this.#axes(pen, width, height, wide);
    const series = this.series;
    this.again = false;
    this.drawing = this.#curves(pen, series);
    const drawing = this.drawing;
    const go = () => {
      if (this.drawing !== drawing) return; // a newer one has begun
      if (!drawing.next().done) {
        requestAnimationFrame(go);
        return;
      }
      if (this.base.width !== this.back.width || this.base.height !== this.back.height) {
        Object.assign(this.base, { width: this.back.width, height: this.back.height });
      }
      const target = this.base.getContext("2d");
      target.clearRect(0, 0, this.base.width, this.base.height);
      target.drawImage(this.back, 0, 0);
      this.drawing = null;
      this.element.dataset.drawn = series.length;
      this.#highlight();
      if (this.again) this.redraw();
    };
    go();
  }

  #axes(pen, width, height, wide) {
    const { logX, logY, x: xTitle, y: yTitle } = this.options;
    const [text, quiet, line] = [colour("--text"), colour("--quiet"), colour("--line")];
    pen.font = "12px system-ui, sans-serif";
    const yScale = scale(wide.y0, wide.y1, logY, Math.max(3, Math.floor(height / 46)));
    const left = Math.ceil(Math.max(...yScale.ticks.map((v) => pen.measureText(this.yWords(v)).width), 20)) + 12;
    const top = yTitle ? 22 : 8;
    const frame = { left, top, right: width - 10, bottom: height - (xTitle ? 38 : 22) };
    const xScale = scale(wide.x0, wide.x1, logX, Math.max(3, Math.floor((frame.right - left) / 90)), true);
    this.px = (v) => frame.left + xScale.place(v) * (frame.right - frame.left);
    this.py = (v) => frame.bottom - yScale.place(v) * (frame.bottom - frame.top);
    this.frame = frame;
    pen.lineWidth = 1;
    pen.strokeStyle = line;
    pen.fillStyle = quiet;
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    for (const v of yScale.ticks) {
      const y = Math.round(this.py(v)) + 0.5;
      pen.beginPath();
      pen.moveTo(frame.left, y);
      pen.lineTo(frame.right, y);
      pen.stroke();
      pen.fillText(this.yWords(v), frame.left - 6, y);
    }
    pen.textBaseline = "top";
    pen.textAlign = "center";
    for (const v of xScale.ticks) {
      const x = this.px(v);
      const words = this.xWords(v);
      const half = pen.measureText(words).width / 2;
      pen.fillText(words, Math.min(Math.max(x, half + 2), width - half - 2), frame.bottom + 6);
    }
    pen.fillStyle = text;
    if (xTitle) pen.fillText(xTitle, (frame.left + frame.right) / 2, height - 15);
    if (yTitle) {
      pen.textAlign = "left";
      pen.font = "600 12px system-ui, sans-serif";
      pen.fillText(yTitle, 2, 3);
    }
  }

  *#curves(pen, series) {
    if (!this.frame) return;
    const { left, top, right, bottom } = this.frame;
    pen.save();
    pen.beginPath();
    pen.rect(left - 4, top - 4, right - left + 8, bottom - top + 8);
    pen.clip();
    let segments = 0;
    for (const one of series) {
      segments += this.#curve(pen, one, one.width ?? 1.5);
      if (segments > SLICE) {
        yield;
        segments = 0;
      }
    }
    pen.restore();
  }

  #curve(pen, one, width) {
    const { x, y, low, high } = one;
    if (low && high && x.length > 1) {
      pen.globalAlpha = 0.16;
      pen.fillStyle = readable(one.colour, this.card);
      pen.beginPath();
      x.forEach((v, i) => pen.lineTo(this.px(v), this.py(high[i])));
      for (let i = x.length - 1; i >= 0; i--) pen.lineTo(this.px(x[i]), this.py(low[i]));
      pen.fill();
      pen.globalAlpha = 1;
    }
    pen.strokeStyle = pen.fillStyle = readable(one.colour, this.card);
    pen.lineWidth = width;
    pen.lineJoin = "round";
    pen.globalAlpha = one.alpha ?? 1;
    if (!one.points) {
      pen.setLineDash(DASH[one.dash] ?? []);
      pen.beginPath();
      const wide = this.frame.right - this.frame.left;
      const columns = Math.min(wide / 2, Math.max(40, DRAWN / 3 / this.series.length));
      if (x.length > 2 * columns) this.#thinned(pen, x, y, wide / columns);
      else {
        let down = false;
        for (let i = 0; i < x.length; i++) {
          const [px, py] = [this.px(x[i]), this.py(y[i])];
          if (!Number.isFinite(px) || !isNumber(y[i]) || !Number.isFinite(py)) { down = false; continue; }
          if (one.steps && down) pen.lineTo(px, this.py(y[i - 1]));
          if (down) pen.lineTo(px, py);
          else pen.moveTo(px, py);
          down = true;
        }
      }
      pen.stroke();
      pen.setLineDash([]);
    }
    if (one.points || (x.length <= 12 && !one.steps)) {
      for (let i = 0; i < x.length; i++) {
        const [px, py] = [this.px(x[i]), this.py(y[i])];
        if (isNumber(y[i]) && Number.isFinite(px) && Number.isFinite(py)) symbol(pen, one.symbol, px, py, one.points ? 4.5 : 2.6);
      }
    }
    pen.globalAlpha = 1;
    return Math.min(x.length, DRAWN / this.series.length) + (low ? x.length : 0);
  }

  // The least, the largest and the last value of each column of pixels.
  #thinned(pen, x, y, width) {
    let column = null, low = 0, high = 0, last = 0;
    for (let i = 0; i < x.length; i++) {
      if (!isNumber(y[i])) continue;
      const [px, py] = [Math.round(this.px(x[i]) / width) * width, this.py(y[i])];
      if (!Number.isFinite(py)) continue;
      if (px === column) {
        low = Math.min(low, py);
        high = Math.max(high, py);
        last = py;
        continue;
      }
      if (column !== null) {
        pen.lineTo(column, low);
        pen.lineTo(column, high);
        pen.lineTo(column, last);
      }
      [column, low, high, last] = [px, py, py, py];
    }
    if (column !== null) pen.lineTo(column, last);
  }

  #nearest(px, py) {
    if (!this.frame) return null;
    let best = null;
    let least = NEAR_PX ** 2;
    this.series.forEach((one, s) => {
      if (one.silent) return;
      const { x, y } = one;
      let [a, b] = [0, x.length - 1];
      while (b - a > 1) {
        const middle = (a + b) >> 1;
        if (this.px(x[middle]) < px) a = middle;
        else b = middle;
      }
      for (let i = Math.max(a - 1, 0); i <= Math.min(b + 1, x.length - 1); i++) {
        const far = (this.px(x[i]) - px) ** 2 + (this.py(y[i]) - py) ** 2;
        if (isNumber(y[i]) && far < least) [least, best] = [far, { s, i }];
      }
    });
    return best;
  }

  #key(event) {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [1, 0], ArrowDown: [-1, 0] }[event.key];
    if (event.key === "Escape") this.at = null;
    else if (!step || !this.series.length) return;
    else {
      const heard = this.series.map((one, s) => s).filter((s) => !this.series[s].silent && this.series[s].x.length);
      if (!heard.length) return;
      const place = heard.indexOf(this.at?.s ?? heard[0]);
      const s = heard[(place + step[0] + heard.length) % heard.length];
      const n = this.series[s].x.length;
      const i = this.at ? this.at.i + step[1] : n - 1;
      this.at = { s, i: Math.min(Math.max(i, 0), n - 1) };
    }
    event.preventDefault();
    this.point();
  }

  // Draw the curve under the pointer again, thicker, with the point and its numbers; others go back.
  #highlight() {
    const pen = this.over.getContext("2d");
    pen.setTransform(this.dpr ?? 1, 0, 0, this.dpr ?? 1, 0, 0);
    pen.clearRect(0, 0, this.over.width, this.over.height);
    const of = this.at && this.series[this.at.s];
    const groups = of ? [of] : this.group !== undefined ? this.series.filter((one) => one.group === this.group) : [];
    this.base.classList.toggle("behind", groups.length > 0 && this.series.length > 3);
    if (this.frame) for (const one of groups) this.#curve(pen, one, 2.6);
    if (!this.frame || !of || this.at.i >= of.x.length) {
      this.tip.textContent = "";
      this.tip.hidden = true;
      return;
    }
    const [x, y] = [of.x[this.at.i], of.y[this.at.i]];
    const [px, py] = [this.px(x), this.py(y)];
    pen.fillStyle = readable(of.colour, this.card);
    pen.beginPath();
    pen.arc(px, py, 5, 0, 7);
    pen.fill();
    pen.lineWidth = 2;
    pen.strokeStyle = this.card;
    pen.stroke();
    this.tip.hidden = false;
    this.tip.replaceChildren(h("b", null, isNumber(y) ? String(+y.toPrecision(6)) : ""),
      ` at ${this.xWords(x)}`, h("span", null, of.name ?? ""));
    const room = this.element.clientWidth;
    const wide = Math.min(this.tip.offsetWidth, room);
    this.tip.style.left = `${Math.min(Math.max(px - wide / 2, 0), room - wide)}px`;
    const high = this.tip.offsetHeight;
    this.tip.style.top = `${py - high - 12 < 0 ? py + 14 : py - high - 12}px`;
  }

  // Bring the curves of a group to the front, or none.
  show(group) {
    this.group = group;
    this.point();
  }
}

const EXTENTS = new WeakMap(); // of a curve's y values, which are not changed in place

function extent({ x, y, low, high }, { logX, logY }) {
  const wide = { x0: Infinity, x1: -Infinity, y0: Infinity, y1: -Infinity };
  for (let i = 0; i < x.length; i++) {
    if (!isNumber(x[i]) || !isNumber(y[i]) || (logX && x[i] <= 0) || (logY && y[i] <= 0)) continue;
    wide.x0 = Math.min(wide.x0, x[i]);
    wide.x1 = Math.max(wide.x1, x[i]);
    wide.y0 = Math.min(wide.y0, low && (!logY || low[i] > 0) ? low[i] : y[i]);
    wide.y1 = Math.max(wide.y1, high ? high[i] : y[i]);
  }
  return wide;
}

function symbol(pen, name, x, y, r) {
  pen.beginPath();
  if (name === "square") pen.rect(x - r, y - r, 2 * r, 2 * r);
  else if (name === "diamond") [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]].forEach(([a, b]) => pen.lineTo(x + a * r, y + b * r));
  else if (name === "triangle-up") [[0, -1.2], [1.2, 1], [-1.2, 1]].forEach(([a, b]) => pen.lineTo(x + a * r, y + b * r));
  else if (name === "cross") {
    pen.rect(x - r * 1.3, y - r * 0.4, r * 2.6, r * 0.8);
    pen.rect(x - r * 0.4, y - r * 1.3, r * 0.8, r * 2.6);
  } else if (name === "star") {
    for (let i = 0; i < 10; i++) {
      const far = i % 2 ? r * 0.55 : r * 1.4;
      pen.lineTo(x + far * Math.sin(i * Math.PI / 5), y - far * Math.cos(i * Math.PI / 5));
    }
  } else pen.arc(x, y, r, 0, 7);
  pen.fill();
}

// Ticks, and the place of a value between 0 and 1; `tight` ends at the data, else there is some air.
function scale(low, high, log, most, tight = false) {
  if (log) {
    const [a, b] = [Math.log10(low), Math.log10(high)];
    const air = tight ? 0 : (b - a) * 0.04 || 0.1;
    const [from, to] = [a - air, b + air || a + 1];
    const ticks = [];
    const few = to - from < most / 2;
    for (let decade = Math.floor(from); decade <= to; decade++) {
      for (const digit of few ? [1, 2, 5] : [1]) {
        const v = digit * 10 ** decade;
        if (Math.log10(v) >= from - 1e-9 && Math.log10(v) <= to + 1e-9) ticks.push(v);
      }
    }
    const every = Math.ceil(ticks.length / Math.max(most, 1));
    const kept = ticks.filter((_, i) => i % every === 0);
    return { ticks: kept.length ? kept : [low], place: (v) => (Math.log10(v) - from) / (to - from || 1) };
  }
  if (high === low) [low, high] = [low - Math.abs(low) * 0.05 - 1e-9, high + Math.abs(high) * 0.05 + 1e-9];
  const air = tight ? 0 : (high - low) * 0.05;
  const [from, to] = [low - air, high + air];
  const rough = (to - from) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough) ?? 10 * power;
  const ticks = [];
  for (let i = Math.ceil(from / step - 1e-9); i * step <= to + step * 1e-9; i++) ticks.push(+(i * step).toPrecision(12));
  return { ticks: ticks.length ? ticks : [low], place: (v) => (v - from) / (to - from) };
}

// A list of groups with their lines; pointing at one brings its curves to the front.
export function legend(groups, chart) {
  return h("ul.legend", { "aria-label": "colours" }, groups.map(({ group, name, colour: stroke, dash }) => {
    const line = svg("path", { d: "M0 5H26", stroke: readable(stroke), "stroke-width": 3, "stroke-dasharray": (DASH[dash] ?? []).join(" ") });
    const item = h("li", null, svg("svg", { width: 26, height: 10, "aria-hidden": "true" }, line), h("span", null, name));
    item.addEventListener("pointerenter", () => chart.show(group));
    item.addEventListener("pointerleave", () => chart.show(undefined));
    return item;
  }));
}

// The losses of a run as a small line.
export function sparkline(values, label) {
  const made = svg("svg", { class: "spark", viewBox: "0 0 120 28", preserveAspectRatio: "none", role: "img", "aria-label": label });
  const finite = (values ?? []).filter(isNumber);
  if (finite.length > 1) {
    const [low, high] = [Math.min(...finite), Math.max(...finite)];
    const d = values.map((v, i) => isNumber(v)
      ? `${(i / (values.length - 1) * 118 + 1).toFixed(1)} ${(26 - (v - low) / (high - low || 1) * 24).toFixed(1)}` : null);
    made.append(svg("path", { d: `M${d.filter(Boolean).join("L")}`, "vector-effect": "non-scaling-stroke" }));
  }
  return made;
}
