// The playground: text pads for one or two models. Type, go, stop, edit what came and go on from there; look at
// a token's probability and at the ten that were likeliest, and branch to one of them.
import { get } from "./api.js";
import { afterPause, ago, ask, command, copyButton, empty, fixed, h, plain, setText, tell, tokenWords } from "./dom.js";
import { Pad, SURPRISES, bitsOf } from "./pad.js";

const STORE = "tinygpt.history";
const DRAFT = "tinygpt.draft";
const KEPT = 60; // texts in the history
const KEPT_CHARACTERS = 400_000;
const LINKED_CHARACTERS = 4000; // of a text in a link
const TYPING_MS = 500;

// name, words, how it is checked, and what it does
const NUMBERS = [
  ["temperature", "temperature", { min: 0, max: 5, step: 0.05 }, "below 1 is safer, above 1 wilder, 0 always takes the likeliest token"],
  ["top_k", "top k", { min: 1, step: 1 }, "draw from the k likeliest tokens only; empty: all"],
  ["top_p", "top p", { min: 0, max: 1, step: 0.01 }, "draw from the fewest tokens that hold this share of the probability"],
  ["max_new_tokens", "length", { min: 1, step: 1 }, "tokens to write, unless the text ends before"],
  ["min_p", "min p", { min: 0, max: 1, step: 0.01 }, "drop tokens less likely than this share of the likeliest one"],
  ["typical_p", "typical p", { min: 0, max: 1, step: 0.01 }, "draw from the tokens whose surprise is closest to the expected one"],
  ["repetition_penalty", "repetition penalty", { min: 0, step: 0.05 }, "1 is off; more makes tokens that were there less likely"],
  ["presence_penalty", "presence penalty", { step: 0.1 }, "subtracted once from the logit of each token that was there"],
  ["frequency_penalty", "frequency penalty", { step: 0.1 }, "subtracted for each time that the token was there"],
  ["no_repeat_ngram", "no repeated n-gram", { min: 1, step: 1 }, "no sequence of this many tokens comes twice; empty: off"],
];
const FIRST = 4; // settings that are always shown
const IGNORED_AT_0 = ["top_k", "top_p", "min_p", "typical_p"];

const load = (name, other) => {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? other;
  } catch {
    return other;
  }
};
const save = (name, value) => {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch { /* storage may be full or off: the page works without */ }
};

