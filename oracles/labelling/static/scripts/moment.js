// The moment that decided: a stretch of the clips that somebody marks, as far as all of them run.

import { decimal, say } from "./texts.js";

const SHORTEST = 0.1; // seconds

const byId = (id) => document.getElementById(id);

export class Moment {
  constructor() { this.clear(); }

  clear() { Object.assign(this, { from: null, to: null, player: null }); }

  // Mark where the moment begins, then where it ends; then clear it.
  press(player) {
    if (this.to !== null) this.clear();
    else if (this.from === null) this.from = this.within(player, player.time);
    else this.to = this.within(player, player.time);
    this.player = player;
    // The clips may have begun anew meanwhile.
    if (this.to !== null && this.to < this.from) [this.from, this.to] = [this.to, this.from];
    if (this.to !== null && this.to - this.from < SHORTEST) this.to = null;
    this.render();
    byId("announce").textContent = this.from === null ? say("moment_cleared")
      : say(this.to === null ? "moment_begins" : "moment_announced", this.words);
  }

  restore(player, range) {
    Object.assign(this, { player, from: range?.[0] ?? null, to: range?.[1] ?? null });
    this.render();
  }

  // What is posted: [from, to] in seconds; a moment that was only begun lasts to the end.
  get range() {
    if (this.from === null) return null;
    const to = this.to ?? this.player.shortest;
    return to - this.from < SHORTEST ? null : [this.from, to];
  }

  get words() { return { from: decimal(this.from), to: decimal(this.to ?? this.player.shortest) }; }

  within(player, time) { return Number(Math.min(time, player.shortest).toFixed(3)); }

  render() {
    const begun = this.from !== null;
    byId("moment").lastElementChild.textContent = !begun ? say("moment")
      : say(this.to === null ? "moment_begun" : "moment_marked", this.words);
    byId("marked").hidden = !begun;
    if (!begun) return;
    const share = (time) => (100 * time) / this.player.longest;
    const to = this.to ?? this.player.shortest;
    Object.assign(byId("marked").style, { left: `${share(this.from)}%`, width: `${share(to - this.from)}%` });
  }
}
