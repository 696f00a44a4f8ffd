// One text under one model or two side by side: an answer as it comes, scores of classes, entities in the text.

import { events, getJSON, modelPath, postJSON } from "./api.js";
import { HUES, hue } from "./charts.js";
import { byId, element } from "./dom.js";
import { rate, seconds } from "./numbers.js";

const GENERATING = ["chat", "completion"];
let running = null; // the AbortController of what runs

export function start() {
  const form = byId("ask");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  for (const radio of form.elements.task) radio.addEventListener("change", changeTask);
  byId("stop").addEventListener("click", () => running?.abort());
  byId("clear").addEventListener("click", clear);
  listModels();
}

/** What may be chosen; anything else that the server knows may be typed. */
export async function listModels() {
  let models;
  try {
    models = (await getJSON("/v1/models")).data.map((model) => model.id);
  } catch {
    return; // the notice of the live view says why
  }
  byId("models").replaceChildren(...models.map((value) => element("option", { value })));
  byId("model-a").value ||= models[1] ?? models[0];
}

function task() {
  return byId("ask").elements.task.value;
}

function changeTask() {
  for (const field of document.querySelectorAll(".generating")) field.hidden = !GENERATING.includes(task());
  clear();
}

function clear() {
  running?.abort();
  byId("answers").replaceChildren();
}

async function run() {
  running?.abort();
  const control = new AbortController();
  running = control;
  const models = [byId("model-a").value.trim(), byId("model-b").value.trim()].filter(Boolean);
  const input = byId("text").value;
  const cards = cardsFor(models);
  byId("stop").disabled = false;
  const answered = await Promise.all(cards.map((card) => answer(card, input, control.signal)));
  if (running === control) {
    running = null;
    byId("stop").disabled = true;
  }
  if (task() === "chat" && answered.some(Boolean)) byId("text").value = "";
}

/** The cards of these models: those that are there go on, so that a conversation does. */
function cardsFor(models) {
  const place = byId("answers");
  const there = [...place.children];
  const same = there.length === models.length && there.every((card, at) => card.dataset.model === models[at]);
  if (!same || task() !== "chat") place.replaceChildren(...models.map(newCard));
  return [...place.children];
}

function newCard(model, index) {
  const body = element("div", { class: "body", "aria-live": "polite" });
  const card = element("article", { class: "card", "data-model": model, "aria-label": `Answer of ${model}` },
    element("header", {}, element("h2", {}, model), element("p", { class: "facts", role: "status" })), body);
  card.dataset.side = index;
  card.messages = [];
  return card;
}

/** Whether it came to its end. */
async function answer(card, input, signal) {
  const body = card.querySelector(".body");
  const facts = card.querySelector(".facts");
  facts.textContent = "waiting";
  body.setAttribute("aria-busy", "true"); // read out when it is whole
  try {
    const show = { chat, completion, classes, entities }[task()];
    await show(card, input, signal);
    return true;
  } catch (error) {
    facts.textContent = signal.aborted ? `${facts.textContent}, stopped` : "";
    if (!signal.aborted) body.append(element("p", { class: "failure" }, error.message));
    return false;
  } finally {
    body.removeAttribute("aria-busy");
  }
}

async function chat(card, input, signal) {
  const body = card.querySelector(".body");
  card.messages.push({ role: "user", content: input });
  body.append(turn("user", input));
  const said = turn("assistant", "");
  body.append(said);
  const request = { model: card.dataset.model, messages: card.messages, ...generation() };
  try {
    await stream("/v1/chat/completions", request, card, said, (choice) => choice.delta?.content, signal);
  } finally {
    const content = said.lastChild.textContent;
    if (content) card.messages.push({ role: "assistant", content });
    else card.messages.pop();
  }
}

async function completion(card, input, signal) {
  const text = element("p", { class: "text" }, element("span", { class: "given" }, input), element("span"));
  card.querySelector(".body").append(text);
  const request = { model: card.dataset.model, prompt: input, ...generation() };
  await stream("/v1/completions", request, card, text, (choice) => choice.text, signal);
}

function generation() {
  return {
    max_tokens: Number(byId("max-tokens").value),
    temperature: Number(byId("temperature").value),
    stream: true,
    stream_options: { include_usage: true },
  };
}

