// The tenants: which part of the fleet each uses, now and over time.

import { Charts } from "../parts/charts.js";
import { link, make, text } from "../parts/element.js";
import { Filtering } from "../parts/filtering.js";
import { NONE, count, rate, share } from "../parts/format.js";
import { Ranges } from "../parts/ranges.js";
import { address, remember } from "../parts/route.js";
import { Table, words } from "../parts/table.js";
import { bar, failures } from "./workers.js";

// So many tenants have areas of their own; the others share one.
const DRAWN = 6;
const OTHERS = "all others";

const seconds = (ms) => (ms < 60_000 ? `${(ms / 1000).toFixed(1)} s` : ms < 3_600_000 ? `${(ms / 60_000).toFixed(1)} min` : `${(ms / 3_600_000).toFixed(1)} h`);

export class TenantsView {
  #words = "";
  #legend = [];

  constructor(root, { history, redraw, say }) {
    Object.assign(this, { root, history });
    this.ranges = new Ranges(root.querySelector(".ranges"), history, redraw);
    this.legend = root.querySelector(".legend");
    this.charts = new Charts(root.querySelector(".over-time"), "tenants", [{ id: "tenants", series: [], show: rate, floor: 1 }]);
    this.section = root.querySelector("#tenants");
    this.table = new Table(root.querySelector(".table"), {
      name: "tenants",
      caption: "The tenants that use the fleet, the largest share of the last minute's worker-seconds first",
      key: ({ name }) => name,
      record: (tenant) => ({ ...tenant }),
      sort: "-share",
      changed: remember,
      columns: [
        { id: "tenant", name: "Tenant", by: ({ name }) => name, make: tenant },
        { id: "share", name: "Share", isNumber: true, by: ({ share: part }) => part ?? -1, make: part },
        { id: "running", name: "Running", isNumber: true, by: ({ running }) => running, make: words(({ running }) => count(running)) },
        { id: "waiting", name: "Waiting", isNumber: true, by: ({ waiting }) => waiting, make: words(({ waiting }) => count(waiting)) },
        { id: "rate", name: "Jobs / s", isNumber: true, by: ({ jobs_per_second: jobs }) => jobs ?? -1, make: words(({ jobs_per_second: jobs }) => rate(jobs)) },
        { id: "failures", name: "Failures", isNumber: true, by: ({ failures: failed }) => failed, make: failures },
        { id: "weight", name: "Weight", isNumber: true, by: ({ weight }) => weight, make: words(({ weight }) => weight) },
        { id: "reused", name: "Reused", isNumber: true, by: ({ saved_ms: saved }) => saved, make: reused, title: "Jobs that got the answers of identical ones, and the workers' time that these saved" },
      ],
    });
    this.table.addExport(this.section.querySelector(".controls"));
    const filtering = new Filtering(this.table, "tenant", { show: () => this.#show(true), say });
    this.filter = this.section.querySelector("input");
    this.filter.addEventListener("input", () => {
      this.#words = this.filter.value.trim().toLowerCase();
      filtering.changed({ q: this.filter.value.trim() });
    });
  }

  open(values) {
    this.ranges.open(values);
    this.#words = (values.q ?? "").toLowerCase();
    this.filter.value = values.q ?? "";
    this.table.arrange(values);
    this.history.poll.want(true);
    this.#show(true);
  }

  close() {
    this.history.poll.want(false);
  }

  update(fleet) {
    this.fleet = fleet;
    this.ranges.update();
    this.#draw();
    this.#show(false);
  }

  #show(isNew) {
    if (!this.fleet) return;
    const { rows, hidden } = this.fleet.tenants;
    const all = rows.map(named);
    this.section.classList.toggle("reuses", all.some(({ reused: jobs }) => jobs > 0));
    const found = all.filter(({ name }) => name.toLowerCase().includes(this.#words));
    const none = this.fleet.status?.redis ? "No tenant has had a job within a day." : "Not known while Redis is away.";
    this.table.show(all, found, all.length ? "No tenant matches." : this.fleet.status ? none : "", isNew);
    text(this.section.querySelector(".rest"), hidden ? `${count(hidden)} more with smaller shares are not shown; sfr tenants list has all.` : "");
  }

  #draw() {
    const { kept, range } = this.history;
    if (kept !== this.drawn?.kept || range !== this.drawn.range) this.drawn = { kept, range, columns: this.#areas() };
    this.charts.update(this.drawn.columns, {}, this.history.spanS, this.fleet.now);
  }

  // Returns the columns of areas that stand on each other: the tenant that used most is at the bottom.
  #areas() {
    const { at, used } = this.history.tenants;
    const sums = [...used].map(([name, spent]) => [name, spent.reduce((sum, value) => sum + (value ?? 0), 0)]);
    const names = sums.filter(([, sum]) => sum > 0).sort((one, other) => other[1] - one[1]).map(([name]) => name);
    const drawn = names.slice(0, DRAWN);
    const columns = { at };
    for (const name of drawn) columns[`of ${name}`] = used.get(name);
    if (names.length > DRAWN) {
      drawn.push(OTHERS);
      columns[`of ${OTHERS}`] = at.map((_, place) => summed(names.slice(DRAWN).map((name) => used.get(name)[place])));
    }
    drawn.forEach((name, level) => {
      columns[`up to ${name}`] = at.map((_, place) => summed(drawn.slice(0, level + 1).map((each) => columns[`of ${each}`][place])));
    });
    // The highest is drawn first, and those before it cover its lower part.
    const series = drawn.map((name, level) => ({ name: `up to ${name}`, number: `of ${name}`, tone: `--area-${level + 1}`, fill: `--area-${level + 1}` }));
    this.charts.setSeries("tenants", series.toReversed());
    this.#write(drawn);
    return columns;
  }

  #write(drawn) {
    if (JSON.stringify(drawn) === JSON.stringify(this.#legend)) return;
    this.#legend = drawn;
    this.legend.replaceChildren(
      ...drawn.map((name, level) => {
        const number = make("dd");
        number.dataset.number = `of ${name}`;
        return make("div", `area-${level + 1}`, make("dt", "", name), number);
      }),
    );
  }
}

function named([name, weight, running, waiting, jobsPerSecond, jobs, failed, part, reused = 0, savedMs = 0]) {
  return { name, share: part, running, waiting, jobs_per_second: jobsPerSecond, jobs, failures: failed, weight, reused, saved_ms: savedMs };
}

const summed = (values) => (values.every((value) => value == null) ? null : values.reduce((sum, value) => sum + (value ?? 0), 0));

function tenant(cell) {
  const name = link("", "", "name");
  cell.append(name);
  return (item) => {
    if (name.title === item.name) return;
    name.title = item.name;
    name.href = address("failures", { tenant: item.name });
    name.setAttribute("aria-label", `${item.name}: its failed jobs`);
    text(name, item.name);
  };
}

function part(cell) {
  const [used, write] = bar();
  const number = make("span");
  cell.append(used, number);
  return ({ share: its }) => {
    write(its ?? 0);
    text(number, its === null ? NONE : share(its, 1) || "0 %");
  };
}

function reused(cell) {
  const number = make("span");
  const saved = make("small");
  cell.append(number, saved);
  return (item) => {
    text(number, count(item.reused));
    text(saved, item.saved_ms ? `saved ${seconds(item.saved_ms)}` : "");
  };
}
