// A text pad: a text area above a copy of its text whose tokens have the colour of their surprise. Both
// have the same font and width, so they break lines at the same places, and the text stays editable.
import { stream, post } from "./api.js";
import { fixed, h, inFrame, setText } from "./dom.js";

const BITS = 1 / Math.log(2);
export const SURPRISES = [[1, "0"], [3, "1"], [6, "2"], [10, "3"], [Infinity, "4"]]; // bits, as in tinygpt.sample
const MOST_SCORED = 20_000; // characters that are scored while somebody types
const UNDO = 30;

export const bitsOf = (token) => -token.logprob * BITS;
const levelOf = (bits) => SURPRISES.find(([below]) => bits < below)?.[1] ?? "4";
const lines = (text) => text.replace(/\r\n?/g, "\n"); // as a text area keeps them

// Where the tokens lie in the text that their bytes are: [{start, end, parts}], a character of several
// tokens being one place.
export function placesOf(tokens) {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const places = [];
  let text = "";
  let waiting = [];
  for (const token of tokens) {
    waiting.push(token);
    const bytes = Uint8Array.from(atob(token.bytes ?? ""), (c) => c.charCodeAt(0));
    const more = lines(decoder.decode(bytes, { stream: true }));
    if (!more) continue;
    places.push({ start: text.length, end: text.length + more.length, parts: waiting });
    waiting = [];
    text += more;
  }
  return { text, places, waiting };
}

