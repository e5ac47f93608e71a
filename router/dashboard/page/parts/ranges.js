// The buttons for how far back the charts go, and for saving what they show.

import { NAMES, SPANS_S } from "../model/history.js";
import { addExport } from "./export.js";
import { attribute, make, text } from "./element.js";
import { remember } from "./route.js";

const WORDS = { "5m": "5 min", "1h": "1 h", "24h": "24 h" };

export class Ranges {
  constructor(place, history, redraw) {
    this.history = history;
    this.buttons = Object.keys(SPANS_S).map((range) => {
      const button = make("button", "chip", WORDS[range]);
      button.type = "button";
      button.dataset.range = range;
      button.title = `The last ${NAMES[range]}`;
      button.addEventListener("click", () => {
        remember({ range: range === "5m" ? null : range });
        history.choose(range);
        redraw();
      });
      return button;
    });
    const group = make("div", "choice", ...this.buttons);
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", "How far back the charts go");
    this.trouble = make("small", "trouble");
    place.append(group, this.trouble);
    addExport(place, "history", () => rows(history.kept));
  }

  open({ range }) {
    this.history.choose(range);
  }

  update() {
    for (const button of this.buttons) attribute(button, "aria-pressed", String(button.dataset.range === this.history.range));
    text(this.trouble, this.history.poll.trouble && `No history: ${this.history.poll.trouble}`);
  }
}

// What the router keeps of the range, a row for each step.
function rows(kept) {
  if (!kept) return [];
  const { begins, step_s: step, series, tenants } = kept;
  return series.throughput.map((_, place) => ({
    at: new Date((begins + place * step) * 1000).toISOString(),
    ...Object.fromEntries(Object.entries(series).map(([name, values]) => [name, values[place]])),
    ...Object.fromEntries(Object.entries(tenants ?? {}).map(([name, values]) => [`worker_seconds ${name}`, values[place]])),
  }));
}
