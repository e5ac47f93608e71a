// The table of tenants: those with the largest shares first. It is hidden while there is only one tenant.

import { NONE, count, rate, share } from "./format.js";
import { text } from "./text.js";

export class Tenants {
  #rows = new Map(); // by name: the elements of each row

  constructor(section) {
    this.section = section;
    this.body = section.querySelector("tbody");
    this.rest = section.querySelector(".rest");
    this.template = document.getElementById("tenant").content.firstElementChild;
  }

  update({ tenants: { rows, hidden } }) {
    this.section.hidden = rows.length === 0;
    const names = new Set(rows.map(([name]) => name));
    for (const [name, { row }] of this.#rows) {
      if (names.has(name)) continue;
      row.remove();
      this.#rows.delete(name);
    }
    rows.forEach((values, place) => {
      const [name] = values;
      if (!this.#rows.has(name)) this.#rows.set(name, this.#made(name));
      const parts = this.#rows.get(name);
      if (this.body.children[place] !== parts.row) this.body.insertBefore(parts.row, this.body.children[place] ?? null);
      fill(parts, values);
    });
    text(this.rest, hidden ? `${count(hidden)} more with smaller shares are not shown.` : "");
  }

  #made(name) {
    const row = this.template.cloneNode(true);
    row.dataset.tenant = name;
    const part = (selector) => row.querySelector(selector);
    part(".name").textContent = name;
    part(".name").title = name;
    return {
      row,
      bar: part(".share i i"), share: part(".share > span"), running: part(".running"), waiting: part(".waiting"),
      rate: part(".rate"), failures: part(".failures > span"), failed: part(".failures small"), weight: part(".weight"),
    };
  }
}

function fill(parts, [, weight, running, waiting, jobsPerSecond, jobs, failures, part]) {
  if (parts.shown !== part) {
    parts.shown = part;
    parts.bar.style.transform = `scaleX(${part ?? 0})`;
  }
  text(parts.share, part === null ? NONE : share(part, 1) || "0 %");
  text(parts.running, count(running));
  text(parts.waiting, count(waiting));
  text(parts.rate, rate(jobsPerSecond));
  text(parts.failures, count(failures));
  text(parts.failed, share(failures, jobs));
  text(parts.weight, weight);
}
