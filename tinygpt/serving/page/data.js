// Prepared data: what a set holds in numbers, and its documents with the borders of their tokens.
import { get } from "./api.js";
import { bytes, command, empty, fixed, h, isNumber, plain, setText, tokenWords } from "./dom.js";
import { runLink } from "./runs.js";

const DOCUMENTS = 5; // at a time

export async function open(box, settings, about) {
  const { sets } = await get("/api/data");
  box.append(h("h1", null, "Data"));
  if (!sets.length) {
    box.append(empty("No text is prepared yet. Training prepares its text by itself; to do only that:", command(about, "prepare dataset=storyworld", "cache_dir")));
    return null;
  }
  const id = settings.get("id") ?? sets[0].id;
  const set = sets.find((one) => one.id === id);
  const list = h("nav.sets", { "aria-label": "prepared sets" }, sets.map((one) => h("a", { href: `#/data?${new URLSearchParams({ id: one.id })}`,
    "aria-current": one.id === id ? "true" : null }, h("b", null, plain(one.dataset)), h("span", null, `${plain(one.tokenizer)}, ${fixed(one.vocab_size)} ids · ${bytes(one.bytes_on_disk)}`))));
  const content = h("div.set");
  box.append(h("div.with-side", null, list, content));
  if (!set) {
    content.append(h("p.problem", null, `There is no prepared set ${id}.`));
    return null;
  }
  const splits = Object.entries(set.splits);
  const reasons = [...new Set(splits.flatMap(([, info]) => Object.keys(info.dropped ?? {})))];
  content.append(h("section.card", { "aria-label": "splits" }, h("h2", null, plain(set.id)), h("div.scroll", { tabindex: "0", role: "region", "aria-label": "numbers of each split" },
    grid(["", ...splits.map(([name]) => name)], [["documents", "documents"], ["tokens", "tokens"], ["utf8_bytes", "UTF-8 bytes"]].map(([key, words]) => [words, ...splits.map(([, info]) => fixed(info[key]))])
      .concat([["bytes per token", ...splits.map(([, info]) => fixed(info.bytes_per_token, 3))]])
      .concat(reasons.map((reason) => [`left out: ${reason.replaceAll("_", " ")}`, ...splits.map(([, info]) => fixed(info.dropped?.[reason] ?? 0))])))),
  set.used_by?.length ? h("p.note", null, `used by ${set.used_by.length} ${set.used_by.length === 1 ? "run" : "runs"}: `,
    set.used_by.slice(0, 5).flatMap((run, i) => [i ? ", " : "", h("a", { href: runLink(run) }, run)]), set.used_by.length > 5 ? " …" : "") : null));

  // Documents

  const split = h("select", { "aria-label": "split" }, splits.map(([name]) => h("option", { value: name }, name)));
  split.value = settings.get("split") ?? splits[0][0];
  const from = h("input", { type: "number", min: 1, step: 1, value: Number(settings.get("from") ?? 0) + 1, "aria-label": "first document" });
  const place = h("span.quiet");
  const items = h("div.documents", { "aria-live": "polite" });
  const move = (by) => { from.value = Math.max(1, Number(from.value) + by); show(); };
  const before = h("button", { type: "button", onclick: () => move(-DOCUMENTS) }, "Earlier");
  const after = h("button", { type: "button", onclick: () => move(DOCUMENTS) }, "Later");
  let total = 0;
  const any = h("button", { type: "button", onclick: () => { from.value = 1 + Math.floor(Math.random() * Math.max(total, 1)); show(); } }, "Any");
  content.append(h("section.card", { "aria-label": "documents" }, h("div.heading", null, h("h2", null, "Documents"), h("span.gap"),
    h("div.controls", null, split, h("label", null, "from ", from), before, after, any)), place, items));
  let call = 0;
  async function show() {
    const mine = ++call;
    const first = Math.max(0, Math.floor(Number(from.value) || 1) - 1);
    try {
      const found = await get("/api/data/documents", { id, split: split.value, from: String(first), n: DOCUMENTS });
      if (mine !== call) return;
      total = found.documents;
      before.disabled = first === 0;
      after.disabled = first + DOCUMENTS >= total;
      setText(place, `${fixed(found.from + 1)} to ${fixed(found.from + found.items.length)} of ${fixed(total)} documents; each token has the other background than its neighbours`);
      items.replaceChildren(...found.items.map((item) => h("article", null, h("h3", null, `document ${fixed(item.index + 1)} · ${fixed(item.n_tokens)} tokens`), tokens(item))));
      history.replaceState(null, "", `#/data?${new URLSearchParams({ id, split: split.value, from: first })}`);
    } catch (error) {
      if (mine === call) items.replaceChildren(h("p.problem", null, error.message));
    }
  }
  from.addEventListener("change", show);
  split.addEventListener("change", () => { from.value = 1; show(); });

  const numbers = h("div", { "aria-live": "polite" }, h("section.card", { "aria-label": "inspection" }, h("h2", null, "Inspection"), h("p.quiet", null, "Counting. A large set takes some seconds …")));
  content.append(numbers);
  get("/api/data/inspect", { id }).then((found) => numbers.replaceChildren(...inspection(found)),
    (error) => numbers.replaceChildren(h("section.card", null, h("h2", null, "Inspection"), h("p.problem", null, error.message))));
  await show();
  return () => { call++; };
}

function tokens(item) {
  const made = h("p.tokens", null, item.tokens.map(([text, id], i) => h(`span.t${i % 2}`, { title: `${tokenWords(text)} · id ${id}` }, plain(text).replaceAll("\n", "↵\n") || "∅")));
  if (item.more) made.append(" …");
  return made;
}

function inspection(found) {
  const parts = [];
  const lengths = Object.entries(found.lengths ?? {}).flatMap(([split, kinds]) => Object.entries(kinds).map(([kind, values]) => [`${split}, ${kind}`, values]));
  if (lengths.length) {
    const columns = Object.keys(lengths[0][1]);
    parts.push(h("section.card", { "aria-label": "lengths" }, h("h2", null, "Length of a document"), h("div.scroll", { tabindex: "0", role: "region", "aria-label": "percentiles" },
      grid(["", ...columns], lengths.map(([name, values]) => [name, ...columns.map((column) => fixed(values[column]))])))));
  }
  const cloud = (title, pairs, words) => pairs?.length ? [h("h3", null, title), h("ul.cloud", null, pairs.map(([text, n]) => h("li", null, h("code", null, words(text)), ` ${fixed(n)}`)))] : null;
  parts.push(h("section.card", { "aria-label": "vocabulary" }, h("h2", null, "Vocabulary"), found.vocabulary?.line ? h("p", null, plain(found.vocabulary.line)) : null,
    cloud("The longest tokens, and how often train has them", found.longest, tokenWords), cloud("The rarest characters, which may be errors in the text", found.rarest, tokenWords),
    found.copies?.length ? [h("h3", null, "Copies"), found.copies.map((line) => h("p", null, plain(line)))] : null));
  return parts;
}

function grid(headings, rows) {
  return h("table", null, h("thead", null, h("tr", null, headings.map((text, i) => i ? h("th.number", { scope: "col" }, text) : h("td")))),
    h("tbody", null, rows.map((row) => h("tr", null, row.map((cell, i) => i ? h("td.number", null, isNumber(cell) ? fixed(cell) : cell) : h("th", { scope: "row" }, cell))))));
}
