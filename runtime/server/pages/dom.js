// Elements from plain values: text is always text, never markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** A table's body, row by row; the first cell of each is its header. */
export function rows(table, cells, empty) {
  const body = table.tBodies[0];
  if (!cells.length) {
    const width = table.tHead.rows[0].cells.length;
    body.replaceChildren(element("tr", {}, element("td", { colspan: width, class: "empty" }, empty)));
    return;
  }
  body.replaceChildren(
    ...cells.map(([head, ...others]) =>
      element("tr", {}, element("th", { scope: "row" }, ...[head].flat()),
        ...others.map((cell) => element("td", {}, ...[cell].flat())))),
  );
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}
