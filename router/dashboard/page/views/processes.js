// The router processes of all hosts, and the sidecar that leads. A process without Redis cannot be heard of, so the page keeps
// those that it has seen.

import { ask } from "../model/ask.js";
import { Poll } from "../model/poll.js";
import { attribute, make, text } from "../parts/element.js";
import { ago, count, plural } from "../parts/format.js";
import { remember } from "../parts/route.js";
import { Table, words } from "../parts/table.js";

const EVERY_MS = 2000;
const KEPT_S = 900;
const STATES = { lives: ["healthy", "Lives"], silent: ["unhealthy", "Not heard of"] };

// A process is named `host-pid-random`.
export function split(name) {
  const [, host, pid] = /^(.*)-(\d+)-[0-9a-f]+$/.exec(name) ?? [null, name, ""];
  return { host, pid };
}

export class ProcessesView {
  #seen = new Map(); // by name: the process as it was last heard of, and when
  #told = null;

  constructor(root, { redraw }) {
    this.root = root;
    this.table = new Table(root.querySelector(".table"), {
      name: "processes",
      caption: "The router processes of all hosts",
      key: ({ name }) => name,
      record: ({ name, host, pid, state, running, waiting, seen }) => ({ name, host, pid, state, running, waiting, seen_at: new Date(seen * 1000).toISOString() }),
      sort: "host",
      changed: remember,
      columns: [
        { id: "host", name: "Host", by: ({ host }) => host, make: (cell) => this.#host(cell) },
        { id: "state", name: "State", by: ({ state }) => (state === "lives" ? 1 : 0), make: (cell) => this.#state(cell) },
        { id: "running", name: "Running", isNumber: true, by: ({ running }) => running, make: words(({ running }) => count(running)) },
        { id: "waiting", name: "Waiting", isNumber: true, by: ({ waiting }) => waiting, make: words(({ waiting }) => count(waiting)) },
      ],
    });
    this.table.addExport(root.querySelector(".controls"));
    this.poll = new Poll(EVERY_MS, () => this.#load(), redraw);
  }

  open(values) {
    this.table.arrange(values);
    this.poll.want(true);
  }

  close() {
    this.poll.want(false);
  }

  async #load() {
    const told = await ask("dashboard/processes");
    this.#told = told;
    for (const process of told.processes ?? []) this.#seen.set(process.name, { ...process, ...split(process.name), seen: told.at });
    for (const [name, { seen }] of this.#seen) if (seen < told.at - KEPT_S) this.#seen.delete(name);
  }

  update(fleet) {
    const at = this.#told?.at ?? 0;
    const all = [...this.#seen.values()].map((process) => ({ ...process, state: process.seen === at ? "lives" : "silent" }));
    this.table.show(all, all, this.poll.trouble || this.#none());
    const hosts = new Set(all.filter(({ state }) => state === "lives").map(({ host }) => host));
    text(this.root.querySelector(".sum"), this.#told?.processes ? `${plural(this.#told.processes.length, "process", "processes")} on ${plural(hosts.size, "host")}` : "");
    this.#parts(fleet.status);
  }

  // Why no process is shown; without Redis none can be heard of.
  #none() {
    if (!this.#told) return "";
    return this.#told.processes ? "Redis has heard of no router process." : "Not known while Redis is away.";
  }

  // What this router, Redis and the sidecar are in.
  #parts(status) {
    const told = this.#told;
    const degraded = told?.degraded_here ?? 0;
    this.#part("here", degraded ? "bad" : "good", told ? `${plural(told.processes_here, "process", "processes")}, ${degraded ? `${count(degraded)} without Redis` : "none without Redis"}` : "");
    this.#part("redis-part", status?.redis ? "good" : "bad", status ? (status.redis ? "answers" : "is away: each process gives leases by itself") : "");
    const leads = status?.leader ? `leads${told?.leader ? `: ${told.leader.replace(/^\d+ /, "")}` : ""}; it wrote ${ago(status.sidecar_s)} ago` : "none leads";
    this.#part("sidecar-part", status?.leader && !status.is_sidecar_old ? "good" : "bad", status ? leads : "");
  }

  #part(name, state, words) {
    const place = this.root.querySelector(`.${name}`);
    attribute(place, "data-is", state);
    text(place.querySelector("dd"), words);
  }

  #host(cell) {
    const host = make("span", "name");
    const pid = make("small");
    cell.append(host, pid);
    return (process) => {
      text(host, process.host);
      text(pid, process.pid ? `process ${process.pid}` : "");
      attribute(host, "title", process.name);
    };
  }

  #state(cell) {
    const dot = make("i");
    dot.setAttribute("aria-hidden", "true");
    const word = make("span");
    const mark = make("span", "health", dot, word);
    const why = make("small", "reason");
    cell.append(mark, why);
    return ({ state, seen }) => {
      const [tone, words] = STATES[state];
      attribute(mark, "data-is", tone);
      text(word, words);
      text(why, state === "lives" ? "" : `for ${ago(this.#told.at - seen)}: it has ended, or cannot reach Redis`);
    };
  }
}
