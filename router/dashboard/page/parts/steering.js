// Finds out whether this tab may change the fleet, and changes it through the admin API with the token that the operator
// enters.

import { authorized, detail, keep, kept } from "../model/ask.js";

const QUESTIONS = {
  drain: ["Drain this worker?", (running) => `It gets no new jobs. ${running === 1 ? "The one that runs" : running ? `The ${running} that run` : "What runs"} there will be finished.`],
  resume: ["Resume this worker?", () => "It gets jobs again."],
  remove: ["Remove this worker?", (running) => `It leaves the fleet${running ? "; what it runs will be answered" : ""}. To have it back, it must be added again.`],
};
const DONE = { drain: "is drained", resume: "gets jobs again", remove: "is removed" };

export class Steering {
  #access = null;

  // `say(text, isError)` shows a message; `changed` is called when this tab may do more or less than before.
  constructor(say, changed) {
    this.say = say;
    this.changed = changed;
    this.button = document.getElementById("steering");
    this.dialog = document.getElementById("unlock");
    this.button.addEventListener("click", () => this.#toggle());
    this.dialog.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#unlock();
    });
    for (const cancel of document.querySelectorAll('dialog button[value="no"]')) {
      cancel.addEventListener("click", () => cancel.closest("dialog").close());
    }
    this.dialog.addEventListener("close", () => (document.getElementById("token").value = ""));
  }

  // Asks the router whether this tab may change the fleet.
  async look() {
    try {
      this.#access = await this.#ask(kept());
      if (this.#access.is_wrong) keep(null);
    } catch {
      return; // no router answers; the stream calls this again when one does
    }
    this.#show();
  }

  get may() {
    return this.#access?.may_steer ?? false;
  }

  async steer(act, worker, button) {
    const [title, text] = QUESTIONS[act];
    if (!(await confirmed(title, `${worker.url}\n${text(worker.running)}`, button.textContent, act === "remove"))) return;
    button.setAttribute("aria-disabled", "true");
    try {
      const [method, path] = act === "remove" ? ["DELETE", ""] : ["POST", `/${act}`];
      const answer = await fetch(`admin/workers${path}?url=${encodeURIComponent(worker.url)}`, { method, headers: authorized(kept()) });
      if (answer.ok) this.say(`${worker.url} ${DONE[act]}.`);
      else this.say(`Not done: ${await detail(answer)}`, true);
      if (answer.status === 401 || answer.status === 403) await this.look();
    } catch {
      this.say("Not done: the router cannot be reached.", true);
    } finally {
      button.removeAttribute("aria-disabled");
    }
  }

  async #ask(token) {
    const answer = await fetch("dashboard/access", { headers: authorized(token), cache: "no-store" });
    return answer.json();
  }

  #toggle() {
    if (!this.#access.takes_token) {
      this.say(this.#access.detail); // touch and keys do not show a title
    } else if (this.may) {
      keep(null);
      this.look();
      this.say("Locked: the token is forgotten.");
    } else {
      document.getElementById("token-wrong").textContent = "";
      this.dialog.showModal();
    }
  }

  async #unlock() {
    const wrong = document.getElementById("token-wrong");
    const token = document.getElementById("token").value;
    wrong.textContent = "";
    try {
      const access = await this.#ask(token);
      if (!access.may_steer) {
        wrong.textContent = "That is not the routers' admin token.";
        return;
      }
      keep(token);
      this.#access = access;
      this.#show();
      this.dialog.close();
      this.say("Unlocked: workers can be drained, resumed and removed.");
    } catch {
      wrong.textContent = "The router cannot be reached, or the token has characters that no header can carry.";
    }
  }

  #show() {
    this.changed();
    const { may_steer: may, takes_token: takesToken, detail } = this.#access;
    document.documentElement.classList.toggle("steers", may);
    this.button.hidden = may && !takesToken; // no token is needed on this host
    this.button.textContent = takesToken ? (may ? "Lock" : "Unlock steering") : "Read only";
    this.button.title = takesToken ? "" : detail;
    this.button.setAttribute("aria-disabled", String(!takesToken));
  }
}

// Asks the operator; afterwards the focus returns to where it was.
function confirmed(title, text, name, isDanger) {
  const dialog = document.getElementById("confirm");
  document.getElementById("confirm-title").textContent = title;
  document.getElementById("confirm-text").textContent = text;
  const yes = dialog.querySelector('[value="yes"]');
  yes.textContent = name;
  yes.classList.toggle("danger", isDanger);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}
