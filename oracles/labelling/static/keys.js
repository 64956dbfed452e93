// Keys: what each does, by its letter or by its place on the keyboard, and the list in which they are changed.

const HELD = 1100; // milliseconds between two presses of a key that was not let go, at most
const STORED = "prefenvs/keys";

// Names of keys as browsers give them; what each does, for the list.
const ACTIONS = {
  left: { key: "ArrowLeft", what: "the left (upper) clip is better" },
  right: { key: "ArrowRight", what: "the right (lower) clip is better" },
  equal: { key: "ArrowUp", what: "equally good" },
  bad: { key: "b", what: "both (all) are bad" },
  skip: { key: "ArrowDown", what: "cannot tell" },
  clip1: { key: "1", what: "clip 1 is the best; rating: very bad" },
  clip2: { key: "2", what: "clip 2; bad" },
  clip3: { key: "3", what: "clip 3; so-so" },
  clip4: { key: "4", what: "clip 4; good" },
  clip5: { key: "5", what: "very good" },
  tag1: { key: "6", what: "first reason" },
  tag2: { key: "7", what: "second reason" },
  tag3: { key: "8", what: "third reason" },
  tag4: { key: "9", what: "fourth reason" },
  tag5: { key: "0", what: "fifth reason" },
  undo: { key: "u", what: "undo the last answer" },
  replay: { key: "r", what: "play again from the start" },
  pause: { key: " ", what: "pause, play" },
  back: { key: ",", what: "one frame back" },
  forward: { key: ".", what: "one frame forward" },
  speed: { key: "s", what: "slower; with Shift faster" },
  reason: { key: "n", what: "type a reason; Enter returns to the keys" },
  panel: { key: "t", what: "show or fold away the tools" },
  help: { key: "?", what: "this list" },
};
const ALSO = { Backspace: "undo" };
const FACES = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", " ": "Space" };
const PUNCTUATION = { Comma: ",", Period: ".", Space: " " };

const byId = (id) => document.getElementById(id);

// The key that a keyboard with Latin letters has in this place.
function keyAt(code) {
  return PUNCTUATION[code] ?? /^(?:Key|Digit|Numpad)(.)$/.exec(code)?.[1].toLowerCase() ?? code;
}

function plain(key) { return key.length === 1 ? key.toLowerCase() : key; }

function face(key) { return FACES[key] ?? (key.length === 1 ? key.toUpperCase() : key); }

export class Keys {
  // `changed()` is called when somebody has given an action another key.
  constructor(changed) {
    this.changed = changed;
    this.pressed = new Map(); // when each key that is down was last heard of
    this.own = {}; // by action: {code, key} of the key that somebody chose for it
    this.asking = null;
    try { this.own = JSON.parse(localStorage.getItem(STORED)) ?? {}; } catch { /* storage is off: the keys are as they come */ }
    byId("keys-reset").addEventListener("click", () => { this.own = {}; this.asking = null; this.save(); });
    document.addEventListener("keyup", (event) => this.pressed.delete(event.code || event.key));
    window.addEventListener("blur", () => this.pressed.clear());
    this.render();
  }

  // What a key does: first a key that was chosen, then its letter, then its place, unless that has a Latin letter.
  find(event) {
    const chosen = Object.keys(this.own).find((action) => this.own[action].code === event.code);
    if (chosen) return chosen;
    const key = plain(event.key);
    const by = (wanted) => Object.keys(ACTIONS).find((action) => !this.own[action] && ACTIONS[action].key === wanted);
    return by(key) ?? ALSO[key] ?? (/^[a-z]$/.test(key) ? undefined : by(keyAt(event.code)));
  }

  // Tell whether Shift is held for its own sake; the digits of some keyboards need it.
  withShift(event) { return event.shiftKey && !/^[0-9]$/.test(event.key); }

  // Tell whether a key is being held down; some remote desktops send presses without saying that they are repeated.
  isRepeated(event) {
    const last = this.pressed.get(event.code || event.key);
    this.pressed.set(event.code || event.key, event.timeStamp);
    return event.repeat || (last !== undefined && event.timeStamp - last < HELD);
  }

  face(action) { return this.own[action] ? face(this.own[action].key) : face(ACTIONS[action].key); }

  // Take a key for the action that waits for one; tells whether one did.
  take(event) {
    if (!this.asking || ["Shift", "Control", "Alt", "Meta"].includes(event.key)) return this.asking !== null;
    event.preventDefault();
    const action = this.asking;
    this.asking = null;
    const taken = this.find(event);
    if (event.key === "Escape" || event.key === "Tab") {
      byId("keys-text").textContent = "Nothing was changed.";
    } else if (taken && taken !== action) {
      byId("keys-text").textContent = `${face(event.key)} is taken: ${ACTIONS[taken].what}. Change that key first.`;
    } else {
      this.own[action] = { code: event.code, key: event.key };
      byId("keys-text").textContent = `${face(event.key)}: ${ACTIONS[action].what}.`;
    }
    this.save();
    byId("keys").querySelector(`[data-change=${action}]`).focus();
    return true;
  }

  save() {
    try { localStorage.setItem(STORED, JSON.stringify(this.own)); } catch { /* storage is off: until the page is closed */ }
    this.render();
    this.changed();
  }

  // Write the list, and the faces of keys wherever they stand on the page.
  render() {
    byId("keys").replaceChildren(...Object.entries(ACTIONS).map(([action, { what }]) => {
      const [row, term, key, text, change] = ["div", "dt", "kbd", "dd", "button"].map((tag) => document.createElement(tag));
      key.textContent = this.asking === action ? "…" : this.face(action);
      text.textContent = this.asking === action ? "press a key; Esc leaves it as it was" : what;
      Object.assign(change, { type: "button", textContent: "Change" });
      change.dataset.change = action;
      change.setAttribute("aria-label", `Change the key of: ${what}`);
      change.addEventListener("click", () => { this.asking = action; this.render(); byId("keys").querySelector(`[data-change=${action}]`).focus(); });
      term.append(key);
      row.append(term, text, change);
      return row;
    }));
    for (const node of document.querySelectorAll("kbd[data-key]")) {
      const button = node.closest("button");
      node.textContent = this.face(node.dataset.key);
      button?.setAttribute("aria-keyshortcuts", node.dataset.key === "pause" && !this.own.pause ? "Space" : this.face(node.dataset.key));
    }
  }
}
