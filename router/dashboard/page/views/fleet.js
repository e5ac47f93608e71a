// The overview: the fleet's charts, what has happened last, which jobs have failed last, and the workers.

import { ask } from "../model/ask.js";
import { Poll } from "../model/poll.js";
import { Charts } from "../parts/charts.js";
import { text } from "../parts/element.js";
import { count, milliseconds, plural, rate } from "../parts/format.js";
import { Ranges } from "../parts/ranges.js";
import { FailureTable } from "./failures.js";
import { EventTable } from "./events.js";
import { Workers } from "./workers.js";

const SHOWN = 5;
const NEEDS_EVERY_MS = 10_000;
const CARDS = [
  { id: "throughput", series: [{ name: "throughput", tone: "--line-1", fill: "--fill-1" }], show: rate, floor: 1 },
  { id: "use", series: [{ name: "running", tone: "--line-1" }, { name: "waiting", tone: "--line-2" }], show: count, floor: 4 },
  { id: "wait", series: [{ name: "queue_p50_ms", tone: "--line-1" }, { name: "queue_p99_ms", tone: "--line-2" }], show: milliseconds, floor: 10 },
  { id: "time", series: [{ name: "p50_ms", tone: "--line-1" }, { name: "p99_ms", tone: "--line-2" }], show: milliseconds, floor: 10 },
  { id: "trouble", series: [{ name: "errors", tone: "--line-bad" }, { name: "retries", tone: "--line-2" }], show: rate, floor: 1 },
];
const LIVE = ["throughput", "running", "waiting", "p50_ms", "p99_ms", "errors", "retries", "slots"];

export class FleetView {
  constructor(root, { history, events, failures, steering, say, redraw }) {
    Object.assign(this, { root, history, events, failures });
    const numbers = root.querySelector("#numbers");
    this.needs = new Poll(NEEDS_EVERY_MS, async () => (this.wanted = await ask("admin/scaling")), redraw);
    this.ranges = new Ranges(numbers.querySelector(".ranges"), history, redraw);
    this.charts = new Charts(numbers, "fleet", CARDS, (name, value, isPointed) => {
      if (name === "slots" && !isPointed) return value == null ? "no cap" : `of ${count(value)}`;
      return null;
    });
    this.happened = new EventTable(root.querySelector("#happened .table"), { isShort: true });
    this.failed = new FailureTable(root.querySelector("#failed .table"), { isShort: true });
    this.workers = new Workers(root.querySelector("#workers"), steering, say);
  }

  open(values) {
    this.ranges.open(values);
    this.workers.open(values);
    this.#want(true);
  }

  close() {
    this.#want(false);
  }

  #want(isWanted) {
    for (const { poll } of [this.history, this.events, this.failures, { poll: this.needs }]) poll.want(isWanted);
  }

  update(fleet) {
    const live = fleet.history.at(-1);
    const now = Object.fromEntries(LIVE.map((name, place) => [name, live?.[place + 1] ?? null]));
    this.charts.update(this.history.columns(fleet.history), now, this.history.spanS, fleet.now);
    this.ranges.update();
    text(this.root.querySelector(".needs"), this.needs.trouble ? "" : needs(this.wanted));
    this.happened.show(this.events.list.slice(0, SHOWN), this.events.poll.trouble);
    this.failed.show(this.failures.list.slice(0, SHOWN), this.failures.poll.trouble);
    this.workers.update(fleet);
  }
}

// How many slots the running and the pending jobs need; nothing to say while none waits.
function needs(wanted) {
  if (!wanted?.waiting) return "";
  const workers = wanted.wanted_workers === null ? "" : ` (${plural(wanted.wanted_workers, "worker")})`;
  return `To begin all pending jobs within ${wanted.target_wait_s} s, ${plural(Math.ceil(wanted.wanted_slots), "slot")}${workers} are needed`;
}
