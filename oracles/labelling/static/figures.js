// The line at the foot of the page: how much is done, how fast, how steadily, and what the learner makes of it.

const BREAK_AFTER = 25 * 60_000; // milliseconds of labelling
const IDLE = 3 * 60_000; // a pause this long is a break

const byId = (id) => document.getElementById(id);
const percent = (share) => `${Math.round(100 * share)} %`;

function count(number, what) { return `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`; }

// Of answers that the reward model predicted before it learned from them; of a few it says little, hence the interval.
function describeModel(learner) {
  const { held_out_accuracy: share, held_out_count: many, held_out_low: low, held_out_high: high } = learner ?? {};
  if (typeof share !== "number") return "";
  const sure = many ? ` of ${count(many, "answer")} (95% interval ${Math.round(100 * low)} to ${percent(high)})` : "";
  return `reward model right: ${percent(share)}${sure}`;
}

export function showFigures(status, unsent) {
  const { done, budget, mine, learner } = status;
  byId("done").textContent = budget ? `${done.toLocaleString("en")} of ${count(budget, "label")}` : count(done, "label");
  byId("rate").textContent = status.labels_per_hour > 0 ? `${Math.round(status.labels_per_hour).toLocaleString("en")} an hour` : "";
  const steady = mine?.repeat_consistency;
  byId("consistency").textContent = typeof steady === "number" ? `same answer again: ${percent(steady)}` : "";
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
    byId("break-text").textContent = `${Math.round((now - this.began) / 60_000)} minutes in one go: a short break keeps answers good.`;
    byId("break").hidden = false;
    this.began = now;
  }
}
