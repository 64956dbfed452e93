// Key frames of a long clip, side by side: taken from the clip itself by a second, hidden video.

import { decimal, say } from "../texts.js";

export const LONG = 4; // seconds from which a clip has a strip
export const HEIGHT = 56; // pixels that it takes
const COUNT = 6;

function once(video, name) {
  return new Promise((resolve, reject) => {
    video.addEventListener(name, resolve, { once: true });
    video.addEventListener("error", reject, { once: true });
  });
}

// Build the strip of a clip; `seek(time)` is called with the moment that somebody chose. `fill` loads the frames.
export function makeStrip(clip, length, seek) {
  const root = document.createElement("div");
  root.className = "strip";
  const frames = Array.from({ length: COUNT }, (_, i) => {
    const button = document.createElement("button");
    const canvas = document.createElement("canvas");
    const time = (i / (COUNT - 1)) * Math.max(0, length - 0.5 / clip.fps);
    canvas.height = HEIGHT;
    canvas.width = Math.round((HEIGHT * clip.width) / clip.height);
    Object.assign(button, { type: "button", tabIndex: -1 });
    button.setAttribute("aria-label", say("show_second", { second: decimal(time) }));
    button.addEventListener("click", () => seek(time));
    button.append(canvas);
    root.append(button);
    return { canvas, time };
  });
  const fill = async () => {
    const video = document.createElement("video");
    Object.assign(video, { muted: true, preload: "auto", src: clip.url });
    try {
      await once(video, "loadeddata");
      for (const { canvas, time } of frames) {
        video.currentTime = time + 1e-3;
        await once(video, "seeked");
        canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
      }
    } catch { /* a clip that does not load says so itself */ }
    video.removeAttribute("src");
    video.load();
  };
  return { root, fill };
}
