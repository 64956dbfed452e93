// The line at the foot of the page: how much is done, how fast, how steadily, and what the learner makes of it.

import { number, percent, say } from "./texts.js";

const BREAK_AFTER = 25 * 60_000; // milliseconds of labelling
const IDLE = 3 * 60_000; // a pause this long is a break

const byId = (id) => document.getElementById(id);

// Of answers that the reward model predicted before it learned from them; of a few it says little, hence the interval.
function describeModel(learner) {
  const { held_out_accuracy: share, held_out_count: many, held_out_low: low, held_out_high: high } = learner ?? {};
  if (typeof share !== "number") return "";
  const shown = { share: percent(share), low: percent(low), high: percent(high) };
  return many ? say("model_sure", { count: many, ...shown }) : say("model_right", shown);
}

export function showFigures(status, unsent) {
  const { done, budget, mine, learner } = status;
  byId("done").textContent = budget ? say("labels_of", { done, count: budget }) : say("labels", { count: done });
  byId("rate").textContent = status.labels_per_hour > 0 ? say("an_hour", { count: number(status.labels_per_hour) }) : "";
  const steady = mine?.repeat_consistency;
  byId("consistency").textContent = typeof steady === "number" ? say("same_again", { share: percent(steady) }) : "";
  byId("learner").textContent = describeModel(learner);
  const progress = byId("progress");
  progress.hidden = !budget;
  if (budget) {
    progress.setAttribute("aria-valuemax", budget);
    progress.setAttribute("aria-valuenow", Math.min(done, budget));
    byId("bar").style.width = `${100 * Math.min(1, done / budget)}%`;
  }
  byId("last").dataset.unsent = unsent;
}

export class BreakReminder {
  constructor() {
    this.began = this.latest = performance.now();
    byId("break-off").addEventListener("click", () => { byId("break").hidden = true; });
  }

  answered() {
    const now = performance.now();
    if (now - this.latest > IDLE) this.began = now;
    this.latest = now;
    if (now - this.began < BREAK_AFTER) return;
    byId("break-text").textContent = say("break", { count: Math.round((now - this.began) / 60_000) });
    byId("break").hidden = false;
    this.began = now;
  }
}
