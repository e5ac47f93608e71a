// The state of the fleet: a `whole` event replaces it, a `tick` changes it. Knows neither the page nor the network.

const HISTORY_S = 300;
const POINTS = 30;
export const HEALTHS = ["unhealthy", "ejected", "unknown", "draining", "healthy"]; // the worst first

export class Fleet {
  workers = [];
  history = []; // [at, jobs, running, waiting, p50, p99, errors, retries, slots], the oldest first
  tenants = { rows: [], hidden: 0 }; // rows: [name, weight, running, waiting, jobs a second, jobs, failures, share]
  status = null;
  number = -1;

  get now() {
    return this.history.length ? this.history.at(-1)[0] : 0;
  }

  whole(data) {
    // After a break the stream may come from another process, whose history may be shorter than this page's.
    const first = data.history[0]?.[0] ?? 0;
    this.history = [...this.history.filter(([at]) => at < first), ...data.history];
    const before = new Map(this.workers.map((worker) => [worker.url, worker.trend]));
    this.workers = data.urls.map((url, place) => {
      const trend = data.trends[place];
      const known = before.get(url) ?? [];
      return { url, trend: trend.length < known.length ? known : trend };
    });
    this.#update(data);
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
    return true;
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
