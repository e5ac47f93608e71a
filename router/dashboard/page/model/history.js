// The fleet's numbers of the last 5 minutes, 1 hour or 24 hours: what Redis keeps, and for 5 minutes the stream's own, which
// has a point for each second.

import { ask } from "./ask.js";
import { Poll } from "./poll.js";

export const SPANS_S = { "5m": 300, "1h": 3600, "24h": 86_400 };
export const NAMES = { "5m": "five minutes", "1h": "hour", "24h": "24 hours" };
// The stream's entries have these numbers, in this order after the moment.
const LIVE = ["throughput", "running", "waiting", "p50_ms", "p99_ms", "errors", "retries", "slots"];
const KEPT = ["throughput", "running", "waiting", "p50_ms", "p99_ms", "queue_p50_ms", "queue_p99_ms", "errors", "retries"];
const RATES = ["throughput", "p50_ms", "p99_ms", "errors", "retries"];
const LIVE_GAP_S = 3.5;
const EVERY_MS = 10_000;
const UNKNOWN = { at: [], step_s: 10, ...Object.fromEntries(KEPT.map((name) => [name, []])) };

export class History {
  range = "5m";
  kept = null; // the router's last answer
  #askedFor = null;
  #columns = UNKNOWN; // of what is kept

  constructor(changed) {
    this.poll = new Poll(EVERY_MS, () => this.#load(), changed);
  }

  // Shows another range. The old one stays until the new one is here.
  choose(range) {
    this.range = Object.hasOwn(SPANS_S, range ?? "") ? range : "5m";
    if (this.range === this.#askedFor) return;
    this.#askedFor = this.range;
    this.poll.now();
  }

  async #load() {
    const range = this.range;
    const told = await ask("admin/history", { range });
    if (range !== this.range) return;
    this.kept = { ...told, range };
    this.#columns = this.#keptColumns();
    this.poll.everyMs = Math.max(EVERY_MS, told.step_s * 1000);
  }

  get spanS() {
    return SPANS_S[this.range];
  }

  // Returns for each number a list, and as `at` the moments; `live` is the stream's history.
  columns(live) {
    const kept = this.#fits ? this.#columns : UNKNOWN;
    return this.range === "5m" ? joined(kept, live) : kept;
  }

  // Returns each tenant's worker-seconds a second, and the moments.
  get tenants() {
    const { at, step_s: step } = this.#moments();
    const each = Object.entries(this.#fits?.tenants ?? {});
    return { at, used: new Map(each.map(([name, spent]) => [name, spent.map((value) => (value == null ? null : value / step))])) };
  }

  get #fits() {
    return this.kept?.range === this.range ? this.kept : null;
  }

  #moments() {
    const kept = this.#fits;
    if (!kept) return { at: [], step_s: 10 };
    return { at: kept.series.throughput.map((_, place) => kept.begins + (place + 1) * kept.step_s), step_s: kept.step_s };
  }

  #keptColumns() {
    const { series } = this.kept;
    const { at, step_s } = this.#moments();
    return { at, step_s, ...Object.fromEntries(KEPT.map((name) => [name, series[name] ?? at.map(() => null)])) };
  }
}

// The stream has a point for each second that somebody has watched; what is kept fills the rest. Numbers that the stream does
// not have go on beside it: uPlot joins what `undefined` stands between, and breaks the line at null.
function joined(kept, live) {
  const rows = live.map(([at, ...values]) => ({ at, ...Object.fromEntries(LIVE.map((name, place) => [name, values[place]])) }));
  // A new watcher's first rates come after some seconds; that is no gap.
  for (const row of rows) if (row.throughput === null && row.running !== null) for (const name of RATES) row[name] = undefined;
  kept.at.forEach((at, place) => {
    const of = Object.fromEntries(KEPT.map((name) => [name, kept[name][place]]));
    const isWatched = live.some(([moment]) => Math.abs(moment - at) < LIVE_GAP_S);
    rows.push({ at, ...of, ...(isWatched ? Object.fromEntries(LIVE.map((name) => [name, undefined])) : {}) });
  });
  rows.sort((one, other) => one.at - other.at);
  const gapS = kept.at.length ? 2.5 * kept.step_s : LIVE_GAP_S;
  const broken = rows.flatMap((row, place) => (place && row.at - rows[place - 1].at > gapS ? [gap(row.at), row] : [row]));
  return Object.fromEntries(["at", ...new Set([...LIVE, ...KEPT])].map((name) => [name, broken.map((row) => row[name])]));
}

const gap = (at) => ({ at: at - 1, ...Object.fromEntries([...LIVE, ...KEPT].map((name) => [name, null])) });
