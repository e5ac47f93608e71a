// What follows each change of a view's filter.

import { plural } from "./format.js";
import { remember } from "./route.js";

const SAY_AFTER_MS = 700; // whoever types hears the last number only

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