/** Put the text of an answer into the last child of `place` as it comes, and say how fast it was. */
async function stream(path, request, card, place, textOf, signal) {
  const facts = card.querySelector(".facts");
  const begun = performance.now();
  let first = null;
  let pieces = 0;
  let usage = null;
  let id = null;
  for await (const event of events(path, request, signal)) {
    id = event.id;
    usage = event.usage ?? usage;
    const text = event.choices?.[0] && textOf(event.choices[0]);
    if (!text) continue;
    first ??= performance.now();
    pieces += 1;
    place.lastChild.append(text);
    facts.textContent = speed(pieces, begun, first);
  }
  facts.textContent = first === null ? "no text" : speed(usage?.completion_tokens ?? pieces, begun, first);
  place.after(...rating(id));
}

function speed(tokens, begun, first) {
  const taken = (performance.now() - first) / 1000;
  const fast = taken > 0.05 ? `, ${rate((tokens - 1) / taken)} tokens/s` : "";
  return `${tokens} tokens, first after ${seconds((first - begun) / 1000)}${fast}`;
}

function turn(role, content) {
  return element("div", { class: `turn ${role}` },
    element("p", { class: "role" }, role === "user" ? "You" : "Model"), element("p", { class: "text" }, content));
}

async function classes(card, input, signal) {
  const { answer: found, id } = await ask(card, input, signal);
  const scores = [...(Array.isArray(found[0]) ? found[0] : found)].sort((a, b) => b.score - a.score);
  card.querySelector(".facts").textContent = `${scores.length} classes`;
  const list = scores.map(({ label, score }, at) =>
    element("tr", {}, element("th", { scope: "row" }, label),
      element("td", { class: "bar-cell" }, bar(score, at === 0)),
      element("td", {}, score.toFixed(3))));
  const table = element("table", { class: "scores" }, element("caption", { class: "hidden" }, "Scores of the classes"), element("tbody", {}, ...list));
  card.querySelector(".body").append(element("p", { class: "text given" }, input), table, ...rating(id));
}

function bar(share, best) {
  const drawn = element("span", { class: best ? "bar-of best" : "bar-of" });
  drawn.style.width = `${100 * share}%`;
  return drawn;
}

async function entities(card, input, signal) {
  const { answer: found, id } = await ask(card, input, signal);
  const spans = [...found].sort((a, b) => a.start - b.start);
  const signs = Array.from(input); // the server counts characters, JavaScript's strings halves of some
  const part = (start, end) => signs.slice(start, end).join("");
  card.querySelector(".facts").textContent = `${spans.length} ${spans.length === 1 ? "entity" : "entities"}`;
  const text = element("p", { class: "text entities" });
  let at = 0;
  for (const span of spans) {
    if (span.start < at) continue;
    const label = span.entity_group ?? span.entity;
    text.append(part(at, span.start),
      element("mark", { class: hue(colourOf(label)), title: `${label}, ${span.score.toFixed(3)}` },
        part(span.start, span.end), element("span", { class: "label" }, label)));
    at = span.end;
  }
  text.append(part(at));
  card.querySelector(".body").append(text, ...rating(id));
}

function ask(card, input, signal) {
  return postJSON(modelPath(card.dataset.model), { inputs: input }, signal);
}

const colours = new Map(); // of entity types, in the order in which they came

function colourOf(label) {
  if (!colours.has(label)) colours.set(label, colours.size % HUES);
  return colours.get(label);
}

/** Whether an answer was good, for the server's feedback: nothing for one without an id. */
function rating(id) {
  if (!id) return [];
  const said = element("span", { class: "facts", role: "status" });
  const buttons = ["up", "down"].map((value) => {
    const button = element("button", { type: "button", class: "quiet", "aria-pressed": "false" }, value === "up" ? "Good" : "Bad");
    button.addEventListener("click", async () => {
      try {
        await postJSON("/v1/feedback", { request_id: id, rating: value });
        for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
        said.textContent = "noted";
      } catch (error) {
        said.textContent = error.message;
      }
    });
    return button;
  });
  return [element("p", { class: "rating" }, ...buttons, said)];
}
