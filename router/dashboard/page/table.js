// The table of workers: sorted, filtered, one page at a time. Only cells that have changed are written.

import { ago, clock, count, milliseconds, share } from "./format.js";
import { HEALTHS, latest } from "./fleet.js";
import { path } from "./spark.js";
import { text } from "./text.js";

const PAGE = 50;
const HELD_MS = 10_000; // a pointer that rests longer no longer holds the rows in place
const SOURCES = { config: "config.yaml", file: "workers_file", dns: "DNS", registered: "registered" };
const label = (health) => health[0].toUpperCase() + health.slice(1);

// Each column's name and sort key. Columns of numbers sort descending first.
const COLUMNS = [
  { id: "worker", name: "Worker", by: ({ place }) => place },
  { id: "health", name: "Health", by: ({ health }) => HEALTHS.indexOf(health) },
  { id: "running", name: "Running", by: ({ running, cap }) => (cap ? running / cap : running / 1e6), isNumber: true },
  { id: "weight", name: "Weight", by: ({ weight }) => weight, isNumber: true },
  { id: "jobs", name: "Jobs", by: ({ jobs }) => jobs, isNumber: true },
  { id: "failures", name: "Failures", by: ({ failures }) => failures, isNumber: true },
  { id: "time", name: "Latency", by: ({ trend }) => latest(trend) ?? -1, isNumber: true },
];

export class Table {
  #fleet = null;
  #rows = new Map(); // by URL: the elements of each row on this page
  #found = [];
  #shown = [];
  #sort = { column: COLUMNS[1], isAscending: true };
  #health = null;
  #words = "";
  #page = 0;
  #pointedAt = -HELD_MS;

