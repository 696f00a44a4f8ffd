// Numbers as people read them, with units.

export function seconds(value) {
  if (value === undefined || value === null) return "–";
  if (value < 0.0995) return `${(value * 1000).toPrecision(2)} ms`;
  return value < 0.9995 ? `${Math.round(value * 1000)} ms` : `${value.toPrecision(3)} s`;
}

export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit ? value.toPrecision(3) : value} ${units[unit]}`;
}

export function count(value) {
  return Math.round(value).toLocaleString("en");
}

export function rate(value) {
  return value < 9.95 ? value.toFixed(1) : count(value);
}

export function percent(value) {
  return `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)} %`;
}
