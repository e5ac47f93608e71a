// The fleet as the stream tells of it: `whole` gives all, `tick` what has changed. Knows neither the page nor the network.

const HISTORY_S = 300;
const POINTS = 30;
export const HEALTHS = ["unhealthy", "ejected", "unknown", "draining", "healthy"]; // those in trouble first

export class Fleet {
  workers = [];
  history = []; // [at, jobs, running, waiting, p50, p99, errors, retries, slots], the oldest first
  status = null;
  number = -1;

  get now() {
    return this.history.length ? this.history.at(-1)[0] : 0;
  }

  whole(told) {
    // Another process, asked after a break, may know less of the past than this page does.
    const first = told.history[0]?.[0] ?? 0;
    this.history = [...this.history.filter(([at]) => at < first), ...told.history];
    const before = new Map(this.workers.map((worker) => [worker.url, worker.course]));
    this.workers = told.urls.map((url, place) => {
      const course = told.courses[place];
      const known = before.get(url) ?? [];
      return { url, course: course.length < known.length ? known : course };
    });
    this.#update(told);
  }

  // Returns false where it does not follow on what is known.
  tick(told) {
    if (told.number !== this.number + 1) return false;
    this.history.push(told.totals);
    if (told.points) {
      told.points.forEach((point, place) => {
        const worker = this.workers[place];
        worker.course = [...worker.course, point].slice(-POINTS);
      });
    }
    this.#update(told);
    return true;
  }

  #update(told) {
    this.number = told.number;
    this.status = told.status;
    for (const [place, health, isDraining, since, reason, weight, cap, source, ejectedUntil] of told.rows) {
      Object.assign(this.workers[place], { health, isDraining, since, reason, weight, cap, source, ejectedUntil });
    }
    for (const [place, running, jobs, failures] of told.live) {
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

export const latest = (course) => course.findLast((point) => point != null) ?? null;
