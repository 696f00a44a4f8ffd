// Charts as SVG, drawn by hand: columns stacked over time, and ranges on a logarithmic axis.

import { element, svg } from "./dom.js";
import { count, seconds as duration } from "./numbers.js";

export const HUES = 6; // colours of the style sheet; what comes after them shares the last, grey

const LETTER = 6.7; // pixels of one letter of a name

export const hue = (colour) => `hue-${colour}`;

/** Stacked columns, one a second, the latest at the right. `series`: [{ name, values, colour }], the first lowest. */
export function columns(place, series, seconds) {
  const width = Math.max(place.clientWidth, 240);
  const height = 236;
  const box = { left: 44, right: width - 8, top: 22, bottom: height - 24 };
  const totals = Array.from({ length: seconds }, (_, at) => series.reduce((sum, one) => sum + one.values[at], 0));
  const ticks = niceTicks(Math.max(...totals, 1), 4);
  const top = ticks.at(-1);
  const x = (at) => box.left + ((box.right - box.left) * at) / seconds;
  const y = (value) => box.bottom - ((box.bottom - box.top) * value) / top;
  const drawn = canvas(width, height, describe(series, totals));
  drawn.append(text(box.left, 11, "tokens/s", "start"));
  for (const tick of ticks) {
    drawn.append(line(box.left, y(tick), box.right, y(tick), tick ? "grid" : "axis"));
    drawn.append(text(box.left - 8, y(tick) + 4, count(tick), "end"));
  }
  for (let at = 0; at <= seconds; at += 15) {
    drawn.append(line(x(at), box.bottom, x(at), box.bottom + 4, "axis"));
    const label = at === seconds ? "now" : `−${seconds - at} s`;
    drawn.append(text(x(at), height - 6, label, at === 0 ? "start" : at === seconds ? "end" : "middle"));
  }
  const base = Array(seconds).fill(0);
  const thick = Math.max((box.right - box.left) / seconds - 1, 1);
  series.forEach(({ values, colour }) => {
    const path = [];
    values.forEach((value, at) => {
      if (!value) return;
      const from = y(base[at]);
      base[at] += value;
      const to = y(base[at]);
      path.push(`M${x(at).toFixed(1)} ${from.toFixed(1)}V${to.toFixed(1)}h${thick.toFixed(1)}V${from.toFixed(1)}z`);
    });
    drawn.append(svg("path", { d: path.join(""), class: `fill ${hue(colour)}` }));
  });
  if (!Math.max(...totals)) drawn.append(text((box.left + box.right) / 2, height / 2, "nothing in the last minute", "middle"));
  place.replaceChildren(drawn);
}

/** A bar from the median to the 95th percentile for each of `series`: [{ name, range: { p50, p95 }, colour }], in seconds. */
export function ranges(place, series) {
  const shown = series.filter((one) => one.range);
  if (!shown.length) {
    place.replaceChildren(element("p", { class: "empty" }, "nothing in the last minute"));
    return;
  }
  const width = Math.max(place.clientWidth, 240);
  const row = 24;
  const height = shown.length * row + 30;
  const bottom = height - 24;
  const low = 10 ** Math.floor(Math.log10(Math.min(...shown.map((one) => one.range.p50)) * 0.8));
  const high = 10 ** Math.ceil(Math.log10(Math.max(...shown.map((one) => one.range.p95)) * 1.1));
  const longest = Math.max(...shown.map((one) => one.name.length));
  const left = Math.min(longest * LETTER + 14, width * 0.45);
  const right = width - 14;
  const x = (value) => left + ((right - left) * Math.log(value / low)) / Math.log(high / low);
  const words = shown.map(({ name, range }) => `${name} ${duration(range.p50)} to ${duration(range.p95)}`);
  const drawn = canvas(width, height, words.join("; "));
  for (let tick = low; tick <= high * 1.001; tick *= 10) {
    drawn.append(line(x(tick), 4, x(tick), bottom, "grid"));
    const anchor = tick >= high * 0.999 ? "end" : "middle";
    drawn.append(text(anchor === "end" ? right + 12 : x(tick), height - 6, tickLabel(tick), anchor));
  }
  drawn.append(line(left, bottom, right, bottom, "axis"));
  shown.forEach(({ name, range, colour }, at) => {
    const y = 4 + row * at + row / 2;
    const fits = Math.floor((left - 12) / LETTER);
    const label = text(left - 12, y + 4, name.length > fits ? `${name.slice(0, fits - 1)}…` : name, "end name");
    label.append(svg("title", {}, name));
    drawn.append(label);
    drawn.append(svg("line", { x1: x(range.p50), x2: x(range.p95), y1: y, y2: y, class: `range ${hue(colour)}` }));
    drawn.append(line(x(range.p95), y - 5, x(range.p95), y + 5, `end ${hue(colour)}`));
    drawn.append(svg("circle", { cx: x(range.p50), cy: y, r: 4.5, class: `fill ${hue(colour)}` }));
  });
  place.replaceChildren(drawn);
}

function canvas(width, height, label) {
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
}

function line(x1, y1, x2, y2, kind) {
  return svg("line", { x1, y1, x2, y2, class: kind });
}

function text(x, y, words, kind) {
  return svg("text", { x, y, class: kind }, words);
}

function tickLabel(value) {
  if (value < 0.0009) return `${Math.round(value * 1e6)} µs`;
  return value < 0.9 ? `${Math.round(value * 1000)} ms` : `${Math.round(value)} s`;
}

function describe(series, totals) {
  const parts = series.map(({ name, values }) => `${name} ${count(values.at(-1))}`);
  return `Tokens in the last second: ${count(totals.at(-1))}${parts.length ? `, of them ${parts.join(", ")}` : ""}`;
}

function niceTicks(most, wanted) {
  const rough = most / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(1, [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough));
  const ticks = [];
  for (let tick = 0; tick < most + step; tick += step) ticks.push(tick);
  return ticks;
}
