// Answers on their way: each stays in localStorage, under a key of its own, until the server has it on its disk.

const BATCH_BYTES = 48 * 1024;
const BATCH_COUNT = 50;

export function makeUuid() {
  // crypto.randomUUID exists in secure contexts only; a team's server on plain HTTP is none.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

// What an answer is about, for whoever has nothing but an export of it.
export function describe(question, name) {
  return { name, query: question.query, task: question.task, kind: question.kind, clips: question.clips.map((clip) => clip.hash) };
}

export class Outbox {
  // `post(answers)` returns {accepted, rejected}, or throws an error whose `status` is the HTTP status, if there was one.
  // `changed()` is called whenever the number of unsent answers or `error` changes; `refused(answer, reason)` once for
  // each that the server rejects. Only what the server names leaves: accepted for good, or rejected and kept aside.
  constructor(prefix, post, changed, refused) {
    this.prefix = `${prefix}answer/`;
    this.aside = `${prefix}refused/`;
    this.post = post;
    this.changed = changed;
    this.refused = refused;
    this.error = null;
    this.durable = true;
    this.items = new Map();
    this.rejected = new Map();
    this.stuck = new Set();
    this.alone = false;
    this.wait = 0;
    this.timer = null;
    this.busy = false;
    this.load(this.prefix, this.items);
    this.load(this.aside, this.rejected);
  }

  load(prefix, items) {
    const found = [];
    try {
      for (let i = 0; i < localStorage.length; i++) {
        const key = localStorage.key(i);
        if (!key.startsWith(prefix)) continue;
        try { found.push(JSON.parse(localStorage.getItem(key))); } catch { /* unreadable: left for whoever can read it */ }
      }
    } catch { this.durable = false; }
    found.sort((a, b) => a.order - b.order);
    for (const item of found) items.set(item.answer.uuid, item);
  }

  get count() { return this.items.size; }

  get answers() { return [...this.items.values()].map((item) => item.answer); }

  // `about` says what was asked; it stays in the browser, for whoever reads an export.
  add(answer, about) {
    const last = [...this.items.values()].at(-1);
    this.keep({ order: Math.max(Date.now(), last ? last.order + 1 : 0), answer, about });
    this.changed();
    this.send();
  }

  keep(item) {
    this.items.set(item.answer.uuid, item);
    try { localStorage.setItem(this.prefix + item.answer.uuid, JSON.stringify(item)); } catch { this.durable = false; }
  }

  // Try at once, whatever was planned: the network is back, or the tab is looked at again.
  retry() {
    this.wait = 0;
    this.send();
  }

  // Somebody wants the rejected ones tried again.
  resend() {
    for (const [uuid, { reason, ...item }] of this.rejected) {
      this.rejected.delete(uuid);
      this.keep(item);
      try { localStorage.removeItem(this.aside + uuid); } catch { /* storage is off */ }
    }
    this.changed();
    this.retry();
  }

  async send() {
    clearTimeout(this.timer);
    if (this.busy || this.items.size === 0) return;
    this.busy = true;
    const batch = this.batch();
    try {
      this.settle(await this.post(batch));
      this.error = null;
      this.wait = 0;
    } catch (error) {
      this.fail(batch, error);
    }
    this.busy = false;
    this.changed();
    if (this.items.size > 0) this.timer = setTimeout(() => this.send(), this.wait);
  }

  batch() {
    const batch = [];
    let bytes = 0;
    for (const { answer } of this.items.values()) {
      bytes += new TextEncoder().encode(JSON.stringify(answer)).length + 1;
      if (batch.length > 0 && (this.alone || bytes > BATCH_BYTES || batch.length >= BATCH_COUNT)) break;
      batch.push(answer);
    }
    return batch;
  }

  settle({ accepted, rejected }) {
    for (const uuid of accepted) this.remove(uuid);
    for (const { uuid, reason } of rejected) this.refuse(uuid, reason);
    // An answer the server says nothing about stays and is sent again.
    this.alone = this.alone && this.items.size > 0;
  }

  fail(batch, error) {
    this.error = error;
    const malformed = [400, 413, 415, 422].includes(error.status);
    // One at a time finds the one that is not understood, by the server or by something before it.
    if (malformed && batch.length > 1) {
      this.alone = true;
      return;
    }
    if (malformed) this.postpone(batch[0]);
    this.wait = Math.min(10_000, Math.max(500, this.wait * 2));
  }

  // Let the others go first, except those that belong to the same question, whose order counts.
  postpone(answer) {
    this.stuck.add(answer.uuid);
    for (const [uuid, item] of [...this.items]) {
      if (item.answer.question !== answer.question) continue;
      this.items.delete(uuid);
      this.items.set(uuid, item);
    }
  }

  refuse(uuid, reason) {
    const item = this.items.get(uuid);
    if (!item) return;
    this.rejected.set(uuid, { ...item, reason });
    try {
      localStorage.setItem(this.aside + uuid, JSON.stringify({ ...item, reason }));
      this.remove(uuid);
    } catch {
      // No room to keep it aside: it stays where it is, and is sent and rejected again after a reload.
      this.items.delete(uuid);
    }
    this.refused(item.answer, reason);
  }

  remove(uuid) {
    this.items.delete(uuid);
    this.stuck.delete(uuid);
    try { localStorage.removeItem(this.prefix + uuid); } catch { /* storage is off */ }
  }
}
