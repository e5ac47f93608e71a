// Four cards with numbers and charts of the last minutes, drawn by uPlot. Pointing at one chart shows the numbers of that
// moment on all cards.

import { clock, clockMinute, count, milliseconds, rate } from "./format.js";

const LEAST_SPAN_S = 60;
const HEIGHT = 132;
// Indexes in an entry of the fleet's history.
const JOBS = 1, RUNNING = 2, WAITING = 3, P50 = 4, P99 = 5, ERRORS = 6, RETRIES = 7, SLOTS = 8;

const CARDS = [
  { id: "throughput", series: [[JOBS, "--line-1"]], show: rate, floor: 1 },
  { id: "use", series: [[RUNNING, "--line-1"], [WAITING, "--line-2"]], show: count, floor: 4 },
  { id: "time", series: [[P50, "--line-1"], [P99, "--line-2"]], show: milliseconds, floor: 10 },
  { id: "trouble", series: [[ERRORS, "--line-bad"], [RETRIES, "--line-2"]], show: rate, floor: 1 },
];

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Columns for uPlot. A gap in the history breaks the line.
function columns(history) {
  const rows = [];
  for (const entry of history) {
    const before = rows.at(-1);
    if (before && entry[0] - before[0] > 3.5) rows.push([before[0] + 1, ...Array(SLOTS).fill(null)]);
    rows.push(entry);
  }
  return Array.from({ length: SLOTS + 1 }, (_, place) => rows.map((row) => row[place]));
}

// A label that would be cut off at the edge is left out.
function moments({ min, max }, moment, step) {
  if (max - moment < 0.09 * (max - min)) return "";
  return step < 60 ? clock(moment) : clockMinute(moment);
}

export class Charts {
  #columns = columns([]);
  #hovered = null;
  #charts = [];
  #fleet = null;

  constructor(root) {
    this.root = root;
    addEventListener("themechange", () => this.#build());
    new ResizeObserver(() => this.#fit()).observe(root);
    this.#build();
  }

  update(fleet) {
    this.#fleet = fleet;
    this.#columns = columns(fleet.history);
    CARDS.forEach(({ series }, place) => this.#charts[place].setData(this.#data(series)));
    this.#tell();
  }

  #data(series) {
    return [this.#columns[0], ...series.map(([place]) => this.#columns[place])];
  }

  #build() {
    for (const chart of this.#charts) chart.destroy();
    this.#charts = CARDS.map((card) => {
      const place = this.root.querySelector(`[data-chart="${card.id}"]`);
      return new uPlot(this.#options(card, place.clientWidth), this.#data(card.series), place);
    });
  }

  #fit() {
    CARDS.forEach(({ id }, place) => {
      const width = this.root.querySelector(`[data-chart="${id}"]`).clientWidth;
      if (width && width !== this.#charts[place].width) this.#charts[place].setSize({ width, height: HEIGHT });
    });
  }

  #options({ series, show, floor }, width) {
    const font = "11px system-ui, sans-serif";
    const axis = { font, stroke: css("--muted"), ticks: { show: false } };
    const grid = { stroke: css("--grid"), width: 1 };
    return {
      width: width || 300,
      height: HEIGHT,
      padding: [8, 8, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: "fleet" }, y: false, drag: { x: false, y: false }, points: { size: 7 } },
      scales: {
        x: { range: (_, from, to) => [Math.min(from ?? 0, (to ?? 0) - LEAST_SPAN_S), to ?? LEAST_SPAN_S] },
        y: { range: (_, __, most) => [0, Math.max(floor, (most ?? 0) * 1.15)] },
      },
      axes: [
        {
          ...axis,
          size: 26,
          space: 64,
          grid: { show: false },
          incrs: [15, 30, 60, 120],
          values: (chart, at, __, ___, step) => at.map((moment) => moments(chart.scales.x, moment, step)),
        },
        { ...axis, size: 52, space: 26, grid, values: (_, at) => at.map((value) => (value ? show(value).replace(".0", "") : "0")) },
      ],
      series: [
        {},
        ...series.map(([, colour], place) => ({
          stroke: css(colour),
          width: 1.75,
          fill: place === 0 && series.length === 1 ? css("--fill-1") : undefined,
          points: { show: false },
        })),
      ],
      hooks: { setCursor: [(chart) => this.#point(chart)] },
    };
  }

  #point(chart) {
    const idx = chart.cursor.idx ?? null;
    const hovered = idx === null ? null : (this.#columns[0][idx] ?? null);
    if (hovered === this.#hovered) return;
    this.#hovered = hovered;
    this.#tell();
  }

  // Writes the numbers of the moment under the pointer, or the latest.
  #tell() {
    if (!this.#fleet) return;
    const at = this.#columns[0];
    const found = this.#hovered === null ? -1 : at.indexOf(this.#hovered);
    const idx = found < 0 ? at.length - 1 : found;
    this.root.classList.toggle("pointed", found >= 0);
    for (const { series, show } of CARDS) {
      for (const [place] of series) this.#write(place, show(this.#columns[place][idx]));
    }
    const slots = this.#columns[SLOTS][idx];
    this.#write("slots", slots == null ? "no cap" : `of ${count(slots)}`);
    this.#write("moment", found < 0 ? "" : clock(at[idx]));
  }

  #write(name, text) {
    for (const cell of this.root.querySelectorAll(`[data-number="${name}"]`)) {
      if (cell.textContent !== text) cell.textContent = text;
    }
  }
}
