// The server's addresses: JSON, events, and streamed text.

const LIGHTS = { on: "live: connected to the server", off: "not connected to the server; trying again", idle: "this view does not change by itself" };
const RETRY_MS = 5000; // after the server has refused a connection

export class ServerError extends Error {
  constructor(status, body) {
    super(body?.error?.message ?? `the server answered ${status}`);
    this.status = status;
    this.code = body?.error?.code ?? null;
  }
}

export function address(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "") query.append(name, one);
    }
  }
  return query.size ? `${path}?${query}` : path;
}

async function answered(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is python -m tinygpt.serve still running?");
  }
  if (!response.ok) throw new ServerError(response.status, await response.json().catch(() => null));
  return response;
}

export async function get(path, parameters, signal) {
  return (await answered(address(path, parameters), { signal })).json();
}

const asPost = (body, signal) => ({
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
});

export async function post(path, body, signal) {
  return (await answered(path, asPost(body, signal))).json();
}

// Yields lists of values as they come, of an answer that is a line of JSON for each.
export async function* lines(path, parameters, signal) {
  for await (const parts of pieces(await answered(address(path, parameters), { signal }), "\n")) yield parts.map((text) => JSON.parse(text));
}

// Yields the messages of an event stream that answers a POST, until it ends or `signal` aborts it.
export async function* stream(path, body, signal) {
  for await (const parts of pieces(await answered(path, asPost(body, signal)), "\n\n")) {
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
      if (data && data.trim() !== "[DONE]") yield JSON.parse(data);
    }
  }
}

// Yields lists of the pieces of a text between two marks, as they come.
async function* pieces(response, mark) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split(mark);
      rest = parts.pop();
      if (parts.length) yield parts;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// What changes, as it happens. A browser allows six connections to a server in all its tabs together,
// so a tab that nobody sees closes its own; `handlers.open` is called at each (re)connection.
export function events(parameters, handlers) {
  let source = null;
  let again;
  const light = document.getElementById("live");
  const mark = (state) => {
    light.dataset.state = state;
    light.setAttribute("aria-label", light.title = LIGHTS[state]);
  };
  const connect = () => {
    source = new EventSource(address("/api/events", parameters()));
    source.onopen = () => { mark("on"); handlers.open?.(); };
    source.onerror = () => {
      mark("off");
      if (source?.readyState !== EventSource.CLOSED) return; // it tries again by itself
      source = null;
      again = setTimeout(seen, RETRY_MS);
    };
    for (const kind of ["runs", "rows", "sample", "log"]) {
      source.addEventListener(kind, (event) => handlers[kind]?.(JSON.parse(event.data)));
    }
  };
  const seen = () => {
    clearTimeout(again);
    if (document.hidden) {
      source?.close();
      source = null;
    } else if (!source) connect();
  };
  document.addEventListener("visibilitychange", seen);
  seen();
  return () => {
    document.removeEventListener("visibilitychange", seen);
    clearTimeout(again);
    source?.close();
    mark("idle");
  };
}