export class Pad {
  // `on` has change(before, after), token(pad), state(pad): an edit, another token to inspect, began or ended.
  constructor({ label, limit, on }) {
    this.on = on;
    this.text = "";
    this.places = [];
    this.waiting = []; // tokens at the end that do not complete a character
    this.model = null;
    this.controller = null;
    this.before = [];
    this.hovered = this.pinned = null;
    this.area = h("textarea", { "aria-label": label, spellcheck: "false", autocomplete: "off", autocapitalize: "off", maxlength: limit, rows: 1,
      placeholder: "Type the beginning of a text, then press Go.\nThe model goes on from wherever the text ends." });
    this.back = h("div.back", { "aria-hidden": "true" });
    this.words = h("p.quiet.pad-words", null, "\u00a0");
    this.element = h("div.paper", null, this.back, this.area);
    this.paint = inFrame(() => this.#paint());
    this.flush = inFrame(() => this.#flush());
    this.area.addEventListener("beforeinput", () => this.stop());
    this.area.addEventListener("input", () => this.edit(this.area.value, true));
    this.area.addEventListener("pointermove", (event) => this.#hover(event));
    this.area.addEventListener("pointerleave", () => { this.hovered = null; this.on.token(this); });
    this.area.addEventListener("click", (event) => {
      this.#hover(event);
      this.pinned = this.hovered ?? this.#atCaret();
      this.on.token(this);
      this.mark();
    });
    this.area.addEventListener("keyup", ({ key }) => {
      if (!/^(Arrow|Home|End|Page)/.test(key)) return; // while somebody types, nothing opens
      this.pinned = this.#atCaret();
      this.hovered = null;
      this.on.token(this);
      this.mark();
    });
    this.paint();
  }

  get writing() { return this.controller !== null; }
  get place() { return this.hovered ?? this.pinned; } // what the inspector shows
  get isScored() { // whether the tokens of the whole text are known
    let at = 0;
    for (const { start, end } of this.places) {
      if (start !== at) return false;
      at = end;
    }
    return at === this.text.length;
  }
  get ids() { return [...this.places.flatMap((place) => place.parts), ...this.waiting].map((token) => token.token_id); }

  // Another text. Tokens before the first change keep their colours; later ones are no longer what the
  // model would say, because what comes before them has changed.
  edit(text, byHand = false) {
    const before = this.text;
    let same = 0;
    const least = Math.min(before.length, text.length);
    while (same < least && before[same] === text[same]) same++;
    if (text === before) return;
    this.text = text;
    this.places = this.places.filter((place) => place.end <= same);
    this.waiting = [];
    this.pinned = this.hovered = null;
    if (this.area.value !== text) this.area.value = text;
    this.paint();
    this.on.token(this);
    if (byHand) this.on.change(this, before);
  }

  remember() {
    if (this.before.at(-1)?.text !== this.text) this.before.push({ text: this.text, places: [...this.places], waiting: this.waiting });
    if (this.before.length > UNDO) this.before.shift();
  }

  undo() {
    this.stop();
    let found = this.before.pop();
    if (found?.text === this.text) found = this.before.pop();
    if (found) this.#set(found);
  }

  #set({ text, places, waiting = [] }) {
    Object.assign(this, { text, places, waiting, pinned: null, hovered: null });
    this.#show(text);
    this.paint();
    this.on.token(this);
  }

  // Set the area's text; caret, selection and scrolling stay where they are.
  #show(text) {
    const { selectionStart, selectionEnd, selectionDirection } = this.area;
    this.area.value = text;
    if (document.activeElement === this.area) this.area.setSelectionRange(selectionStart, selectionEnd, selectionDirection);
  }

  // Ask the model how surprising each token of the text is.
  async score() {
    const { text, model } = this;
    if (!text || !model || this.writing || this.isScored || text.length > MOST_SCORED) return;
    const found = await post("/api/score", { id: model, text, top: 10 });
    if (this.text !== text || this.model !== model || this.writing) return;
    const read = placesOf(found.tokens);
    let same = 0;
    while (same < text.length && text[same] === read.text[same]) same++;
    this.places = read.places.filter((place) => place.end <= same);
    this.waiting = same === text.length ? read.waiting : [];
    this.pinned = this.hovered = null;
    this.paint();
    this.on.token(this);
  }

  // The text up to a token, and another token in its place.
  async branch(place, part, id) {
    this.stop();
    this.remember();
    await this.score();
    const at = this.places.indexOf(place) >= 0 ? this.places.indexOf(place) : this.places.findIndex((one) => one.start === place.start);
    if (at < 0) throw new Error("The text before this token has changed; wait until it is coloured again.");
    const whole = this.places[at];
    const index = this.places.slice(0, at).reduce((sum, one) => sum + one.parts.length, 0) + Math.max(whole.parts.indexOf(part), 0);
    const ids = [...this.ids.slice(0, index), id];
    const found = await post("/api/score", { id: this.model, ids, top: 10 });
    const read = placesOf(found.tokens);
    this.#set(read);
  }

  // Keep the text up to the end of a token.
  cut(place) {
    this.stop();
    this.remember();
    const keep = this.places.filter((one) => one.end <= place.end);
    this.#set({ text: this.text.slice(0, place.end), places: keep });
  }

  stop() {
    if (!this.controller) return;
    this.controller.abort();
    this.#flush();
  }

  // Write on until the model ends, a setting ends it, or `stop`.
  async write(settings) {
    this.stop();
    this.remember();
    const controller = new AbortController();
    this.controller = controller;
    this.on.state(this);
    const scored = this.isScored && this.text.length + this.waiting.length > 0;
    const body = { id: this.model, top: 10, ...settings, ...scored ? { prompt_ids: this.ids } : { prompt: this.text } };
    this.arrived = [];
    this.waiting = [];
    const began = performance.now();
    let n = 0;
    const stopped = () => {
      if (this.controller === controller) setText(this.words, `${fixed(n)} tokens, stopped · seed ${this.seed ?? "?"}`);
    };
    setText(this.words, "Writing …");
    try {
      for await (const event of stream("/api/generate", body, controller.signal)) {
        if (controller.signal.aborted) break;
        if (event.error) throw new Error(event.error.message);
        if (event.loading) setText(this.words, "Loading the model …");
        else if (event.start) this.seed = event.seed;
        else if (event.done) {
          this.#flush();
          const why = { eot: "the model ended the text", length: "as long as was asked for", stop: "at a stop string", cancelled: "stopped" }[event.done];
          setText(this.words, `${fixed(n)} tokens, ${why} · ${fixed(event.tokens_per_s)} tokens/s · seed ${this.seed}`);
          return true;
        } else {
          n += event.token_id !== undefined;
          this.arrived.push(event);
          this.flush();
          setText(this.words, `${fixed(n)} tokens · ${fixed(n / (performance.now() - began) * 1000)} tokens/s`);
        }
      }
      if (!controller.signal.aborted) throw new Error("the server ended the stream");
      stopped();
    } catch (error) {
      if (!controller.signal.aborted) {
        this.#flush();
        setText(this.words, `After ${fixed(n)} tokens: ${error.message}`);
        throw error;
      }
      stopped();
    } finally {
      if (this.controller === controller) this.controller = null;
      this.on.state(this);
    }
    return n > 0;
  }

  // Add the tokens that have come since the last frame.
  #flush() {
    if (!this.arrived?.length) return;
    const arrived = this.arrived;
    this.arrived = [];
    this.end.remove();
    let added = "";
    for (const event of arrived) {
      const text = lines(event.text ?? "");
      if (event.token_id !== undefined) this.waiting.push(event);
      if (!text) continue;
      const start = this.text.length + added.length;
      added += text;
      if (!this.waiting.length) {
        this.back.append(text);
        continue;
      }
      const place = { start, end: start + text.length, parts: this.waiting };
      this.waiting = [];
      this.places.push(place);
      this.back.append(this.#span(place, this.places.length - 1, text));
    }
    this.text += added;
    this.#show(this.text);
    this.back.append(this.end);
  }

  #span(place, index, text = this.text.slice(place.start, place.end)) {
    const bits = place.parts.reduce((sum, part) => sum + bitsOf(part), 0);
    const made = h("span", { class: `s${levelOf(bits)}`, "data-i": index });
    made.textContent = text;
    return made;
  }

  #paint() {
    const made = [];
    let at = 0;
    this.places.forEach((place, i) => {
      if (place.start > at) made.push(this.text.slice(at, place.start));
      made.push(this.#span(place, i));
      at = place.end;
    });
    this.end = document.createTextNode("\u200b"); // gives a newline at the end its line
    this.back.replaceChildren(...made, this.text.slice(at), this.end);
    this.mark();
  }

  mark() {
    this.back.querySelector(".pinned")?.classList.remove("pinned");
    const i = this.places.indexOf(this.pinned);
    if (i >= 0) this.back.querySelector(`[data-i="${i}"]`)?.classList.add("pinned");
  }

  #hover(event) {
    const under = document.elementsFromPoint(event.clientX, event.clientY).find((one) => one.dataset?.i !== undefined && this.back.contains(one));
    const place = under ? this.places[under.dataset.i] : null;
    if (place === this.hovered) return;
    this.hovered = place ?? null;
    this.on.token(this);
  }

  #atCaret() {
    const at = this.area.selectionStart;
    return this.places.find((place) => place.start <= at && at < place.end)
      ?? (at === this.text.length ? this.places.at(-1) ?? null : null);
  }
}
