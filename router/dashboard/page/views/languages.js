// The languages: which workers run each, how many of its jobs wait, and how many have failed last.

import { ask } from "../model/ask.js";
import { Poll } from "../model/poll.js";
import { attribute, link, make, text } from "../parts/element.js";
import { NONE, count } from "../parts/format.js";
import { address, remember } from "../parts/route.js";
import { Table, words } from "../parts/table.js";

const EVERY_MS = 5000;
const EVERY_LANGUAGE = "Every language";

export class LanguagesView {
  #told = null;

  constructor(root, { failures, redraw }) {
    Object.assign(this, { root, failures });
    this.table = new Table(root.querySelector(".table"), {
      name: "languages",
      caption: "The languages that workers list, and those of jobs that have failed last",
      key: ({ name }) => name,
      record: ({ name, ...its }) => ({ language: name, ...its }),
      sort: "language",
      changed: remember,
      columns: [
        { id: "language", name: "Language", by: ({ name }) => name, make: language },
        { id: "workers", name: "Workers", isNumber: true, by: ({ workers }) => workers, make: workers },
        { id: "slots", name: "Slots", isNumber: true, by: ({ slots }) => slots ?? Infinity, make: words(({ slots, workers: able }) => (able ? (slots == null ? "no cap" : count(slots)) : NONE)) },
        { id: "waiting", name: "Waiting", isNumber: true, by: ({ waiting }) => waiting ?? -1, make: words(({ waiting }) => count(waiting)) },
        { id: "failed", name: "Failed last", isNumber: true, by: ({ failed }) => failed, make: failed },
      ],
    });
    this.table.addExport(root.querySelector(".controls"));
    this.poll = new Poll(EVERY_MS, () => this.#load(), redraw);
  }

  open(values) {
    this.table.arrange(values);
    this.poll.want(true);
    this.failures.poll.want(true);
  }

  close() {
    this.poll.want(false);
    this.failures.poll.want(false);
  }

  async #load() {
    this.#told = (await ask("dashboard/languages")).languages;
  }

  update() {
    const failures = new Map();
    for (const { language } of this.failures.list) if (language) failures.set(language, (failures.get(language) ?? 0) + 1);
    const listed = (this.#told ?? []).map((each) => ({ ...each, failed: failures.get(each.name) ?? 0 }));
    const every = listed.find(({ name }) => name === "");
    const isListed = new Set(listed.map(({ name }) => name));
    // Languages that no worker lists run where every language does.
    const others = [...failures].filter(([name]) => every && !isListed.has(name)).map(([name, failed]) => ({ ...every, name, waiting: null, failed }));
    const all = [...listed.map((each) => (each === every ? { ...every, name: EVERY_LANGUAGE } : each)), ...others];
    this.table.show(all, all, this.poll.trouble);
    const isAny = listed.length === 1;
    text(this.root.querySelector(".how"), isAny ? "No worker lists languages, so each is taken to run all of them." : "A job goes to a worker that lists its language, or that lists none.");
  }
}

function language(cell) {
  const name = make("span", "name");
  cell.append(name);
  return (item) => text(name, item.name);
}

function workers(cell) {
  const number = make("span");
  const well = make("small");
  cell.append(number, well);
  return (item) => {
    text(number, count(item.workers));
    text(well, item.routable === item.workers ? "" : `${count(item.routable)} get${item.routable === 1 ? "s" : ""} jobs`);
  };
}

function failed(cell) {
  const number = link("", "");
  cell.append(number);
  return (item) => {
    text(number, count(item.failed));
    attribute(number, "href", address("failures", { language: item.name === EVERY_LANGUAGE ? null : item.name }));
  };
}