export async function open(box, settings, about) {
  const models = (await get("/api/runs")).runs.filter((run) => run.can?.generate);
  if (!models.length) {
    box.append(h("h1", null, "Playground"), empty("No run has a checkpoint to write with yet. Train one:", command(about, "train dataset=storyworld", "output_dir", "cache_dir")));
    return null;
  }
  const limit = about.limits?.prompt_characters ?? 100_000;
  const defaults = about.defaults ?? {};

  // Settings

  const inputs = {};
  const field = ([name, words, attributes, title]) => {
    const given = settings.get(name) ?? defaults[name] ?? "";
    inputs[name] = h("input", { type: "number", inputmode: "decimal", ...attributes, value: given, title, placeholder: "off",
      ...name === "max_new_tokens" ? { max: about.limits?.max_new_tokens } : {} });
    return h("label.field", null, h("span", null, words), inputs[name]);
  };
  inputs.seed = h("input", { type: "number", min: 0, step: 1, value: settings.get("seed") ?? defaults.seed ?? 0, title: "the same seed and text give the same tokens" });
  const another = h("input", { type: "checkbox", checked: !settings.has("seed") });
  inputs.stop = h("input", { type: "text", value: settings.get("stop") ?? "", placeholder: "none", title: "end before this text; \\n is a newline", autocomplete: "off", spellcheck: "false" });
  const whole = h("input", { type: "checkbox", checked: settings.get("ignore_eot") === "true" });
  const checkpoint = h("select", null, h("option", { value: "best" }, "best"), h("option", { value: "latest" }, "latest"));
  checkpoint.value = settings.get("checkpoint") ?? "best";
  const tint = h("input", { type: "checkbox", checked: load("tinygpt.tint", true) });
  const aloud = h("input", { type: "checkbox", checked: load("tinygpt.score", true) });
  const options = h("section.card.options", { "aria-label": "settings" }, h("h2", null, "Settings"),
    h("div.fields", null, NUMBERS.slice(0, FIRST).map(field), h("label.field", null, h("span", null, "seed"), inputs.seed),
      h("label.check", null, another, " another seed each time")),
    h("details", null, h("summary", null, "More settings"), h("div.fields", null, NUMBERS.slice(FIRST).map(field),
      h("label.field", null, h("span", null, "stop at"), inputs.stop), h("label.field", null, h("span", null, "checkpoint"), checkpoint),
      h("label.check", null, whole, " go on after the end of text"))),
    h("label.check", null, tint, " colour tokens by their surprise"),
    h("label.check", null, aloud, " also what I type"));

  function values() {
    const found = { checkpoint: checkpoint.value, ignore_eot: whole.checked, seed: Number(inputs.seed.value) || 0 };
    for (const [name, words] of NUMBERS) {
      const input = inputs[name];
      if (!input.checkValidity()) throw new Error(`${words}: ${input.validationMessage}`);
      found[name] = input.value === "" ? defaults[name] !== undefined && ["temperature", "max_new_tokens"].includes(name) ? defaults[name] : null : Number(input.value);
    }
    for (const [name, off] of Object.entries({ repetition_penalty: 1, presence_penalty: 0, frequency_penalty: 0 })) found[name] ??= off;
    found.stop = inputs.stop.value ? [inputs.stop.value.replaceAll("\\n", "\n")] : [];
    if (found.temperature === 0) for (const name of [...IGNORED_AT_0, "seed"]) delete found[name];
    return found;
  }
  const greedy = () => {
    const on = inputs.temperature.value !== "" && Number(inputs.temperature.value) === 0;
    for (const name of [...IGNORED_AT_0, "seed"]) inputs[name].disabled = on;
  };

  // Pads

  const pads = [];
  const sheets = h("div.pads");
  const on = {
    change(pad, before) { // what was the same text in both goes on as one
      for (const other of pads) if (other !== pad && other.text === before) other.edit(pad.text);
      typing();
      keepDraft();
    },
    token: (pad) => { if (pads.includes(pad)) inspect(pad); },
    state: () => buttons(),
  };
  function modelSelect(pad, wanted) {
    const groups = new Map([["", []]]);
    for (const run of models) groups.set(run.sweep ?? "", [...(groups.get(run.sweep ?? "") ?? []), run]);
    const choice = (run) => h("option", { value: run.id }, `${plain(run.sweep ? run.id.split("/").pop() : run.name || run.id)}${run.metric ? ` · ${fixed(run.metric.best ?? run.metric.value, 3)} ${run.metric.name.split("/").pop()}` : ""}`);
    const made = h("select.model", { "aria-label": "model" }, [...groups].map(([sweep, some]) => !some.length ? null
      : sweep ? h("optgroup", { label: sweep }, some.map(choice)) : some.map(choice)));
    made.value = wanted;
    if (!made.value) made.value = models[0].id;
    pad.model = made.value;
    made.addEventListener("change", () => {
      pad.stop();
      pad.model = made.value;
      pad.places = [];
      pad.waiting = [];
      pad.pinned = pad.hovered = null;
      pad.paint();
      inspect(pad);
      typing();
      address();
    });
    return made;
  }
  function addPad(model, text = "") {
    const pad = new Pad({ label: `text of model ${pads.length + 1}`, limit, on });
    pad.select = modelSelect(pad, model);
    const link = h("a.quiet", { href: "#/runs" }, "its run");
    const point = () => { link.href = `#/run?${new URLSearchParams({ id: pad.model })}`; };
    point();
    pad.select.addEventListener("change", point);
    pad.undoButton = h("button.small", { type: "button", title: "the text before the last writing or branch", onclick: () => { pad.undo(); buttons(); typing(); } }, "Undo");
    pad.box = h("section.card.pad", { "aria-label": `text ${pads.length + 1}` }, h("div.pad-head", null, pad.select, link, h("span.gap"), pad.undoButton,
      copyButton(() => pad.text, "Copy the text")), pad.element, pad.words);
    pads.push(pad);
    sheets.append(pad.box);
    sheets.classList.toggle("both", pads.length > 1);
    pad.edit(text);
    return pad;
  }

  const go = h("button.primary.go", { type: "button", title: "Ctrl+Enter", onclick: () => start() }, "Go");
  const halt = h("button", { type: "button", title: "Escape", onclick: () => pads.forEach((pad) => pad.stop()) }, "Stop");
  const second = h("button", { type: "button", onclick: two }, "Second model");
  const same = h("button", { type: "button", title: "give the second pad the text of the first", onclick: () => { pads[1].remember(); pads[1].edit(pads[0].text); typing(); } }, "Same text");
  const link = h("button", { type: "button", onclick: share }, "Copy link");
  const clean = h("button", { type: "button", onclick: () => { for (const pad of pads) { pad.stop(); pad.remember(); pad.edit(""); } pads[0].area.focus(); keepDraft(); } }, "New text");
  const legend = h("ul.surprise", { "aria-label": "surprise of a token in bits" }, h("li", null, "surprise in bits"), SURPRISES.map(([below, level], i) =>
    h("li", null, h(`span.s${level}`, null, i === 0 ? "below 1" : below === Infinity ? "above 10" : `${SURPRISES[i - 1][0]} to ${below}`))));
  const inspector = h("section.card.inspector", { "aria-label": "token" });
  const past = h("section.card.past", { "aria-label": "history" });
  box.append(h("div.heading", null, h("h1", null, "Playground"), h("span.gap"), second, same, link, clean),
    h("div.play", null, h("div.desk", null, sheets, h("div.run-bar", null, go, halt, legend)), h("aside", { "aria-label": "settings and token" }, inspector, options, past)));

  function buttons() {
    const writing = pads.some((pad) => pad.writing);
    halt.disabled = !writing;
    setText(go, writing ? "Again" : pads.some((pad) => pad.text) ? "Go on" : "Go");
    setText(second, pads.length > 1 ? "One model" : "Second model");
    same.hidden = pads.length < 2;
    for (const pad of pads) {
      pad.undoButton.disabled = !pad.before.length;
      pad.box.classList.toggle("writing", pad.writing);
    }
    box.dataset.writing = writing;
  }

  function two() {
    if (pads.length > 1) {
      const pad = pads.pop();
      pad.stop();
      pad.box.remove();
      sheets.classList.remove("both");
    } else {
      const other = models.find((run) => run.id !== pads[0].model) ?? models[0];
      addPad(other.id, pads[0].text);
      typing();
    }
    buttons();
    address();
  }

  async function start(some = pads) {
    try {
      if (another.checked && !inputs.seed.disabled) inputs.seed.value = Math.floor(Math.random() * 1e6);
      const chosen = values();
      address();
      const results = await Promise.allSettled(some.map((pad) => pad.write(chosen)));
      const failed = results.find((result) => result.status === "rejected");
      if (failed) tell(failed.reason.message, "error");
      if (results.some((result) => result.value)) remember(some, chosen);
      keepDraft();
      if (aloud.checked) typing();
    } catch (error) {
      tell(error.message, "error");
    }
    buttons();
  }

  const typing = afterPause(TYPING_MS, () => {
    buttons();
    if (!aloud.checked) return;
    for (const pad of pads) {
      pad.score().then(() => { if (!pad.writing && pad.scoreFailed) { pad.scoreFailed = false; setText(pad.words, ""); } },
        (error) => { pad.scoreFailed = true; setText(pad.words, error.message); });
    }
  });

  // The token under the pointer, else the one at the caret

  let looked = null;
  let showing = null;
  function inspect(pad) {
    const place = pad.place;
    inspector.classList.toggle("on", Boolean(pad.pinned));
    if (place === looked && pad === showing) return;
    [looked, showing] = [place, pad];
    if (!place) {
      inspector.replaceChildren(h("h2", null, "Token"), h("p.quiet", null, "Point at a token, or move the caret to it, to see its probability and the ten that were likeliest. Press one of the ten to branch."));
      return;
    }
    const close = h("button.small.close", { type: "button", "aria-label": "close", onclick: () => { pad.pinned = null; pad.mark(); inspect(pad); } }, "×");
    inspector.replaceChildren(h("div.heading", null, h("h2", null, "Token"), h("span.gap"), close), ...place.parts.flatMap((part) => [
      h("p.token", null, h("code", null, tokenWords(part.text)), ` ${percent(part.logprob)}`, h("span.quiet", null, ` · ${bitsOf(part).toFixed(2)} bits · id ${part.token_id}`)),
      h("ol.likeliest", { "aria-label": "likeliest tokens; press one to branch" }, (part.top ?? []).map(([text, logprob, id]) => {
        const fill = h("i");
        fill.style.width = `${Math.max(100 * Math.exp(logprob), 0.6)}%`;
        return h("li", null, h(`button.choice${id === part.token_id ? ".taken" : ""}`, { type: "button", title: `go on with this token, id ${id}`,
          onclick: () => branch(pad, place, part, id) }, fill, h("code", null, tokenWords(text)), h("span", null, percent(logprob))));
      }))]),
    h("div.buttons", null, h("button", { type: "button", onclick: () => { pad.cut(place); start([pad]); } }, "Go on after this token")));
  }

  async function branch(pad, place, part, id) {
    try {
      await pad.branch(place, part, id);
      await start([pad]);
    } catch (error) {
      tell(error.message, "error");
    }
  }

  // Link, draft and history

  function link_settings(withText) {
    const found = new URLSearchParams(pads.map((pad) => ["model", pad.model]));
    for (const [name, input] of Object.entries(inputs)) {
      const given = name === "stop" ? "" : String(defaults[name] ?? "");
      if (name === "seed" ? !another.checked || withText : input.value !== given) found.set(name, input.value);
    }
    if (whole.checked) found.set("ignore_eot", "true");
    if (checkpoint.value !== "best") found.set("checkpoint", checkpoint.value);
    if (withText && pads[0].text) found.set("text", pads[0].text.slice(0, LINKED_CHARACTERS));
    return found;
  }
  function address() { history.replaceState(null, "", `#/playground?${link_settings(false)}`); }
  async function share() {
    const url = `${location.origin}${location.pathname}#/playground?${link_settings(true)}`;
    const more = pads[0].text.length > LINKED_CHARACTERS ? `; it holds the first ${fixed(LINKED_CHARACTERS)} characters of the text` : "";
    try {
      await navigator.clipboard.writeText(url);
      tell(`The link is copied${more}`);
    } catch {
      history.replaceState(null, "", url);
      tell(`Copy the link from the address bar${more}`);
    }
  }
  const keepDraft = afterPause(400, () => save(DRAFT, pads.map((pad) => pad.text)));

  function remember(some, chosen) {
    const texts = some.map((pad) => ({ model: pad.model, text: pad.text }));
    let kept = [{ at: new Date().toISOString(), texts, settings: chosen }, ...load(STORE, [])].slice(0, KEPT);
    while (kept.length > 1 && JSON.stringify(kept).length > KEPT_CHARACTERS) kept = kept.slice(0, -1);
    save(STORE, kept);
    showPast();
  }
  function restore(entry) {
    while (pads.length > entry.texts.length) two();
    entry.texts.forEach(({ model, text }, i) => {
      const pad = pads[i] ?? addPad(model);
      pad.stop();
      pad.remember();
      if (models.some((run) => run.id === model)) {
        pad.select.value = model;
        pad.select.dispatchEvent(new Event("change"));
      } else tell(`${model} is no longer here; the text came without it`);
      pad.edit(String(text));
    });
    for (const [name, input] of Object.entries(inputs)) if (name !== "stop" && name in entry.settings) input.value = entry.settings[name] ?? "";
    greedy();
    buttons();
    typing();
    keepDraft();
    address();
  }
  function showPast() {
    const kept = load(STORE, []);
    past.hidden = !kept.length;
    past.replaceChildren(h("div.heading", null, h("h2", null, "History"), h("span.gap"), h("button.small", { type: "button", onclick: async () => {
      if (await ask({ title: "Delete the history?", text: `${kept.length} texts are kept in this browser only.`, yes: "Delete" })) { save(STORE, []); showPast(); }
    } }, "Delete")), h("ol.history", null, kept.map((entry) => h("li", null, h("button", { type: "button", onclick: () => restore(entry) },
      h("span.begin", null, plain(entry.texts[0]?.text ?? "").slice(0, 140) || "(empty)"),
      h("span.quiet", null, `${entry.texts.map((one) => one.model.split("/").slice(-2).join("/")).join(" | ")} · ${ago(entry.at)}`))))));
  }

  for (const input of [...Object.values(inputs), another, whole, checkpoint]) input.addEventListener("change", () => { greedy(); address(); });
  inputs.temperature.addEventListener("input", greedy);
  inputs.seed.addEventListener("input", () => { another.checked = false; });
  const tinted = () => { sheets.classList.toggle("plain", !tint.checked); save("tinygpt.tint", tint.checked); };
  tint.addEventListener("change", tinted);
  aloud.addEventListener("change", () => { save("tinygpt.score", aloud.checked); typing(); });
  const keys = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      start();
    } else if (event.key === "Escape") pads.forEach((pad) => pad.stop());
  };
  document.addEventListener("keydown", keys);
  const draft = load(DRAFT, []);
  const wanted = settings.getAll("model").slice(0, 2);
  for (const [i, model] of (wanted.length ? wanted : [models[0].id]).entries()) addPad(model, settings.get("text") ?? String(draft[i] ?? draft[0] ?? ""));
  greedy();
  tinted();
  buttons();
  inspect(pads[0]);
  showPast();
  typing();
  return () => {
    document.removeEventListener("keydown", keys);
    typing.cancel();
    for (const pad of pads) pad.stop();
  };
}

function percent(logprob) {
  const p = 100 * Math.exp(logprob);
  return p >= 10 ? `${p.toFixed(0)} %` : p >= 0.1 ? `${p.toFixed(1)} %` : p >= 0.001 ? `${p.toFixed(3)} %` : "< 0.001 %";
}
