// The table of workers, with its filters, below the fleet's charts.

import { address, remember } from "../parts/route.js";
import { attribute, link, make, text } from "../parts/element.js";
import { Filtering } from "../parts/filtering.js";
import { ago, clock, count, milliseconds, share, short } from "../parts/format.js";
import { HEALTHS, latest } from "../model/fleet.js";
import { path } from "../parts/spark.js";
import { Table, words } from "../parts/table.js";

export const SOURCES = { config: "config.yaml", file: "workers_file", dns: "DNS", registered: "registered" };
export const label = (health) => health[0].toUpperCase() + health.slice(1);

// Returns in words why a worker is in its condition; `now` is a Unix time.
export function reason(worker, now) {
  if (worker.health === "unhealthy") return worker.isDraining ? `${worker.reason}; draining` : worker.reason;
  if (worker.health === "ejected") {
    const left = worker.ejectedUntil - now;
    const until = left > 0 ? `until ${clock(worker.ejectedUntil)} (${ago(left)})` : "until its trial job ends";
    return `${until}: ${worker.reason}`;
  }
  if (worker.health === "draining") return worker.running === 0 ? "nothing runs any more" : "gets no new jobs";
  return worker.health === "unknown" ? "not checked yet" : "";
}

// `since` is when the health checks changed the health; it says nothing about a drain or an ejection.
export const since = ({ health, since: at }, now) => (at && (health === "healthy" || health === "unhealthy") ? ago(now - at) : "");

// Returns a part that shows a health, and the function that writes it.
export function healthMark() {
  const dot = make("i");
  dot.setAttribute("aria-hidden", "true");
  const word = make("span");
  const mark = make("span", "health", dot, word);
  return [mark, (health) => {
    attribute(mark, "data-is", health);
    text(word, label(health));
  }];
}

// Returns a bar that shows which part of its width is used.
export function bar() {
  const filled = make("i");
  const place = make("i", "used", filled);
  place.setAttribute("aria-hidden", "true");
  let shown = null;
  return [place, (part) => {
    if (part === shown) return;
    shown = part;
    place.hidden = part === null;
    filled.style.transform = `scaleX(${part ?? 0})`;
  }];
}

// The buttons that steer a worker. `found(button)` returns the worker.
export function steers(place, steering, found) {
  const drain = make("button", "quiet");
  const remove = make("button", "quiet danger", "Remove");
  for (const [button, act] of [[drain, "drain"], [remove, "remove"]]) {
    button.type = "button";
    button.dataset.act = act;
    button.addEventListener("click", () => {
      if (button.getAttribute("aria-disabled") === "true") return;
      const worker = found();
      steering.steer(act === "remove" ? "remove" : worker.isDraining ? "resume" : "drain", worker, button);
    });
  }
  place.append(drain, remove);
  return (worker) => {
    const act = worker.isDraining ? "Resume" : "Drain";
    text(drain, act);
    attribute(drain, "aria-label", `${act} ${worker.url}`);
    attribute(remove, "aria-label", `Remove ${worker.url}`);
    remove.hidden = worker.source !== "registered";
  };
}

export const record = (worker) => ({
  url: worker.url,
  health: worker.health,
  draining: worker.isDraining,
  since: worker.since ? new Date(worker.since * 1000).toISOString() : null,
  reason: worker.reason,
  ejected_until: worker.ejectedUntil ? new Date(worker.ejectedUntil * 1000).toISOString() : null,
  running: worker.running,
  max_concurrency: worker.cap,
  weight: worker.weight,
  jobs: worker.jobs,
  failures: worker.failures,
  latency_ms: latest(worker.trend),
  source: worker.source,
  abilities: worker.abilities,
  speed: worker.speed,
});

export class Workers {
  #fleet = null;
  #health = null;
  #words = "";

