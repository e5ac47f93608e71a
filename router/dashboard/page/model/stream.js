// Keeps the event stream open: reopens it when it breaks, and closes it while the page is hidden for long.

const SILENT_MS = 5000; // events come every second
const RETRY_MS = 2000;
const HIDDEN_MS = 60_000;

export class Stream {
  isLive = false;
  lastEventAt = null;
  #source = null;
  #openedAt = 0;
  #hiddenSince = null;

  // `on` has the functions whole, tick (returns false if it needs the whole) and change (called when isLive changes).
  constructor(address, on) {
    this.address = address;
    this.on = on;
    document.addEventListener("visibilitychange", () => this.#look());
    addEventListener("pagehide", () => this.#close());
    addEventListener("pageshow", () => this.#look());
    setInterval(() => this.#look(), 1000);
    this.#open();
  }

  #open() {
    this.#close();
    this.#openedAt = performance.now();
    const source = new EventSource(this.address);
    this.#source = source;
    const received = (handle) => (event) => {
      if (source !== this.#source) return;
      this.lastEventAt = performance.now();
      if (handle(JSON.parse(event.data)) === false) this.#open();
      else this.#be(true);
    };
    source.addEventListener("whole", received(this.on.whole));
    source.addEventListener("tick", received(this.on.tick));
    source.addEventListener("error", () => source === this.#source && this.#be(false));
  }

  #close() {
    this.#source?.close();
    this.#source = null;
  }

  #look() {
    const now = performance.now();
    this.#hiddenSince = document.hidden ? (this.#hiddenSince ?? now) : null;
    if (this.#hiddenSince !== null && now - this.#hiddenSince > HIDDEN_MS) {
      this.#close();
      this.#be(false);
      return;
    }
    const silentMs = now - Math.max(this.#openedAt, this.lastEventAt ?? 0);
    if (silentMs > SILENT_MS) this.#be(false);
    const isOver = this.#source === null || this.#source.readyState === EventSource.CLOSED;
    if (silentMs > SILENT_MS || (isOver && now - this.#openedAt > RETRY_MS)) this.#open();
  }

  #be(isLive) {
    if (isLive === this.isLive) return;
    this.isLive = isLive;
    this.on.change();
  }
}
