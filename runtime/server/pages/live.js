// What runs: asked for once a second while the page is looked at.

import { getJSON } from "./api.js";
import { HUES, columns, hue, ranges } from "./charts.js";
import { byId, element, rows } from "./dom.js";
import { bytes, count, percent, rate, seconds } from "./numbers.js";

const PERIOD = 1000; // milliseconds
const SHOWN = HUES; // groups with a colour of their own
const LATENCIES = 8; // of the busiest, drawn
const NOW = 3; // seconds that "now" is the mean of
const WHERE = { slot: "attached", host: "in memory", disk: "on disk" };

let latest = null;
const places = new Map(); // names of groups, and the colours that they keep while they are there

/** Poll for ever; `tell(error)` after each answer, with null for a good one. */
export async function watch(tell) {
  new ResizeObserver(() => latest && draw(latest)).observe(byId("throughput"));
  for (const radio of document.querySelectorAll("input[name=group]")) radio.addEventListener("change", () => latest && draw(latest));
  for (;;) {
    if (!document.hidden) await poll(tell);
    await new Promise((done) => setTimeout(done, PERIOD));
  }
}

export async function poll(tell) {
  try {
    latest = await getJSON("/api/live");
    draw(latest);
    tell(null, latest);
  } catch (error) {
    tell(error, null);
  }
}

function draw(live) {
  byId("base-name").textContent = live.base.name;
  figures(live);
  const by = document.querySelector("input[name=group]:checked").value;
  throughput(grouped(live.traffic, by), by);
  latency(live.traffic, by);
  adapters(live);
}

function figures({ base, load, adapters }) {
  const inSlots = adapters.filter((adapter) => adapter.where === "slot").length;
  const shown = [
    ["Weights", base.quantize ?? base.dtype, base.quantize ? `computes in ${base.dtype}` : base.device],
    ["Context", base.context ? count(base.context) : "–", base.context ? "tokens" : "does not generate"],
  ];
  if (load) {
    const used = load.pages - load.free_pages;
    shown.push(
      ["Running", count(load.running), `of ${count(load.rows)} rows`],
      ["Waiting", count(load.waiting), load.waiting === 1 ? "request" : "requests"],
      ["KV pages", percent(used / load.pages), `${count(used)} of ${count(load.pages)}`],
      ["Attached", count(inSlots), `of ${count(adapters.length)} adapters`],
      ["Swaps", count(load.swaps), `${count(load.loads)} loads`],
    );
  } else {
    shown.push(["Attached", count(inSlots), `of ${count(adapters.length)} adapters`]);
  }
  byId("figures").replaceChildren(
    ...shown.map(([name, value, note]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, element("b", {}, value), element("span", {}, note)))),
  );
}

/** [{ name, values }] by adapter or tenant, most tokens first; those without a colour of their own together. */
function grouped(traffic, by) {
  const sums = new Map();
  for (const { tokens, ...labels } of traffic) {
    const name = groupOf(labels, by);
    const values = sums.get(name) ?? tokens.map(() => 0);
    sums.set(name, values.map((value, at) => value + tokens[at]));
  }
  const all = [...sums].map(([name, values]) => ({ name, values }));
  const rest = all.slice(SHOWN);
  const shown = coloured(all.slice(0, SHOWN)).sort((a, b) => a.colour - b.colour);
  if (!rest.length) return shown;
  const values = rest[0].values.map((_, at) => rest.reduce((sum, one) => sum + one.values[at], 0));
  return [...shown, { name: rest.length === 1 ? rest[0].name : `${rest.length} others`, values, colour: HUES }];
}

function groupOf(labels, by) {
  return labels[by] || "local"; // a server without tenants has one that has no name
}

/** The same with the colour that each name had before, or the first that is free. */
function coloured(series) {
  const names = new Set(series.map((one) => one.name));
  for (const name of places.keys()) if (!names.has(name)) places.delete(name);
  for (const name of names) {
    const taken = new Set(places.values());
    if (!places.has(name)) places.set(name, [...Array(HUES).keys()].find((colour) => !taken.has(colour)) ?? HUES);
  }
  return series.map((one) => ({ ...one, colour: places.get(one.name) }));
}

function throughput(series, by) {
  const length = series[0]?.values.length ?? 60;
  columns(byId("throughput"), series, length);
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const lines = series.map(({ name, values, colour }) => [
    [swatch(colour), name], rate(sum(values.slice(-NOW)) / NOW), rate(sum(values) / length),
  ]);
  byId("throughput-table").tHead.rows[0].cells[0].textContent = by === "tenant" ? "Tenant" : "Adapter";
  rows(byId("throughput-table"), lines, "nothing in the last minute");
}

function latency(traffic, by) {
  const many = new Set(traffic.map((one) => one.tenant)).size > 1;
  const named = traffic.slice(0, LATENCIES).map((one) => ({
    ...one,
    name: many ? `${one.adapter} · ${one.tenant}` : one.adapter,
    colour: places.get(groupOf(one, by)) ?? HUES,
  }));
  ranges(byId("first-token"), named.map((one) => ({ ...one, range: one.first_token })));
  ranges(byId("between-tokens"), named.map((one) => ({ ...one, range: one.between_tokens })));
  const lines = traffic.map((one) => [
    one.adapter, one.tenant || "local", count(one.requests), count(one.errors),
    seconds(one.first_token?.p50), seconds(one.first_token?.p95),
    seconds(one.between_tokens?.p50), seconds(one.between_tokens?.p95),
  ]);
  rows(byId("traffic-table"), lines, "no requests in the last minute");
}

function adapters({ adapters: all, load }) {
  const order = { slot: 0, host: 1, disk: 2 };
  const sorted = [...all].sort((a, b) => order[a.where] - order[b.where] || a.name.localeCompare(b.name));
  const lines = sorted.map((adapter) => [
    adapter.name,
    [element("span", { class: `where ${adapter.where}` }), WHERE[adapter.where] + (adapter.pinned ? ", pinned" : "")],
    bytes(adapter.bytes), load ? count(adapter.running) : "–", load ? count(adapter.uses) : "–",
    element("code", {}, adapter.digest.replace("sha256:", "").slice(0, 12)),
  ]);
  rows(byId("adapters-table"), lines, "none has been asked for yet");
}

function swatch(index) {
  return element("span", { class: `swatch ${hue(index)}` });
}
