// Chooses the view that the address names: #/VIEW?settings. A view's `open` fills the given element and
// returns what closes it; `open` is called again when the settings in the address change.
import { h } from "./dom.js";
import { get } from "./api.js";

const VIEWS = {
  runs: () => import("./runs.js"),
  run: () => import("./run.js"),
  sweep: () => import("./sweep.js"),
  compare: () => import("./compare.js"),
  playground: () => import("./playground.js"),
  data: () => import("./data.js"),
};
const TAB = { run: "runs", sweep: "runs" };
const view = document.getElementById("view");
let close = null;
let shown = null;
let calls = 0;

export function parsed(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  return { name: path in VIEWS ? path : "runs", settings: new URLSearchParams(query) };
}

const info = get("/api/info");

async function show() {
  const call = ++calls;
  const { name, settings } = parsed(location.hash);
  let content;
  const box = h(`div.view.view-${name}`);
  try {
    const [module, about] = await Promise.all([VIEWS[name](), info]);
    if (call !== calls) return;
    close?.();
    close = null;
    content = box;
    view.replaceChildren(box);
    for (const link of document.querySelectorAll("nav [data-view]")) {
      if (link.dataset.view === (TAB[name] ?? name)) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    const closing = await module.open(box, settings, about);
    if (call === calls) close = closing ?? null;
    else closing?.();
  } catch (error) {
    if (call !== calls) return;
    (content ?? view).replaceChildren(h("section.card", null, h("h1", null, "This did not work"), h("p", null, error.message),
      h("p", null, h("button", { type: "button", onclick: () => location.reload() }, "Try again"))));
  }
  if (shown !== null && call === calls) {
    if (shown !== name) window.scrollTo(0, 0);
    view.focus({ preventScroll: true });
  }
  shown = name;
  document.title = `${view.querySelector("h1")?.textContent || "tinygpt"} · tinygpt`;
  document.body.dataset.ready = name;
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the part after # is the view
  view.focus();
});

info.then((about) => {
  document.getElementById("place").textContent = about.output_dir;
  if (!location.hash && about.run) history.replaceState(null, "", `#/run?${new URLSearchParams({ id: about.run })}`);
}).catch(() => {}).finally(() => {
  addEventListener("hashchange", show);
  show();
});
