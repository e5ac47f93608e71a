// What has happened, and which jobs have failed: as Redis keeps it, the newest first.

import { ask } from "./ask.js";
import { Poll } from "./poll.js";

const EVERY_MS = 3000;
const A_CALL = 500;
const MOST_EVENTS = 1000, MOST_FAILURES = 500;

export class Events {
  list = [];
  #next = null;

  constructor(changed) {
    this.poll = new Poll(EVERY_MS, () => this.#load(), changed);
  }

  async #load() {
    for (;;) {
      const { events, next } = await ask("admin/events", { since: this.#next ?? "24h", limit: A_CALL });
      if (events.length) this.list = [...events.toReversed(), ...this.list].slice(0, MOST_EVENTS);
      const isAll = events.length < A_CALL || next === this.#next;
      this.#next = next ?? this.#next;
      if (isAll) return;
    }
  }

  get kinds() {
    return [...new Set(this.list.map(({ kind }) => kind))].sort();
  }
}

export class Failures {
  list = [];
  poll;

  constructor(changed) {
    this.poll = new Poll(EVERY_MS, () => this.#load(), changed);
  }

  // Reads only the newest if they join what is known; all after a time in which more have come.
  async #load() {
    const few = 25;
    const newest = await this.#read(this.list.length ? few : MOST_FAILURES);
    const known = this.list.length ? identity(this.list[0]) : null;
    const place = newest.findIndex((failure) => identity(failure) === known);
    if (place === 0) return;
    if (place > 0) this.list = [...newest.slice(0, place), ...this.list].slice(0, MOST_FAILURES);
    else this.list = newest.length < few || !known ? newest : await this.#read(MOST_FAILURES);
  }

  async #read(limit) {
    return (await ask("admin/failures", { limit })).failures;
  }
}

export const identity = ({ at, request_id, path }) => `${at} ${request_id} ${path}`;
