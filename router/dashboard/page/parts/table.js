// A table: sorted, one page at a time, and saved as a file. Only cells that have changed are written.

import { attribute, make, text } from "./element.js";
import { addExport } from "./export.js";
import { count } from "./format.js";

const PAGE = 50;
const HELD_MS = 10_000; // a pointer that rests longer no longer holds the rows in place

// Columns of numbers sort descending first.
function compared(one, other) {
  return typeof one === "string" ? one.localeCompare(other) : one - other;
}

export class Table {
  #all = [];
  #found = [];
  #shown = [];
  #rows = new Map(); // by key: the elements of each row on this page
  #sort = { column: null, isAscending: true };
  #page = 0;
  #pointedAt = -HELD_MS;

  // `place` is an empty element. `spec` has:
  //   name, caption: what the rows are, and of the whole table
  //   columns: { id, name, isNumber, by, make }; `by(item)` is the sort key, if the column sorts; `make(cell)` returns a
  //     function that writes an item into the cell. The first column names the row.
  //   key(item); record(item): the item as an object for files
  //   sort: the id of the column that sorts at first, "-" before it: descending; null: the items come in order
  //   changed({ sort, page }): the operator has sorted or turned a page
  constructor(place, spec) {
    this.spec = spec;
    this.place = place;
    place.classList.add("listed");
    this.body = make("tbody");
    this.#build();
    // Rows keep their places while the pointer or the focus is on them, so that a click hits the row that was aimed at.
    this.body.addEventListener("pointermove", () => (this.#pointedAt = performance.now()));
    this.body.addEventListener("pointerleave", () => (this.#pointedAt = -HELD_MS));
    this.arrange({});
  }

  // Sorts and turns to a page as the address says.
  arrange({ sort, page }) {
    const named = sort || this.spec.sort || "";
    const column = this.spec.columns.find(({ id, by }) => by && id === named.replace(/^-/, "")) ?? null;
    this.#sort = { column, isAscending: !named.startsWith("-") };
    this.#page = Math.max(0, (Number(page) || 1) - 1);
    this.#markSort();
  }

  // Shows the `found` of all items, and `empty` if there is none. `isNew`: the operator asked for others, so nothing is held.
  show(all, found, empty, isNew = false) {
    this.#all = all;
    this.#found = found;
    text(this.empty, empty);
    const isPointed = performance.now() - this.#pointedAt < HELD_MS;
    this.#draw(!isNew && (isPointed || this.body.contains(document.activeElement)));
  }

  turnTo(page) {
    this.#page = page;
  }

  item(key) {
    return this.#shown.find((each) => this.spec.key(each) === key);
  }

  get found() {
    return this.#found;
  }

  #build() {
    const { name, caption, columns } = this.spec;
    const table = make("table", "", make("caption", "unseen", caption));
    const head = make("tr");
    for (const column of columns) head.append(this.#header(column));
    table.append(make("thead", "", head), this.body);
    // Named, because browsers forget what a table is if its cells are laid out as on a phone.
    for (const [part, role] of [[table, "table"], [table.tHead, "rowgroup"], [this.body, "rowgroup"], [head, "row"]]) part.setAttribute("role", role);
    const scroll = make("div", "scroll", table);
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", caption);
    this.empty = make("p", "empty");
    this.pages = make("nav", "pages");
    this.pages.setAttribute("aria-label", `Pages of ${name}`);
    this.pages.append(this.#turner("Previous", -1), make("span"), this.#turner("Next", 1));
    this.place.append(scroll, this.empty, this.pages);
  }

  // Adds buttons that save all rows that match.
  addExport(place) {
    addExport(place, this.spec.name, () => this.#sorted().map(this.spec.record));
  }

  #header(column) {
    const cell = make("th", column.isNumber ? `number ${column.id}` : column.id);
    cell.scope = "col";
    cell.setAttribute("role", "columnheader");
    if (column.by) {
      const button = make("button", "", column.name);
      button.type = "button";
      button.addEventListener("click", () => this.#sortBy(column));
      cell.append(button);
    } else {
      cell.textContent = column.name;
    }
    if (column.title) cell.title = column.title;
    column.cell = cell;
    return cell;
  }

  #turner(words, step) {
    const button = make("button", "quiet", words);
    button.type = "button";
    button.dataset.step = step;
    button.addEventListener("click", () => {
      this.#page += step;
      this.#tellChange();
      this.#draw(false);
      // The last page disables this button, which would lose the focus.
      if (button.disabled) this.pages.querySelector("button:not(:disabled)")?.focus({ preventScroll: true });
      this.place.closest("section").scrollIntoView({ block: "start" });
    });
    return button;
  }

  #sortBy(column) {
    const isSame = column === this.#sort.column;
    this.#sort = { column, isAscending: isSame ? !this.#sort.isAscending : !column.isNumber };
    this.#page = 0;
    this.#markSort();
    this.#tellChange();
    this.#draw(false);
  }

  #tellChange() {
    const { column, isAscending } = this.#sort;
    const sort = column ? `${isAscending ? "" : "-"}${column.id}` : null;
    this.spec.changed({ sort: sort === (this.spec.sort ?? null) ? null : sort, page: this.#page ? this.#page + 1 : null });
  }

  #markSort() {
    for (const column of this.spec.columns) {
      if (column === this.#sort.column) column.cell.setAttribute("aria-sort", this.#sort.isAscending ? "ascending" : "descending");
      else column.cell.removeAttribute("aria-sort");
    }
  }

  #sorted() {
    const { column, isAscending } = this.#sort;
    if (!column) return this.#found;
    const sign = isAscending ? 1 : -1;
    const keyed = this.#found.map((item, place) => ({ item, place, by: column.by(item) }));
    keyed.sort((one, other) => sign * compared(one.by, other.by) || one.place - other.place);
    return keyed.map(({ item }) => item);
  }

  #draw(isHeld) {
    const { key } = this.spec;
    const last = Math.max(0, Math.ceil(this.#found.length / PAGE) - 1);
    this.#page = Math.min(Math.max(0, this.#page), last);
    const from = this.#page * PAGE;
    const sorted = this.#sorted();
    if (isHeld) {
      const known = new Map(this.#all.map((item) => [key(item), item]));
      const kept = this.#shown.map((item) => known.get(key(item))).filter(Boolean);
      const isKept = new Set(kept);
      const others = sorted.slice(from).filter((item) => !isKept.has(item));
      this.#shown = [...kept, ...others.slice(0, PAGE - kept.length)];
    } else {
      this.#shown = sorted.slice(from, from + PAGE);
    }
    this.#write();
    this.#tell(from, last);
  }

  #write() {
    const { key } = this.spec;
    const wanted = new Set(this.#shown.map(key));
    for (const [name, { row }] of this.#rows) {
      if (wanted.has(name)) continue;
      row.remove();
      this.#rows.delete(name);
    }
    this.#shown.forEach((item, place) => {
      const name = key(item);
      if (!this.#rows.has(name)) this.#rows.set(name, this.#made(name));
      const { row, writers } = this.#rows.get(name);
      if (this.body.children[place] !== row) this.body.insertBefore(row, this.body.children[place] ?? null);
      for (const write of writers) write(item);
    });
  }

  #made(name) {
    const row = make("tr");
    row.dataset.key = name;
    row.setAttribute("role", "row");
    const writers = this.spec.columns.map((column, place) => {
      const cell = make(place ? "td" : "th", column.isNumber ? `number ${column.id}` : column.id);
      if (!place) cell.scope = "row";
      cell.setAttribute("role", place ? "cell" : "rowheader");
      cell.dataset.name = column.name; // shown beside the value on a phone
      row.append(cell);
      return column.make(cell, row);
    });
    return { row, writers };
  }

  #tell(from, last) {
    attribute(this.place, "data-rows", String(this.#found.length));
    this.empty.hidden = this.#shown.length > 0;
    this.pages.hidden = last === 0;
    const [previous, shown, next] = this.pages.children;
    text(shown, `${count(from + 1)}–${count(Math.min(from + PAGE, this.#found.length))} of ${count(this.#found.length)}`);
    previous.disabled = this.#page === 0;
    next.disabled = this.#page === last;
  }
}

// Columns whose cells hold one text.
export const words = (value) => (cell) => (item) => text(cell, value(item));