  // `steering` changes workers; `say` shows a message.
  constructor(section, steering, say) {
    this.section = section;
    this.steering = steering;
    this.say = say;
    this.body = section.querySelector("tbody");
    this.template = document.getElementById("row").content.firstElementChild;
    this.#head();
    this.#controls();
    // Rows keep their places while the pointer or the focus is on them, so that a click hits the row that was aimed at.
    this.body.addEventListener("pointermove", () => (this.#pointedAt = performance.now()));
    this.body.addEventListener("pointerleave", () => (this.#pointedAt = -HELD_MS));
    this.body.addEventListener("click", (event) => this.#act(event.target.closest("button")));
  }

  update(fleet) {
    this.#fleet = fleet;
    const isPointed = performance.now() - this.#pointedAt < HELD_MS;
    this.#show(isPointed || this.body.contains(document.activeElement));
  }

  #head() {
    const row = this.section.querySelector("thead tr");
    for (const column of COLUMNS) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.className = column.isNumber ? `number ${column.id}` : column.id;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = column.name;
      button.addEventListener("click", () => this.#sortBy(column));
      cell.append(button);
      row.append(cell);
      column.cell = cell;
    }
    const actions = document.createElement("th");
    actions.scope = "col";
    actions.className = "actions";
    actions.textContent = "Actions";
    row.append(actions);
    this.#markSort();
  }

  #sortBy(column) {
    const isSame = column === this.#sort.column;
    this.#sort = { column, isAscending: isSame ? !this.#sort.isAscending : !column.isNumber };
    this.#page = 0;
    this.#markSort();
    this.#show(false);
  }

  #markSort() {
    for (const column of COLUMNS) {
      if (column === this.#sort.column) {
        column.cell.setAttribute("aria-sort", this.#sort.isAscending ? "ascending" : "descending");
      } else {
        column.cell.removeAttribute("aria-sort");
      }
    }
  }

  #controls() {
    const group = document.getElementById("healths");
    this.chips = [null, ...HEALTHS.toReversed()].map((health) => {
      const chip = document.createElement("button");
      chip.type = "button";
      chip.className = `chip ${health ?? "all"}`;
      chip.append(document.createElement("i"), document.createElement("span"), document.createElement("b"));
      chip.children[1].textContent = health ? label(health) : "All";
      chip.addEventListener("click", () => {
        this.#health = health;
        this.#refind();
      });
      group.append(chip);
      return { health, chip };
    });
    const filter = document.getElementById("filter");
    filter.addEventListener("input", () => {
      this.#words = filter.value.trim().toLowerCase();
      this.#refind();
    });
    document.addEventListener("keydown", (event) => {
      const isWriting = event.target.closest("input, dialog[open]");
      if (event.key !== "/" || isWriting || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      filter.focus();
    });
    this.pages = document.getElementById("pages");
    this.pages.addEventListener("click", (event) => {
      const step = Number(event.target.dataset.step);
      if (!step) return;
      this.#page += step;
      this.#show(false);
      this.section.scrollIntoView({ block: "start" });
    });
  }

  #refind() {
    this.#page = 0;
    this.#show(false);
    clearTimeout(this.telling);
    this.telling = setTimeout(() => this.say(`${count(this.#found.length)} ${this.#found.length === 1 ? "worker" : "workers"}`), 700);
  }

  #matches(worker) {
    if (this.#health && worker.health !== this.#health) return false;
    const words = this.#words;
    return !words || [worker.url, worker.health, worker.reason, worker.source, worker.abilities].some((text) => text.toLowerCase().includes(words));
  }

  #find() {
    const { column, isAscending } = this.#sort;
    const sign = isAscending ? 1 : -1;
    return this.#fleet.workers
      .filter((worker) => this.#matches(worker))
      .sort((one, other) => sign * (column.by(one) - column.by(other)) || one.place - other.place);
  }

  #show(isHeld) {
    if (!this.#fleet) return;
    this.#fleet.workers.forEach((worker, place) => (worker.place = place));
    this.#found = this.#find();
    const last = Math.max(0, Math.ceil(this.#found.length / PAGE) - 1);
    this.#page = Math.min(Math.max(0, this.#page), last);
    const from = this.#page * PAGE;
    if (isHeld) {
      const known = new Map(this.#fleet.workers.map((worker) => [worker.url, worker]));
      const kept = this.#shown.map(({ url }) => known.get(url)).filter(Boolean);
      const others = this.#found.slice(from).filter((worker) => !kept.includes(worker));
      this.#shown = [...kept, ...others.slice(0, PAGE - kept.length)];
    } else {
      this.#shown = this.#found.slice(from, from + PAGE);
    }
    this.#write();
    this.#tell(from, last);
  }

  #write() {
    const wanted = new Set(this.#shown.map(({ url }) => url));
    for (const [url, { row }] of this.#rows) {
      if (wanted.has(url)) continue;
      row.remove();
      this.#rows.delete(url);
    }
    this.#shown.forEach((worker, place) => {
      if (!this.#rows.has(worker.url)) this.#rows.set(worker.url, this.#made(worker.url));
      const parts = this.#rows.get(worker.url);
      if (this.body.children[place] !== parts.row) this.body.insertBefore(parts.row, this.body.children[place] ?? null);
      this.#fill(parts, worker);
    });
  }

  #made(url) {
    const row = this.template.cloneNode(true);
    row.dataset.url = url;
    const part = (selector) => row.querySelector(selector);
    part(".url").textContent = url.replace(/^http:\/\//, "");
    part(".url").title = url;
    part('[data-act="remove"]').setAttribute("aria-label", `Remove ${url}`);
    return {
      row,
      source: part(".source"), health: part(".health"), word: part(".health > span"), since: part(".since"),
      reason: part(".reason"), running: part(".running > span"), used: part(".used > i"), weight: part(".weight"),
      jobs: part(".jobs"), failures: part(".failures > span"), failed: part(".failures small"),
      line: part(".trend"), time: part(".time > span"),
      drain: part('[data-act="drain"]'), remove: part('[data-act="remove"]'),
    };
  }

  #fill(parts, worker) {
    const { health, running, cap } = worker;
    const source = SOURCES[worker.source] ?? worker.source;
    const speed = worker.speed === 1 ? "" : `speed ${worker.speed}`;
    text(parts.source, [source, speed, worker.abilities].filter(Boolean).join(" · "));
    if (parts.source.title !== worker.abilities) parts.source.title = worker.abilities;
    if (parts.health.dataset.is !== health) parts.health.dataset.is = health;
    text(parts.word, label(health));
    // `since` is when the health checks changed the health; it says nothing about a drain or an ejection.
    const isChecked = health === "healthy" || health === "unhealthy";
    text(parts.since, worker.since && isChecked ? ago(this.#fleet.now - worker.since) : "");
    const reason = this.#reason(worker);
    text(parts.reason, reason);
    if (parts.reason.title !== reason) parts.reason.title = reason;
    text(parts.running, cap ? `${count(running)} / ${count(cap)}` : count(running));
    const used = cap ? Math.min(1, running / cap) : 0;
    if (parts.shownUse !== used) {
      parts.shownUse = used;
      parts.used.style.transform = `scaleX(${used})`;
      parts.used.parentElement.hidden = !cap;
    }
    text(parts.weight, worker.weight);
    text(parts.jobs, count(worker.jobs));
    text(parts.failures, count(worker.failures));
    text(parts.failed, share(worker.failures, worker.jobs));
    text(parts.time, milliseconds(latest(worker.trend)));
    if (parts.trend !== worker.trend) {
      parts.trend = worker.trend;
      parts.line.setAttribute("d", path(worker.trend));
    }
    this.#fillActions(parts, worker);
  }

  #fillActions({ drain, remove }, worker) {
    const act = worker.isDraining ? "Resume" : "Drain";
    if (drain.textContent !== act) {
      drain.textContent = act;
      drain.setAttribute("aria-label", `${act} ${worker.url}`);
    }
    remove.hidden = worker.source !== "registered";
  }

  #reason(worker) {
    if (worker.health === "unhealthy") return worker.isDraining ? `${worker.reason}; draining` : worker.reason;
    if (worker.health === "ejected") {
      const left = worker.ejectedUntil - this.#fleet.now;
      const until = left > 0 ? `until ${clock(worker.ejectedUntil)} (${ago(left)})` : "until its trial job ends";
      return `${until}: ${worker.reason}`;
    }
    if (worker.health === "draining") return worker.running ? "gets no new jobs" : "nothing runs any more";
    return worker.health === "unknown" ? "not checked yet" : "";
  }

  #tell(from, last) {
    const { counts, workers } = this.#fleet;
    for (const { health, chip } of this.chips) {
      text(chip.children[2], count(health ? counts[health] : workers.length));
      chip.classList.toggle("none", Boolean(health) && counts[health] === 0);
      chip.setAttribute("aria-pressed", String(health === this.#health));
    }
    const empty = document.getElementById("empty");
    empty.hidden = this.#shown.length > 0;
    text(empty, workers.length ? "No worker matches." : "The fleet has no workers yet: name some in config.yaml, or add one with the admin API.");
    this.pages.hidden = last === 0;
    const [previous, shown, next] = this.pages.children;
    text(shown, `${count(from + 1)}–${count(Math.min(from + PAGE, this.#found.length))} of ${count(this.#found.length)}`);
    previous.disabled = this.#page === 0;
    next.disabled = this.#page === last;
  }

  #act(button) {
    if (!button || button.getAttribute("aria-disabled") === "true") return;
    const { url } = button.closest("tr").dataset;
    const worker = this.#shown.find((each) => each.url === url);
    const act = button.dataset.act === "remove" ? "remove" : worker.isDraining ? "resume" : "drain";
    this.steering.steer(act, worker, button);
  }
}
