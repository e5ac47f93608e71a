// What follows each change of a view's filter.

import { plural } from "./format.js";
import { remember } from "./route.js";

const SAY_AFTER_MS = 700; // whoever types hears the last number only

// Returns the function that says whether a text fits a filter's words. If they are the whole of one of `all` texts, parts of
// others do not fit: the failed jobs of run-1 are not those of run-10.
export function fitting(all, words) {
  const wanted = (words ?? "").toLowerCase();
  if (!wanted) return () => true;
  const isWhole = all.some((text) => (text ?? "").toLowerCase() === wanted);
  return (text) => (isWhole ? (text ?? "").toLowerCase() === wanted : (text ?? "").toLowerCase().includes(wanted));
}

export class Filtering {
  // `show` draws the table anew; `say` tells how many of its things, each a `noun`, match.
  constructor(table, noun, { show, say }) {
    Object.assign(this, { table, noun, show, say });
  }

  // The address keeps these values, and the first page shows what matches.
  changed(values) {
    remember({ ...values, page: null });
    this.table.turnTo(0);
    this.show();
    clearTimeout(this.telling);
    this.telling = setTimeout(() => this.say(plural(this.table.found.length, this.noun)), SAY_AFTER_MS);
  }
}
