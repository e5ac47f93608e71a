// The log of events: what has happened to the fleet, with filters.

import { about } from "../model/log.js";
import { attribute, link, make, text } from "../parts/element.js";
import { Filtering, fitting } from "../parts/filtering.js";
import { moment, moments } from "../parts/format.js";
import { toWorker } from "../parts/links.js";
import { remember } from "../parts/route.js";
import { Table } from "../parts/table.js";

const named = (kind) => kind.replaceAll("_", " ");
const isWorker = (subject) => /^https?:\/\//.test(subject);

// A table of events. A short one has no buttons for files and does not filter.
export class EventTable {
  constructor(place, { isShort = false } = {}) {
    this.table = new Table(place, {
      name: "events",
      caption: isShort ? "The latest events" : "The events, the newest first",
      key: ({ id }) => id,
      record: ({ id, at, kind, subject, text: words, by, more, help }) => ({ id, at, kind, subject, text: words, by, more, help }),
      changed: isShort ? () => {} : remember,
      columns: [
        { id: "at", name: "Time", make: when },
        { id: "kind", name: "What", make: kind },
        { id: "told", name: "Event", make: isShort ? briefly : told },
        ...(isShort ? [] : [{ id: "by", name: "By", make: (cell) => (event) => text(cell, event.by) }]),
      ],
    });
  }

  show(events, trouble, empty = "Nothing has happened so far.") {
    this.table.show(events, events, trouble || empty);
  }
}

export function when(cell) {
  const time = make("time");
  cell.append(time);
  return ({ at }) => {
    text(time, moment(at));
    if (time.dateTime === at) return;
    time.dateTime = at;
    time.title = moments(at);
  };
}

function kind(cell) {
  const words = make("span", "kind");
  cell.append(words);
  return (event) => {
    text(words, named(event.kind));
    attribute(words, "data-kind", event.kind);
  };
}

function told(cell) {
  const subject = link("", "", "subject");
  const words = make("span", "words");
  const help = link("", "What to do", "help");
  cell.append(subject, words, " ", help);
  return (event) => {
    toWorker(subject, isWorker(event.subject) ? event.subject : "");
    text(words, event.text);
    const [, section] = (event.help ?? "").split("#");
    help.hidden = !section;
    attribute(help, "href", `dashboard/help.html#${section}`);
  };
}

// One line: the subject and the sentence.
function briefly(cell) {
  const subject = link("", "", "subject");
  const words = make("span", "words");
  cell.append(subject, words);
  return (event) => {
    toWorker(subject, isWorker(event.subject) ? event.subject : "");
    text(words, event.text);
    attribute(cell, "title", `${event.subject} ${event.text}`);
  };
}

export class EventsView {
  constructor(root, { events, say, redraw }) {
    Object.assign(this, { root, events });
    this.list = new EventTable(root.querySelector(".table"));
    this.filtering = new Filtering(this.list.table, "event", { show: () => this.#show(true), say });
    this.list.table.addExport(root.querySelector(".controls"));
    this.kind = root.querySelector("select");
    this.worker = root.querySelector('[name="worker"]');
    this.words = root.querySelector('[name="q"]');
    this.kind.addEventListener("change", () => this.#filter({ kind: this.kind.value }));
    this.worker.addEventListener("input", () => this.#filter({ worker: this.worker.value.trim() }));
    this.words.addEventListener("input", () => this.#filter({ q: this.words.value.trim() }));
  }

  open(values) {
    this.values = values;
    this.#kinds();
    this.kind.value = values.kind ?? "";
    this.worker.value = values.worker ?? "";
    this.words.value = values.q ?? "";
    this.list.table.arrange(values);
    this.events.poll.want(true);
    this.#show(true);
  }

  close() {
    this.events.poll.want(false);
  }

  update() {
    this.#kinds();
    this.#show(false);
  }

  #filter(changes) {
    this.values = { ...this.values, ...changes };
    this.filtering.changed(changes);
  }

  // The kinds that are there, and the one that is asked for.
  #kinds() {
    const kinds = [...new Set([...this.events.kinds, ...(this.values.kind ? [this.values.kind] : [])])].sort();
    if (JSON.stringify(kinds) === this.shownKinds) return;
    this.shownKinds = JSON.stringify(kinds);
    const chosen = this.values.kind ?? "";
    const options = kinds.map((kind) => Object.assign(make("option", "", named(kind)), { value: kind }));
    this.kind.replaceChildren(Object.assign(make("option", "", "Everything"), { value: "" }), ...options);
    this.kind.value = chosen;
  }

  #matching() {
    const wanted = this.values;
    const isOfWorker = fitting(this.events.list.flatMap(about), wanted.worker);
    const holds = fitting([], wanted.q);
    return this.events.list.filter((event) => {
      const { kind, subject, text: words, by, more } = event;
      if (wanted.kind && kind !== wanted.kind) return false;
      if (wanted.worker && !about(event).some(isOfWorker)) return false;
      return !wanted.q || [subject, words, by, named(kind), JSON.stringify(more)].some(holds);
    });
  }

  #show(isNew) {
    const { list, poll } = this.events;
    const found = this.#matching();
    const empty = poll.trouble || (list.length ? "No event matches." : "Nothing has happened so far.");
    this.list.table.show(list, found, empty, isNew);
  }
}
