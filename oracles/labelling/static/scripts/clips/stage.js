// The place of the clips: as large as the window allows, side by side or one above the other, whichever shows more.

const GAP = 8; // pixels between clips

export class Stage {
  // `changed()` is called when clips come to lie otherwise.
  constructor(root, changed) {
    this.root = root;
    this.changed = changed;
    this.shapes = [1, 1];
    this.strip = 0;
    this.columns = 2;
    this.side = 0;
    new ResizeObserver(() => this.fit()).observe(root);
  }

  // Make room for clips of these widths over heights, each with `strip` pixels of key frames under it.
  hold(shapes, strip) {
    Object.assign(this, { shapes, strip });
    this.fit();
  }

  get stacked() { return this.columns === 1 && this.shapes.length > 1; }

  // Pixels of the screen that the longer side of a clip takes.
  get pixels() { return Math.round(this.side * Math.min(2, window.devicePixelRatio || 1)); }

  fit() {
    const { clientWidth: width, clientHeight: height } = this.root;
    if (!width || !height) return;
    const shape = Math.max(...this.shapes);
    const count = this.shapes.length;
    let best = { side: 0, columns: count };
    for (let columns = count; columns >= 1; columns--) {
      const rows = Math.ceil(count / columns);
      const wide = (width - GAP * (columns - 1)) / columns;
      const high = (height - GAP * (rows - 1)) / rows - this.strip;
      const side = Math.min(wide, high * shape);
      if (side > best.side + 1) best = { side, columns };
    }
    const moved = best.columns !== this.columns;
    Object.assign(this, { columns: best.columns, side: Math.max(best.side, best.side / shape) });
    this.root.style.setProperty("--columns", best.columns);
    this.root.style.setProperty("--gap", `${GAP}px`);
    this.root.classList.toggle("stacked", this.stacked);
    if (moved) this.changed();
  }

  // Light up the clips that were chosen, for a moment, over whatever comes next in their place.
  flash(pictures) {
    const around = this.root.getBoundingClientRect();
    for (const picture of pictures) {
      const box = picture.getBoundingClientRect();
      const mark = document.createElement("div");
      mark.className = "flash";
      Object.assign(mark.style, {
        left: `${box.left - around.left}px`, top: `${box.top - around.top}px`, width: `${box.width}px`, height: `${box.height}px`,
      });
      this.root.append(mark);
      setTimeout(() => mark.remove(), 350);
    }
  }
}
