// What has happened, and which jobs have failed: as Redis keeps it, the newest first.

import { ask } from "./ask.js";
import { Poll } from "./poll.js";

const EVERY_MS = 3000;
const MOST_EVENTS = 1000, MOST_FAILURES = 500, FEW_FAILURES = 25;

export class Events {
  list = [];
  #next = null;

  constructor(changed) {
    this.poll = new Poll(EVERY_MS, () => this.#load(), changed);
  }

  // The last ones at first, then those that have come since.
  async #load() {
    const { events, next } = await ask("admin/events", { since: this.#next, limit: MOST_EVENTS });
    if (events.length) this.list = [...events.toReversed(), ...this.list].slice(0, MOST_EVENTS);
    this.#next = next;
  }

  get kinds() {
    return [...new Set(this.list.map(({ kind }) => kind))].sort();
  }
}

export class Failures {
  list = [];

  constructor(changed) {
    this.poll = new Poll(EVERY_MS, () => this.#load(), changed);
  }

  // Reads only the newest if they join what is known; all after a time in which more have come.
  async #load() {
    const newest = await this.#read(this.list.length ? FEW_FAILURES : MOST_FAILURES);
    const known = this.list.length ? identity(this.list[0]) : null;
    const place = newest.findIndex((failure) => identity(failure) === known);
    if (place === 0) return;
    if (place > 0) this.list = [...newest.slice(0, place), ...this.list].slice(0, MOST_FAILURES);
    else this.list = newest.length < FEW_FAILURES || !known ? newest : await this.#read(MOST_FAILURES);
  }

  async #read(limit) {
    return (await ask("admin/failures", { limit })).failures;
  }
}

export const identity = ({ at, request_id, path }) => `${at} ${request_id} ${path}`;
