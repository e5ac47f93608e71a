// The state of the fleet: a `whole` event replaces it, a `tick` changes it. Knows neither the page nor the network.

const HISTORY_S = 300;
const POINTS = 30;
const POINT_S = 10;
export const HEALTHS = ["unhealthy", "ejected", "unknown", "draining", "healthy"]; // the worst first

export class Fleet {
  workers = [];
  history = []; // [at, jobs, running, waiting, p50, p99, errors, retries, slots], the oldest first
  tenants = { rows: [], hidden: 0 }; // rows: [name, weight, running, waiting, jobs a second, jobs, failures, share]
  status = null;
  number = -1;
  pointAt = 0; // when the last points of the workers' trends were made

  get now() {
    return this.history.length ? this.history.at(-1)[0] : 0;
  }

  whole(data) {
    // After a break the stream may come from another process, whose history may be shorter than this page's.
    const first = data.history[0]?.[0] ?? 0;
    this.history = [...this.history.filter(([at]) => at < first), ...data.history];
    const before = new Map(this.workers.map((worker) => [worker.url, worker]));
    this.workers = data.urls.map((url, place) => {
      const trend = data.trends[place];
      const { trend: known = [], past = [] } = before.get(url) ?? {};
      return { url, trend: trend.length < known.length ? known : trend, past };
    });
    this.#update(data);
    this.#remember();
  }

  // Returns false if an event between the last one and this one is missing.
  tick(data) {
    if (data.number !== this.number + 1) return false;
    this.history.push(data.totals);
    if (data.points) {
      data.points.forEach((point, place) => {
        const worker = this.workers[place];
        worker.trend = [...worker.trend, point].slice(-POINTS);
      });
    }
    this.#update(data);
    if (data.points) this.#remember();
    return true;
  }

  // Keeps each worker's numbers of this moment: [at, running, jobs, failures]. The stream tells of the present alone.
  #remember() {
    this.pointAt = this.now;
    for (const worker of this.workers) {
      worker.past = [...worker.past, [this.now, worker.running, worker.jobs, worker.failures]].slice(-POINTS - 1);
    }
  }

  // Returns the columns of a worker's last five minutes. Its rates begin when this page was opened.
  course({ trend, past }) {
    const at = trend.map((_, place) => this.pointAt - POINT_S * (trend.length - 1 - place));
    const moments = past.slice(1).map(([moment, running, jobs, failures], place) => {
      const [since, , jobsThen, failuresThen] = past[place];
      const rate = (now, then) => (now == null || then == null ? null : Math.max(0, now - then) / (moment - since));
      return { moment, running, jobs: rate(jobs, jobsThen), failures: rate(failures, failuresThen) };
    });
    const near = at.map((moment) => moments.find((each) => Math.abs(each.moment - moment) < POINT_S / 2));
    const column = (name) => near.map((each) => each?.[name] ?? null);
    return { at, running: column("running"), jobs: column("jobs"), failures: column("failures"), mean_ms: trend };
  }

  #update(data) {
    this.number = data.number;
    this.status = data.status;
    if (data.tenants) this.tenants = data.tenants;
    for (const [place, health, isDraining, since, reason, weight, cap, source, ejectedUntil, abilities, speed] of data.rows) {
      const row = { health, isDraining, since, reason, weight, cap, source, ejectedUntil, abilities, speed };
      Object.assign(this.workers[place], row);
    }
    for (const [place, running, jobs, failures] of data.live) {
      Object.assign(this.workers[place], { running, jobs, failures });
    }
    const oldest = this.now - HISTORY_S;
    while (this.history.length && this.history[0][0] < oldest) this.history.shift();
  }

  get counts() {
    const counts = Object.fromEntries(HEALTHS.map((health) => [health, 0]));
    for (const { health } of this.workers) counts[health] += 1;
    return counts;
  }
}

export const latest = (trend) => trend.findLast((point) => point != null) ?? null;
