// Saves rows as a file, CSV or JSON. Both have all rows that match, on all pages.

import { make } from "./element.js";

const TYPES = { csv: "text/csv;charset=utf-8", json: "application/json" };

// Adds the two buttons to `place`. `rows` returns the rows, each as an object with the same fields.
export function addExport(place, name, rows) {
  const group = make("div", "export");
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", `Save the ${name} as a file`);
  for (const format of ["csv", "json"]) {
    const button = make("button", "quiet", format.toUpperCase());
    button.type = "button";
    button.title = `Save the ${name} as ${format.toUpperCase()}`;
    button.addEventListener("click", () => save(name, format, rows()));
    group.append(button);
  }
  place.append(group);
}

function save(name, format, rows) {
  const body = format === "csv" ? csv(rows) : `${JSON.stringify(rows, null, 2)}\n`;
  const moment = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
  const anchor = make("a");
  anchor.href = URL.createObjectURL(new Blob([body], { type: TYPES[format] }));
  anchor.download = `sandboxfusion-${name.replaceAll(" ", "-")}-${moment}.${format}`;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 10_000);
}

// RFC 4180. Lists and objects are written as JSON.
export function csv(rows) {
  if (!rows.length) return "";
  const names = Object.keys(rows[0]);
  const lines = [names, ...rows.map((row) => names.map((name) => row[name]))];
  return lines.map((line) => `${line.map(cell).join(",")}\r\n`).join("");
}

// Workers and clients choose some texts. A spreadsheet would run one that begins like a formula.
function cell(value) {
  const plain = value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
  const safe = typeof value === "string" && /^[=+\-@\t\r\n＝＋－＠]/.test(plain) ? `'${plain}` : plain;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
