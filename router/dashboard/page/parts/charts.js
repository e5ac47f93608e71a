// Cards with numbers and charts, drawn by uPlot. Pointing at one chart shows the numbers of that moment on all cards of its
// group.

import { clock, clockMinute, day } from "./format.js";
import { text } from "./element.js";

const DAY_S = 86_400;
const MOVES = 300; // a chart is about so many pixels wide
const STEPS_S = [15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 14_400, 21_600];

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// A label that would be cut off at the edge is left out.
function moments({ min, max }, moment, step) {
  if (max - moment < 0.09 * (max - min)) return "";
  return step < 60 ? clock(moment) : clockMinute(moment);
}

export class Charts {
  #columns = { at: [] };
  #latest = {};
  #spanS = 300;
  #hovered = null;
  #charts = [];
  #undrawn = []; // places of the cards that are to be drawn

  // `root` holds for each card a place [data-chart="id"], and places [data-number="name"] for its numbers.
  // A card: { id, series: [{ name, tone, fill, number }], show, floor }; `number` is the name of what is written, if it is
  // another than what is drawn. `write(name, value, isPointed)` returns the text of numbers that are not a series.
  constructor(root, group, cards, write = () => null) {
    this.root = root;
    this.group = group;
    this.cards = cards;
    this.write = write;
    addEventListener("themechange", () => this.#build());
    new ResizeObserver(() => this.#fit()).observe(root);
    this.#build();
  }

  // Draws these columns, by name, over the last `spanS` seconds until `now`. `latest` are the numbers of this moment.
  update(columns, latest, spanS, now) {
    // What has not changed is drawn again when it has moved by a pixel or so.
    const isSame = columns === this.#columns && spanS === this.#spanS && now - this.now < spanS / MOVES;
    this.#latest = latest;
    if (!isSame) {
      this.#columns = columns;
      this.#spanS = spanS;
      this.now = now;
      this.#drawSoon();
    }
    this.#tell();
  }

  // Draws one chart a frame, so that no frame takes long.
  #drawSoon() {
    const isDrawing = this.#undrawn.length > 0;
    this.#undrawn = [...this.cards.keys()];
    if (!isDrawing) requestAnimationFrame(() => this.#drawNext());
  }

  #drawNext() {
    const place = this.#undrawn.shift();
    this.#charts[place].setData(this.#data(this.cards[place]));
    if (this.#undrawn.length) requestAnimationFrame(() => this.#drawNext());
  }

  // Replaces a card's series.
  setSeries(id, series) {
    const place = this.cards.findIndex((card) => card.id === id);
    if (JSON.stringify(this.cards[place].series) === JSON.stringify(series)) return;
    this.cards[place] = { ...this.cards[place], series };
    this.#charts[place].destroy();
    this.#charts[place] = this.#made(this.cards[place]);
  }

  #data({ series }) {
    const { at } = this.#columns;
    return [at, ...series.map(({ name }) => this.#columns[name] ?? at.map(() => null))];
  }

  #build() {
    for (const chart of this.#charts) chart.destroy();
    this.#charts = this.cards.map((card) => this.#made(card));
  }

  #made(card) {
    const place = this.#place(card);
    return new uPlot(this.#options(card, place.clientWidth, place.clientHeight), this.#data(card), place);
  }

  #place({ id }) {
    return this.root.querySelector(`[data-chart="${id}"]`);
  }

  #fit() {
    this.cards.forEach((card, place) => {
      const { clientWidth: width, clientHeight: height } = this.#place(card);
      if (width && width !== this.#charts[place].width) this.#charts[place].setSize({ width, height });
    });
  }

  #options({ series, show, floor }, width, height) {
    const font = "11px system-ui, sans-serif";
    const axis = { font, stroke: css("--muted"), ticks: { show: false } };
    const grid = { stroke: css("--grid"), width: 1 };
    return {
      width: width || 300,
      height,
      padding: [8, 8, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: this.group }, y: false, drag: { x: false, y: false }, points: { size: 7 } },
      scales: {
        x: { range: () => [(this.now ?? 0) - this.#spanS, this.now ?? this.#spanS] },
        y: { range: (_, __, most) => [0, Math.max(floor, (most ?? 0) * 1.15)] },
      },
      axes: [
        {
          ...axis,
          size: 26,
          space: 64,
          grid: { show: false },
          incrs: STEPS_S,
          values: (chart, at, __, ___, step) => at.map((moment) => moments(chart.scales.x, moment, step)),
        },
        { ...axis, size: 52, space: 26, grid, values: (_, at) => at.map((value) => (value ? show(value).replace(".0", "") : "0")) },
      ],
      series: [
        {},
        ...series.map(({ tone, fill }) => ({
          stroke: css(tone),
          width: fill === tone ? 0.5 : 1.75,
          fill: fill ? css(fill) : undefined,
          points: { show: false },
        })),
      ],
      hooks: { setCursor: [(chart) => this.#point(chart)] },
    };
  }

  #point(chart) {
    const idx = chart.cursor.idx ?? null;
    const hovered = idx === null ? null : (this.#columns.at[idx] ?? null);
    if (hovered === this.#hovered) return;
    this.#hovered = hovered;
    this.#tell();
  }

  // Writes the numbers of the moment under the pointer, or the latest.
  #tell() {
    const { at } = this.#columns;
    const found = this.#hovered === null ? -1 : at.indexOf(this.#hovered);
    const isPointed = found >= 0;
    this.root.classList.toggle("pointed", isPointed);
    const shows = new Map(this.cards.flatMap(({ series, show }) => series.map(({ name, number }) => [number ?? name, show])));
    for (const cell of this.root.querySelectorAll("[data-number]")) {
      const name = cell.dataset.number;
      const value = isPointed ? this.#value(name, found) : name in this.#latest ? this.#latest[name] : this.#last(name);
      if (name === "moment") text(cell, isPointed ? this.#moment(at[found]) : "");
      else text(cell, shows.get(name)?.(value) ?? this.write(name, value, isPointed) ?? "");
    }
  }

  #moment(at) {
    return this.#spanS < DAY_S ? clock(at) : day(at);
  }

  // Numbers that come every ten seconds are undefined at the moments between, and stand until the next.
  #value(name, found) {
    const column = this.#columns[name] ?? [];
    let place = found;
    while (place > 0 && column[place] === undefined && found - place < 15) place -= 1;
    return column[place];
  }

  #last(name) {
    const column = this.#columns[name] ?? [];
    const place = column.findLastIndex((value) => value !== undefined);
    return place < 0 ? null : (column[place] ?? column[place - 1]);
  }
}
