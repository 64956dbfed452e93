// Keys: what each does, by its letter or by its place on the keyboard, and the list in which they are changed.

import { say } from "./texts.js";

const HELD = 1100; // milliseconds between two presses of a key that was not let go, at most
const STORED = "prefenvs/keys";

// The key of each action, by the name that browsers give it.
const ACTIONS = {
  left: "ArrowLeft", right: "ArrowRight", equal: "ArrowUp", bad: "b", skip: "ArrowDown", clip1: "1", clip2: "2",
  clip3: "3", clip4: "4", clip5: "5", tag1: "6", tag2: "7", tag3: "8", tag4: "9", tag5: "0", undo: "u", replay: "r",
  pause: " ", back: ",", forward: ".", speed: "s", moment: "m", reason: "n", panel: "t", help: "?",
};
const ALSO = { Backspace: "undo" };
const FACES = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", " ": say("space") };
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
    const by = (wanted) => Object.keys(ACTIONS).find((action) => !this.own[action] && ACTIONS[action] === wanted);
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

  face(action) { return face(this.own[action]?.key ?? ACTIONS[action]); }

  // The same for `aria-keyshortcuts`, where keys have the names that browsers give them.
  shortcut(action) {
    const key = this.own[action]?.key ?? ACTIONS[action];
    return key === " " ? "Space" : key.length === 1 ? key.toUpperCase() : key;
  }

  // Take a key for the action that waits for one; tells whether one did.
  take(event) {
    if (!this.asking || ["Shift", "Control", "Alt", "Meta"].includes(event.key)) return this.asking !== null;
    event.preventDefault();
    const action = this.asking;
    this.asking = null;
    const taken = this.find(event);
    if (event.key === "Escape" || event.key === "Tab") {
      byId("keys-text").textContent = say("unchanged");
    } else if (taken && taken !== action) {
      byId("keys-text").textContent = say("taken", { key: face(event.key), what: say(`key_${taken}`) });
    } else {
      this.own[action] = { code: event.code, key: event.key };
      byId("keys-text").textContent = say("changed", { key: face(event.key), what: say(`key_${action}`) });
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
    byId("keys").replaceChildren(...Object.keys(ACTIONS).map((action) => {
      const what = say(`key_${action}`);
      const [row, term, key, text, end, change] = ["div", "dt", "kbd", "dd", "dd", "button"].map((tag) => document.createElement(tag));
      key.textContent = this.asking === action ? "…" : this.face(action);
      text.textContent = this.asking === action ? say("press_key") : what;
      Object.assign(change, { type: "button", textContent: say("change") });
      change.dataset.change = action;
      change.setAttribute("aria-label", say("change_of", { what }));
      change.addEventListener("click", () => { this.asking = action; this.render(); byId("keys").querySelector(`[data-change=${action}]`).focus(); });
      term.append(key);
      end.append(change);
      row.append(term, text, end);
      return row;
    }));
    for (const node of document.querySelectorAll("kbd[data-key]")) {
      node.textContent = this.face(node.dataset.key);
      const used = node.closest("button") ?? byId(node.closest("label").htmlFor);
      used.setAttribute("aria-keyshortcuts", this.shortcut(node.dataset.key));
    }
  }
}
