// The jobs that have failed last, each with its attempts. A request id finds one.

import { address, remember } from "../parts/route.js";
import { attribute, link, make, text } from "../parts/element.js";
import { Filtering, fitting } from "../parts/filtering.js";
import { milliseconds, short } from "../parts/format.js";
import { toWorker } from "../parts/links.js";
import { Table } from "../parts/table.js";
import { when } from "./events.js";

export class FailureTable {
  constructor(place, { isShort = false } = {}) {
    this.table = new Table(place, {
      name: "failures",
      caption: isShort ? "The jobs that have failed last" : "The jobs that have failed, the newest first",
      key: ({ key }) => key,
      record: ({ key, ...failure }) => failure,
      changed: isShort ? () => {} : remember,
      columns: [
        { id: "at", name: "Time", make: when },
        ...(isShort
          ? [{ id: "job", name: "Tenant", make: whose }, { id: "answer", name: "Answer", make: answer }, { id: "last", name: "Last attempt", make: lastAttempt }]
          : [{ id: "job", name: "Job", make: job }, { id: "answer", name: "Answer", make: answer }, { id: "attempts", name: "Attempts", make: attempts }, { id: "took", name: "Took", isNumber: true, make: took }]),
      ],
    });
  }

  show(failures, trouble, empty = "No job has failed.") {
    this.table.show(failures, failures, trouble || empty);
  }
}

function job(cell) {
  const id = make("span", "id");
  const tenant = link("", "");
  const about = make("small", "whose");
  cell.append(id, about);
  return (failure) => {
    text(id, failure.request_id);
    attribute(id, "title", failure.request_id);
    toTenant(tenant, failure.tenant);
    if (!about.childNodes.length) about.append(tenant, make("span"));
    text(about.lastChild, ["", failure.path, failure.language].filter((each, place) => !place || each).join(" · "));
  };
}

// Lets a link lead to the failed jobs of a tenant.
function toTenant(anchor, tenant) {
  text(anchor, tenant);
  attribute(anchor, "href", address("failures", { tenant }));
}

function whose(cell) {
  const tenant = link("", "", "subject");
  cell.append(tenant);
  return (failure) => {
    toTenant(tenant, failure.tenant);
    attribute(cell, "title", `${failure.request_id} ${failure.path}`);
  };
}

function lastAttempt(cell) {
  const worker = link("", "", "subject");
  const cause = make("span", "words");
  cell.append(cause, " ", worker);
  return ({ attempts: list, detail }) => {
    const last = list?.at(-1);
    toWorker(worker, last?.worker_url);
    text(cause, last ? `${last.cause ?? ""}${list.length > 1 ? `; ${list.length} attempts` : ""}` : detail || "no attempt was made");
    attribute(cell, "title", cause.textContent);
  };
}

function answer(cell) {
  const status = make("b");
  const outcome = make("small", "outcome");
  cell.append(status, outcome);
  return (failure) => {
    text(status, failure.status ?? "");
    text(outcome, (failure.outcome ?? "").replaceAll("_", " "));
    attribute(cell, "title", failure.detail ?? "");
  };
}

// A failure does not change, so its attempts are written once.
function attempts(cell) {
  let shown = null;
  return (failure) => {
    if (shown === failure) return;
    shown = failure;
    const list = failure.attempts ?? [];
    const items = list.map(({ worker_url: url, cause, took_ms }) => {
      const item = make("li");
      if (url) item.append(link(address("worker", { url }), short(url), "url"), " ");
      item.append(`${cause ?? ""}${took_ms == null ? "" : `, after ${milliseconds(took_ms)}`}`);
      return item;
    });
    cell.replaceChildren(items.length ? make("ol", "", ...items) : make("small", "", `none: ${failure.detail || "no worker was asked"}`));
  };
}

function took(cell) {
  const all = make("span");
  const waited = make("small");
  cell.append(all, waited);
  return ({ took_ms: tookMs, queue_ms: queueMs }) => {
    text(all, milliseconds(tookMs));
    text(waited, queueMs ? `${milliseconds(queueMs)} in the queue` : "");
  };
}

const urls = ({ attempts: list }) => (list ?? []).map(({ worker_url: url }) => url);
const FIELDS = ["request_id", "tenant", "worker", "language"];

export class FailuresView {
  constructor(root, { failures, say }) {
    Object.assign(this, { root, failures });
    this.list = new FailureTable(root.querySelector(".table"));
    this.filtering = new Filtering(this.list.table, "failed job", { show: () => this.#show(true), say });
    this.list.table.addExport(root.querySelector(".controls"));
    this.inputs = FIELDS.map((name) => root.querySelector(`[name="${name}"]`));
    for (const input of this.inputs) input.addEventListener("input", () => this.#filter({ [input.name]: input.value.trim() }));
  }

  open(values) {
    this.values = values;
    for (const input of this.inputs) input.value = values[input.name] ?? "";
    this.list.table.arrange(values);
    this.failures.poll.want(true);
    this.#show(true);
  }

  close() {
    this.failures.poll.want(false);
  }

  update() {
    this.#show(false);
  }

  #filter(changes) {
    this.values = { ...this.values, ...changes };
    this.filtering.changed(changes);
  }

  // A request id finds the jobs of a batch, too, whose ids begin with it.
  #matching() {
    const { request_id: id, tenant, language, worker } = this.values;
    const all = this.failures.list;
    const [isOfRequest, isOfTenant, isOfLanguage, isOfWorker] = [
      fitting([], id),
      fitting(all.map((failure) => failure.tenant), tenant),
      fitting(all.map((failure) => failure.language), language),
      fitting(all.flatMap(urls), worker),
    ];
    return all.filter(
      (failure) =>
        isOfRequest(failure.request_id) &&
        isOfTenant(failure.tenant) &&
        isOfLanguage(failure.language) &&
        (!worker || urls(failure).some(isOfWorker)),
    );
  }

  #show(isNew) {
    const { list, poll } = this.failures;
    const found = this.#matching();
    const empty = poll.trouble || (list.length ? "No failed job matches. The last 500 are kept." : "No job has failed.");
    this.list.table.show(list, found, empty, isNew);
  }
}
