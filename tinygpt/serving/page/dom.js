// Elements, numbers in words, and what every view needs. Text from runs enters the page as text nodes
// only: no function here, or anywhere on the page, parses HTML.

// element("p.note", { title }, "text", child): classes after dots; on* are listeners; null children are left out.
export function h(selector, properties, ...children) {
  const [tag, ...classes] = selector.split(".");
  const made = document.createElement(tag || "div");
  if (classes.length) made.className = classes.join(" ");
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";
export function svg(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes ?? {})) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Set a text only if it differs, so that a live page does not disturb a selection or a screen reader.
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

// Fill an element only if what it shows has changed, so that focus, hover and selection inside it stay.
export function refill(target, key, make) {
  const text = JSON.stringify(key);
  if (target.dataset.shows === text) return;
  target.dataset.shows = text;
  target.replaceChildren(...[make()].flat(Infinity).filter(Boolean));
}

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

export function fixed(value, digits = 0) {
  return isNumber(value)
    ? value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }) : "";
}

// 1234567 -> 1.23M
export function short(value) {
  if (!isNumber(value)) return "";
  const size = Math.abs(value);
  for (const [unit, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (size >= unit) return `${+(value / unit).toPrecision(3)}${letter}`;
  }
  return size && size < 1e-3 ? value.toExponential(1).replace("e-", "e−") : String(+value.toPrecision(4));
}

export function bytes(value) {
  if (!isNumber(value)) return "";
  for (const [unit, name] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (value >= unit) return `${(value / unit).toFixed(value >= 10 * unit ? 0 : 1)} ${name}`;
  }
  return `${value} B`;
}

export function duration(seconds) {
  if (!isNumber(seconds)) return "";
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${String(Math.floor(s / 60) % 60).padStart(2, "0")} min`;
  return `${Math.floor(s / 86400)} days`;
}

// The same for an estimate, which needs no seconds.
export function roughly(seconds) {
  if (!isNumber(seconds)) return "";
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  return duration(seconds);
}

export function ago(iso) {
  const then = Date.parse(iso);
  if (Number.isNaN(then)) return "";
  const s = (Date.now() - then) / 1000;
  if (s < 5) return "now";
  if (s < 60) return `${Math.floor(s)} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ago`;
  if (s < 86400 * 30) return `${Math.floor(s / 86400)} d ago`;
  return new Date(then).toISOString().slice(0, 10);
}

// A setting's value as it is typed: 0.001, null, [a,b].
export function typed(value) {
  if (value === null || value === undefined) return "null";
  if (Array.isArray(value)) return `[${value.map(typed).join(",")}]`;
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

// Terminal colours and other control characters become visible or go; newlines and tabs stay.
export function plain(text) {
  return String(text ?? "")
    .replace(/\u001b\[[0-9;:?]*[ -/]*[@-~]|\u001b\][^\u0007\u001b]*(?:\u0007|\u001b\\)?/g, "")
    .replace(/\r\n?/g, "\n")
    .replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`);
}

// A token as a reader sees it: spaces and newlines visible.
export function tokenWords(text) {
  if (text === "") return "∅";
  return plain(text).replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣");
}

export function status(name) {
  return h(`span.status.status-${/^[a-z]+$/.test(name) ? name : "other"}`, null, name);
}

// Say something to a screen reader, and to everybody at the bottom of the window.
let quietly;
export function tell(text, kind = "") {
  const box = document.getElementById("message");
  box.className = kind;
  box.textContent = text;
  clearTimeout(quietly);
  quietly = setTimeout(() => { box.textContent = ""; box.className = ""; }, kind === "error" ? 12000 : 5000);
}

// Ask before something that cannot be taken back; resolves to whether the reader agreed.
export function ask({ title, text, yes }) {
  const dialog = document.getElementById("ask");
  const go = h("button.primary", { value: "yes", type: "submit" }, yes);
  dialog.replaceChildren(h("form", { method: "dialog" },
    h("h2", { id: "ask-title" }, title), h("p", null, text),
    h("div.buttons", null, h("button", { value: "no", type: "submit", autofocus: true }, "Cancel"), go)));
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

// An empty state: what is missing, and the command that makes it.
export function empty(text, command) {
  return h("div.empty", null, h("p", null, text), command && commandLine(command));
}

// A command that a newcomer types, with the folders that the server was given, so that its result appears here.
export function command(about, text, ...names) {
  return [`python -m tinygpt.${text}`, ...names.map((name) => about.settings[name]).filter(Boolean)].join(" ");
}

export function commandLine(text) {
  return h("div.command", null, h("code", null, text), copyButton(() => text, "Copy the command"));
}

export function copyButton(text, label) {
  const button = h("button.small", { type: "button", "aria-label": label, title: label }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = "Copied";
    } catch {
      tell("The browser did not allow copying; select the text and press Ctrl+C", "error");
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return button;
}

// Run `draw` in the next frame, however often it is asked for before.
export function inFrame(draw) {
  let asked = 0;
  const later = () => { asked ||= requestAnimationFrame(() => { asked = 0; draw(); }); };
  later.cancel = () => { cancelAnimationFrame(asked); asked = 0; };
  return later;
}

// Let the browser draw and answer, then go on.
export const breath = () => new Promise((resolve) => {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => resolve(port1.close());
  port2.postMessage(null);
});

export function afterPause(ms, act) {
  let timer;
  const later = (...values) => { clearTimeout(timer); timer = setTimeout(act, ms, ...values); };
  later.cancel = () => clearTimeout(timer);
  return later;
}

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
