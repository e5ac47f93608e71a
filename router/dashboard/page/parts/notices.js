// Shows whether the page is live, which parts are away, and what was done.

import { ago, clock } from "./format.js";

const SAID_MS = 6000;
const FIRST_EVENT_WITHIN_MS = 5000;

export class Notices {
  #version = null;
  #shown = "";

  constructor() {
    this.place = document.getElementById("notices");
  }

  // Shows the result of an action for a few seconds.
  say = (text, isError = false) => {
    const said = document.getElementById("said");
    said.textContent = text;
    said.className = isError ? "error shown" : "shown";
    clearTimeout(this.saying);
    this.saying = setTimeout(() => (said.className = ""), SAID_MS);
  };

  update(fleet, stream) {
    const { status } = fleet;
    this.#version ??= status?.version ?? null;
    document.documentElement.classList.toggle("stale", !stream.isLive || status?.redis === false);
    this.#parts(fleet, stream);
    this.#notices(this.#found(fleet, stream));
    if (status) document.getElementById("version").textContent = `Version ${status.version}`;
  }

  #parts({ status, now }, stream) {
    const waits = status === null;
    const seconds = stream.lastEventAt === null ? null : (performance.now() - stream.lastEventAt) / 1000;
    if (stream.isLive) part("stream", "good", `Live, ${clock(now)}`);
    else part("stream", waits ? "" : "bad", waits ? "Connecting" : `Stale for ${ago(seconds)}`);
    if (!status) return;
    const known = stream.isLive ? "" : "unknown";
    part("redis", known || (status.redis ? "good" : "bad"), status.redis ? "Redis" : "Redis is away");
    const seen = status.sidecar_s === null ? "has never written" : `seen ${ago(status.sidecar_s)} ago`;
    const isWell = status.leader && !status.is_sidecar_old;
    part("sidecar", known || (isWell && status.redis ? "good" : "bad"), status.leader ? `Sidecar ${seen}` : "No sidecar leads");
  }

  // Returns the notices that are due: for each a key and its text.
  #found({ status, now, history }, stream) {
    const found = [];
    if (!stream.isLive && status) {
      found.push(["stream", `The router does not answer. What you see is as of ${clock(now)}; the page reconnects by itself.`]);
      return found;
    }
    if (!status) {
      if (performance.now() > FIRST_EVENT_WITHIN_MS) {
        found.push(["stream", "The router sends no numbers: 64 dashboards watch this process already, or a proxy holds its events back instead of passing them on as they come."]);
      }
      return found;
    }
    if (!status.redis) {
      const last = history.findLast((entry) => entry[2] !== null);
      const asOf = last ? `as of ${clock(last[0])}` : "not known";
      found.push(["redis", `Redis is away: ${status.redis_because}. Jobs go on, each router by itself; the fleet's numbers are ${asOf}.`]);
    } else if (!status.leader) {
      found.push(["leader", "No sidecar leads, so the workers are not checked. Their health is as the last sidecar saw it."]);
    } else if (status.is_sidecar_old) {
      found.push(["sidecar", "The sidecar has not written for long: the workers' health may have changed."]);
    }
    if (status.quarantined) found.push(["quarantined", `${status.quarantined} ${status.quarantined === 1 ? "job is" : "jobs are"} refused for having broken workers.`]);
    if (status.version !== this.#version) found.push(["version", "The router has another version now: reload this page."]);
    return found;
  }

  // Written only when the notices change, so that a screen reader reads each once.
  #notices(found) {
    const text = JSON.stringify(found);
    if (text === this.#shown) return;
    this.#shown = text;
    this.place.replaceChildren(
      ...found.map(([key, words]) => {
        const notice = document.createElement("p");
        notice.className = "notice";
        notice.dataset.about = key;
        notice.textContent = words;
        return notice;
      }),
    );
  }
}

function part(id, state, words) {
  const item = document.getElementById(id);
  item.className = state;
  const text = item.querySelector("span");
  if (text.textContent !== words) text.textContent = words;
}
