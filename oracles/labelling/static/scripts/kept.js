// Answers that are not on their way: those the server rejected, and those of another store or person in this browser.

import { say } from "./texts.js";

const byId = (id) => document.getElementById(id);
const KEY = /^prefenvs\/([^/]*)\/(.*)\/(answer|refused)\/[0-9a-f-]{36}$/;
const MOST_LINES = 5;

// All answers in this browser's storage, as {store, annotator, state, content}.
function stored() {
  const found = [];
  try {
    for (let i = 0; i < localStorage.length; i++) {
      const [key, store, annotator, state] = KEY.exec(localStorage.key(i)) ?? [];
      if (!key) continue;
      const text = localStorage.getItem(key);
      let content = text;
      try { content = JSON.parse(text); } catch { /* unreadable: exported as it is */ }
      found.push({ store, annotator, state, content });
    }
  } catch { /* storage is off: what the outbox holds is all there is */ }
  return found;
}

export class Kept {
  // Shows what `outbox()` keeps aside and what the storage holds beyond `prefix()`, with the ways out.
  constructor(outbox, prefix) {
    this.outbox = outbox;
    this.prefix = prefix;
    this.hidden = 0;
    byId("kept-send").addEventListener("click", () => { this.hidden = 0; this.outbox()?.resend(); });
    byId("kept-export").addEventListener("click", () => { this.export(); });
    byId("kept-hide").addEventListener("click", () => { this.hidden = this.total; this.render(); });
  }

  // Read once for a session: other stores' answers change only when they are served here.
  readOthers() {
    const own = this.prefix();
    this.others = stored().filter(({ store, annotator }) => `prefenvs/${store}/${annotator}/` !== own).length;
  }

  render() {
    const rejected = [...(this.outbox()?.rejected.values() ?? [])];
    const stuck = this.outbox()?.stuck.size ?? 0;
    const others = this.others ?? 0;
    this.total = rejected.length + stuck + others;
    byId("kept").hidden = this.total <= this.hidden;
    if (byId("kept").hidden) return;
    const words = [];
    if (rejected.length) words.push(say("kept_rejected", { count: rejected.length }));
    if (stuck) words.push(say("kept_stuck", { count: stuck }));
    if (others) words.push(say("kept_others", { count: others }));
    byId("kept-text").textContent = [...words, say("kept_safe")].join(" ");
    byId("kept-list").replaceChildren(...rejected.slice(-MOST_LINES).map(({ about, reason }) => {
      const line = document.createElement("li");
      line.textContent = `${about?.name ?? say("an_answer")}: ${reason}`;
      return line;
    }));
    byId("kept-send").hidden = rejected.length === 0;
  }

  // Hand over, as one JSON file, every answer that this browser keeps.
  export() {
    const outbox = this.outbox();
    const answers = stored();
    const there = new Set(answers.map(({ content }) => content?.answer?.uuid));
    for (const [state, items] of [["answer", outbox?.items], ["refused", outbox?.rejected]]) {
      const [, store, ...name] = (this.prefix() || "prefenvs//").split("/");
      const annotator = name.slice(0, -1).join("/");
      for (const content of items?.values() ?? []) {
        if (!there.has(content.answer.uuid)) answers.push({ store, annotator, state, content });
      }
    }
    const page = { format: "prefenvs.answers", exported: new Date().toISOString(), origin: location.origin, answers };
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(page, null, 1)], { type: "application/json" }));
    link.download = "prefenvs-answers.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }
}
