// Repeats a question while its answer is wanted: at once, and then every `everyMs`. A hidden page asks nothing.

import { trouble } from "./ask.js";

export class Poll {
  trouble = ""; // why the last question has failed, in words
  #isWanted = false;
  #isAsking = false;
  #timer = null;

  // `question` is asked and takes its answer; `changed` is called after each time.
  constructor(everyMs, question, changed) {
    this.everyMs = everyMs;
    this.question = question;
    this.changed = changed;
    document.addEventListener("visibilitychange", () => document.hidden || this.now());
  }

  want(isWanted) {
    const begins = isWanted && !this.#isWanted;
    this.#isWanted = isWanted;
    if (begins) this.now();
  }

  // Asks at once, also if a question is on its way.
  async now() {
    if (!this.#isWanted || document.hidden) return;
    if (this.#isAsking) {
      this.isDue = true;
      return;
    }
    clearTimeout(this.#timer);
    this.#isAsking = true;
    this.isDue = false;
    try {
      await this.question();
      this.trouble = "";
    } catch (error) {
      this.trouble = trouble(error);
    }
    this.#isAsking = false;
    this.changed();
    this.#timer = setTimeout(() => this.now(), this.isDue ? 0 : this.everyMs);
  }
}
