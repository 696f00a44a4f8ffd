// Requests to this server, with the key of this tab. Knows nothing of the page.

const KEY = "adapthub-key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function getJSON(path, signal) {
  return (await send(path, { signal })).json();
}

/** The answer, and the request's id for feedback. */
export async function postJSON(path, body, signal) {
  const response = await post(path, body, signal);
  return { answer: await response.json(), id: response.headers.get("x-request-id") };
}

/** The server-sent events of an answer as they come, parsed, up to [DONE]. */
export async function* events(path, body, signal) {
  const response = await post(path, body, signal);
  let rest = "";
  for await (const text of chunks(response.body)) {
    const lines = (rest + text).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refused(500, event.error.message);
      yield event;
    }
  }
}

/** The path of a model by name, for the Inference API. */
export function modelPath(model) {
  return `/models/${model.split("/").map(encodeURIComponent).join("/")}`;
}

function post(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return send(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

async function send(path, options) {
  const headers = { ...options.headers };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  const response = await fetch(path, { ...options, headers });
  if (!response.ok) throw new Refused(response.status, await reason(response));
  return response;
}

async function reason(response) {
  try {
    const { error } = await response.json();
    return error.message ?? String(error);
  } catch {
    return `the server answered ${response.status}`;
  }
}

async function* chunks(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
