// A worker's own page: its state, its last five minutes, what runs on it now, its events and its failed jobs.

import { ask } from "../model/ask.js";
import { latest } from "../model/fleet.js";
import { about } from "../model/log.js";
import { Poll } from "../model/poll.js";
import { Charts } from "../parts/charts.js";
import { link, make, text } from "../parts/element.js";
import { NONE, ago, clock, count, milliseconds, plural, rate, share } from "../parts/format.js";
import { address, remember } from "../parts/route.js";
import { Table, words } from "../parts/table.js";
import { EventTable } from "./events.js";
import { FailureTable } from "./failures.js";
import { SOURCES, healthMark, reason, since, steers } from "./workers.js";

const EVERY_MS = 2000;
const SPAN_S = 300;
const SHOWN = 50;
const CARDS = [
  { id: "running", series: [{ name: "running", tone: "--line-1", fill: "--fill-1" }], show: count, floor: 4 },
  { id: "attempts", series: [{ name: "jobs", tone: "--line-1" }, { name: "failures", tone: "--line-bad" }], show: rate, floor: 1 },
  { id: "latency", series: [{ name: "mean_ms", tone: "--line-1", fill: "--fill-1" }], show: milliseconds, floor: 10 },
];

export class WorkerView {
  #url = "";
  #worker = null;
  #detail = null;

  constructor(root, { events, failures, steering, redraw }) {
    Object.assign(this, { root, events, failures });
    const [mark, write] = healthMark();
    root.querySelector(".mark").append(mark);
    this.writeHealth = write;
    this.facts = root.querySelector(".facts");
    this.writeActions = steers(root.querySelector(".actions"), steering, () => this.#worker);
    this.charts = new Charts(root.querySelector(".cards"), "worker", CARDS, (name, value) => {
      if (name === "cap") return value == null ? "no cap" : `of ${count(value)}`;
      return null;
    });
    this.running = new Table(root.querySelector(".running-now"), {
      name: "running jobs",
      caption: "The jobs that run on this worker now",
      key: ({ key }) => key,
      record: ({ key, ...job }) => job,
      changed: () => {},
      columns: [
        { id: "tenant", name: "Tenant", by: ({ tenant }) => tenant, make: words(({ tenant }) => tenant) },
        { id: "process", name: "Sent by", by: ({ process }) => process, make: words(({ process }) => process) },
        { id: "memory", name: "Memory", isNumber: true, by: ({ memory_mb: memory }) => memory, make: words(({ memory_mb: memory }) => (memory ? `${count(memory)} MB` : NONE)) },
        { id: "ends", name: "Ends at the latest", isNumber: true, by: ({ ends_at: ends }) => ends, make: words(({ ends_at: ends }) => this.#until(ends)) },
      ],
    });
    this.running.addExport(root.querySelector(".runs .controls"));
    this.happened = new EventTable(root.querySelector(".events .table"));
    this.failed = new FailureTable(root.querySelector(".failures .table"));
    for (const [table, name] of [[this.happened, "events"], [this.failed, "failures"]]) table.table.spec.changed = () => {};
    this.poll = new Poll(EVERY_MS, () => this.#load(), redraw);
  }

  open({ url }) {
    if (url !== this.#url) this.#detail = null;
    this.#url = url ?? "";
    for (const { poll } of [this, this.events, this.failures]) poll.want(true);
    this.poll.now();
    text(this.root.querySelector("h2"), this.#url || "No worker is named");
    for (const [name, view] of [[".all-events", "events"], [".all-failures", "failures"]]) {
      this.root.querySelector(name).href = address(view, { worker: this.#url });
    }
  }

  close() {
    for (const { poll } of [this, this.events, this.failures]) poll.want(false);
  }

  update(fleet) {
    this.now = fleet.now;
    this.#worker = fleet.workers.find(({ url }) => url === this.#url) ?? null;
    const isThere = this.#worker !== null;
    this.root.classList.toggle("absent", !isThere);
    text(this.root.querySelector(".gone"), isThere || !fleet.status || !this.#url ? "" : "No worker of the fleet has this address. Its events and failed jobs are those that are still kept.");
    if (isThere) this.#state(this.#worker);
    this.#draw(fleet);
    const events = this.events.list.filter((event) => this.#url && about(event).includes(this.#url)).slice(0, SHOWN);
    this.happened.show(events, this.events.poll.trouble, "None of the last 1,000 events was about this worker.");
    const failures = this.failures.list.filter(({ attempts }) => (attempts ?? []).some(({ worker_url: url }) => url === this.#url));
    this.failed.show(failures.slice(0, SHOWN), this.failures.poll.trouble, "None of the jobs that failed last was on this worker.");
  }

  async #load() {
    const url = this.#url;
    if (!url) return;
    const told = await ask("dashboard/worker", { url });
    if (url === this.#url) this.#detail = told;
  }

  #until(ends) {
    const left = ends - (this.#detail?.at ?? 0);
    return left > 0 ? `in ${ago(left)}, at ${clock(ends)}` : "now";
  }

  #state(worker) {
    this.writeHealth(worker.health);
    text(this.root.querySelector(".since"), since(worker, this.now));
    text(this.root.querySelector(".reason"), reason(worker, this.now));
    this.writeActions(worker);
    const facts = {
      Source: SOURCES[worker.source] ?? worker.source,
      Runs: worker.abilities || "every job",
      Weight: worker.weight,
      Cap: worker.cap ? count(worker.cap) : "none",
      Speed: worker.speed,
      Attempts: count(worker.jobs),
      Failures: [count(worker.failures), share(worker.failures, worker.jobs)].filter(Boolean).join(" · "),
      Latency: milliseconds(latest(worker.trend)),
    };
    if (!this.facts.childElementCount) {
      this.facts.append(...Object.keys(facts).map((name) => make("div", "", make("dt", "", name), make("dd"))));
    }
    Object.values(facts).forEach((value, place) => text(this.facts.children[place].lastChild, value));
  }

  #draw(fleet) {
    if (this.#worker) this.charts.update(fleet.course(this.#worker), { running: this.#worker.running, cap: this.#worker.cap }, SPAN_S, fleet.now);
    const jobs = (this.#detail?.running ?? []).map((job, place) => ({ key: `${job.process} ${job.ends_at} ${place}`, ...job }));
    text(this.root.querySelector(".count"), this.#detail ? plural(jobs.length, "job") : "");
    this.running.show(jobs, jobs, this.poll.trouble || (this.#detail ? "Nothing runs on it." : ""));
  }
}
