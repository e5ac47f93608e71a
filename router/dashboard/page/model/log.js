// What has happened, and which jobs have failed: as Redis keeps it, the newest first.

import { ask } from "./ask.js";
import { Poll } from "./poll.js";

const EVERY_MS = 3000;
const MOST_EVENTS = 1000, MOST_FAILURES = 500, FEW_FAILURES = 25;
const ALL_EACH = 10; // of so many questions one is for all failures

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
  list = []; // each with a `key` of its own
  #questions = 0;

  constructor(changed) {
    this.poll = new Poll(EVERY_MS, () => this.#load(), changed);
  }

  // Reads all if the newest are others than those that are known. A router tells of a failure later than it happened, after
  // an outage of Redis by minutes: so it may stand anywhere, and now and then all are read.
  async #load() {
    const isFew = this.list.length > 0 && this.#questions++ % ALL_EACH !== ALL_EACH - 1;
    if (!isFew) this.list = await this.#read(MOST_FAILURES);
    else if (!isSame(await this.#read(FEW_FAILURES), this.list.slice(0, FEW_FAILURES))) this.list = await this.#read(MOST_FAILURES);
  }

  async #read(limit) {
    return keyed((await ask("admin/failures", { limit })).failures);
  }
}

// Jobs of one request can fail in the same moment, so those that look alike are numbered.
function keyed(failures) {
  const alike = new Map();
  return failures.map((failure) => {
    const name = `${failure.at} ${failure.request_id} ${failure.path}`;
    alike.set(name, (alike.get(name) ?? 0) + 1);
    return { key: `${name} ${alike.get(name)}`, ...failure };
  });
}

const isSame = (some, others) => some.length === others.length && some.every(({ key }, place) => key === others[place].key);

// What an event is about: its subject, and the workers that it names.
export const about = ({ subject, more }) => [subject, ...(Array.isArray(more?.workers) ? more.workers : [])];