  // `steering` changes workers; `say` shows a message.
  constructor(section, steering, say) {
    this.section = section;
    this.table = new Table(section.querySelector(".table"), {
      name: "workers",
      caption: "All workers of the fleet; the headers' buttons sort it",
      key: ({ url }) => url,
      record,
      sort: "health",
      changed: remember,
      columns: this.#columns(steering),
    });
    this.filtering = new Filtering(this.table, "worker", { show: () => this.#show(true), say });
    this.table.addExport(section.querySelector(".controls"));
    this.#controls();
  }

  open({ health, q, sort, page }) {
    this.#health = HEALTHS.includes(health) ? health : null;
    this.#words = (q ?? "").toLowerCase();
    this.filter.value = q ?? "";
    this.table.arrange({ sort, page });
    this.#show(true);
  }

  update(fleet) {
    this.#fleet = fleet;
    this.#show(false);
  }

  get #now() {
    return this.#fleet.now;
  }

  #columns(steering) {
    return [
      { id: "worker", name: "Worker", by: ({ place }) => place, make: (cell) => this.#worker(cell) },
      { id: "health", name: "Health", by: ({ health }) => HEALTHS.indexOf(health), make: (cell) => this.#healthOf(cell) },
      { id: "running", name: "Running", isNumber: true, by: ({ running, cap }) => (cap ? running / cap : running / 1e6), make: running },
      { id: "weight", name: "Weight", isNumber: true, by: ({ weight }) => weight, make: words(({ weight }) => weight) },
      { id: "jobs", name: "Jobs", isNumber: true, by: ({ jobs }) => jobs ?? -1, make: words(({ jobs }) => count(jobs)) },
      { id: "failures", name: "Failures", isNumber: true, by: ({ failures }) => failures ?? -1, make: failures },
      { id: "time", name: "Latency", isNumber: true, by: ({ trend }) => latest(trend) ?? -1, make: trend },
      { id: "actions", name: "Actions", make: (cell, row) => steers(cell, steering, () => this.table.item(row.dataset.key)) },
    ];
  }

  #worker(cell) {
    const name = link("", "", "url");
    const source = make("small", "source");
    cell.append(name, source);
    return (worker) => {
      if (name.title !== worker.url) {
        name.href = address("worker", { url: worker.url });
        name.title = worker.url;
        text(name, short(worker.url));
      }
      const speed = worker.speed === 1 ? "" : `speed ${worker.speed}`;
      text(source, [SOURCES[worker.source] ?? worker.source, speed, worker.abilities].filter(Boolean).join(" · "));
      attribute(source, "title", worker.abilities);
    };
  }

  #healthOf(cell) {
    const [mark, write] = healthMark();
    const time = make("small", "since");
    const why = make("small", "reason");
    cell.append(mark, " ", time, why);
    return (worker) => {
      write(worker.health);
      text(time, since(worker, this.#now));
      const words = reason(worker, this.#now);
      text(why, words);
      attribute(why, "title", words);
    };
  }

  #controls() {
    const group = this.section.querySelector(".healths");
    this.chips = [null, ...HEALTHS.toReversed()].map((health) => {
      const chip = make("button", `chip ${health ?? "all"}`, make("i"), make("span", "", health ? label(health) : "All"), make("b"));
      chip.type = "button";
      chip.addEventListener("click", () => {
        this.#health = health;
        this.filtering.changed({ health });
      });
      group.append(chip);
      return { health, chip };
    });
    this.filter = this.section.querySelector("input");
    this.filter.addEventListener("input", () => {
      this.#words = this.filter.value.trim().toLowerCase();
      this.filtering.changed({ q: this.filter.value.trim() });
    });
  }

  #matches(worker) {
    if (this.#health && worker.health !== this.#health) return false;
    const words = this.#words;
    return !words || [worker.url, worker.health, worker.reason, worker.source, worker.abilities].some((text) => text.toLowerCase().includes(words));
  }

  #show(isNew) {
    if (!this.#fleet) return;
    const { workers, counts } = this.#fleet;
    const found = workers.filter((worker) => this.#matches(worker));
    const empty = workers.length ? "No worker matches." : "The fleet has no workers yet: name some in config.yaml, or add one with the admin API.";
    this.table.show(workers, found, empty, isNew);
    for (const { health, chip } of this.chips) {
      text(chip.children[2], count(health ? counts[health] : workers.length));
      chip.classList.toggle("none", Boolean(health) && counts[health] === 0);
      attribute(chip, "aria-pressed", String(health === this.#health));
    }
  }
}

function running(cell) {
  const number = make("span");
  const [used, write] = bar();
  cell.append(number, used);
  return ({ running, cap }) => {
    text(number, cap ? `${count(running)} / ${count(cap)}` : count(running));
    write(cap ? Math.min(1, running / cap) : null);
  };
}

export function failures(cell) {
  const number = make("span");
  const part = make("small");
  cell.append(number, part);
  return ({ failures, jobs }) => {
    text(number, count(failures));
    text(part, share(failures, jobs));
  };
}

function trend(cell) {
  const line = document.getElementById("spark").content.firstElementChild.cloneNode(true);
  const number = make("span");
  cell.append(line, number);
  let shown = null;
  return ({ trend }) => {
    text(number, milliseconds(latest(trend)));
    if (shown === trend) return;
    shown = trend;
    line.querySelector(".trend").setAttribute("d", path(trend));
  };
}
