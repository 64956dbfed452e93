// Clips on one clock: every video follows it, the shorter ones hold their last frame, and all begin anew together.

import { forget, hurry, load } from "./loading.js";
import { say } from "../texts.js";
import { LONG, makeStrip } from "./strip.js";

const HOLD = 0.5; // seconds at the end before the clips begin anew
const SEEK = 0.25; // seconds off the clock from which a video jumps instead of hurrying or waiting
const LAG = 0.12; // seconds by which the clock may be before the slowest video
const LEAD = 0.08; // seconds before the clock from which a video stands still
const still = window.matchMedia("(prefers-reduced-motion: reduce)"); // whoever asks for it sees clips play once

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

export class Player {
  // Builds the clips of a question, out of sight, to be loaded and decoded in turn; `names` are the clips' labels, and
  // `failure` is said of one that does not load.
  constructor(question, names, failure) {
    this.root = element("div", `clips clips-${question.clips.length}`);
    this.root.inert = true;
    this.long = question.clips.some((clip) => clip.frames / clip.fps >= LONG);
    this.clips = question.clips.map((clip, i) => this.build(clip, names[i], names.length > 2, failure));
    this.longest = Math.max(...this.clips.map((clip) => clip.length));
    this.shortest = Math.min(...this.clips.map((clip) => clip.length));
    this.fps = Math.max(...question.clips.map((clip) => clip.fps));
    this.time = 0;
    this.speed = 1;
    this.playing = false;
    this.replays = 0;
    this.visible = false;
  }

  build(clip, name, named, failure) {
    const figure = element("figure", "clip loading");
    const frame = element("div", "frame");
    const picture = element("div", "picture");
    const video = element("video");
    Object.assign(video, { muted: true, playsInline: true, preload: "auto", disablePictureInPicture: true });
    video.setAttribute("aria-label", say("clip_named", { name }));
    picture.dataset.rendering = say("rendering");
    video.width = clip.width;
    video.height = clip.height;
    frame.style.setProperty("--shape", clip.width / clip.height);
    const ended = element("span", "ended", say("ended"));
    const failed = element("p", "failed", failure);
    ended.hidden = failed.hidden = true;
    const made = { video, ended, failed, figure, picture, url: clip.url, fps: clip.fps, length: clip.frames / clip.fps };
    video.addEventListener("error", () => {
      failed.hidden = false;
      figure.classList.remove("loading");
    });
    video.addEventListener("loadeddata", () => {
      failed.hidden = true;
      figure.classList.remove("loading");
    });
    picture.append(video, ended, failed);
    frame.append(picture);
    if (named) picture.append(element("span", "caption", name));
    figure.append(frame);
    if (this.long) {
      const strip = makeStrip(clip, made.length, (time) => { this.pause(); this.seek(time); });
      figure.append(strip.root);
      video.addEventListener("loadeddata", strip.fill, { once: true });
    }
    this.root.append(figure);
    load(video, clip.url);
    return made;
  }

  get ready() { return this.clips.every(({ video }) => video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA); }

  // Whoever cannot see the clips hears which is which; names change when the window is turned, keys as somebody likes.
  rename(names, failure) {
    this.clips.forEach(({ video, figure, failed }, i) => {
      failed.textContent = failure;
      video.setAttribute("aria-label", say("clip_named", { name: names[i] }));
      const caption = figure.querySelector(".caption");
      if (caption) caption.textContent = names[i];
    });
  }

  get failed() { return this.clips.some(({ video }) => video.error !== null); }

  reloadFailed() {
    for (const { video } of this.clips) if (video.error) video.load();
  }

  show(speed, paint) {
    this.visible = true;
    for (const { video } of this.clips) hurry(video);
    this.root.inert = false;
    this.root.classList.add("shown");
    this.speed = speed;
    this.paint = paint;
    this.seek(0);
    this.play();
  }

  hide() {
    this.pause();
    this.visible = false;
    this.root.inert = true;
    this.root.classList.remove("shown", "seen");
    this.seek(0);
    this.replays = 0;
  }

  // Resolves when every clip has put a frame on the screen since `show`.
  painted() {
    const once = ({ video }) => new Promise((resolve) => {
      if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(resolve);
      else video.addEventListener("timeupdate", resolve, { once: true });
    });
    // No browser reports a frame anew that was there before; decoded and on show for half a second will do as well.
    const standing = new Promise((resolve) => {
      let since = null;
      const look = (now) => {
        if (!this.visible) return;
        since = this.ready ? since ?? now : null;
        if (since !== null && now - since > 500) resolve();
        else requestAnimationFrame(look);
      };
      requestAnimationFrame(look);
    });
    return Promise.race([Promise.all(this.clips.map(once)), standing]);
  }

  close() {
    this.visible = this.playing = false;
    cancelAnimationFrame(this.request);
    for (const { video } of this.clips) forget(video);
    this.root.remove();
  }

  play() {
    if (this.playing) return;
    if (this.time >= this.longest) this.seek(0);
    this.playing = true;
    this.last = performance.now();
    this.request = requestAnimationFrame((now) => this.tick(now));
  }

  pause() {
    this.playing = false;
    cancelAnimationFrame(this.request);
    for (const { video } of this.clips) video.pause();
  }

  replay() {
    this.replays += 1;
    this.reloadFailed();
    this.seek(0);
    this.play();
  }

  // Pause on the frame `count` after (or before) the one on show.
  step(count) {
    this.pause();
    const frames = Math.round(this.longest * this.fps);
    const frame = Math.min(frames - 1, Math.max(0, Math.floor(this.time * this.fps + 1e-6) + count));
    this.seek((frame + 0.5) / this.fps);
  }

  seek(time) {
    this.time = time;
    for (const clip of this.clips) {
      const own = this.within(clip, time);
      // A seek to where the video is would throw its decoded frame away.
      if (Math.abs(clip.video.currentTime - own) > 1e-3) clip.video.currentTime = own;
    }
    this.mark();
  }

  // The clip's own time at a time of the clock: in its last frame at the latest.
  within(clip, time) { return Math.min(time, Math.max(0, clip.length - 0.5 / clip.fps)); }

  tick(now) {
    if (!this.playing) return;
    const passed = Math.min((now - this.last) / 1000, 0.25) * this.speed;
    this.last = now;
    const running = this.clips.filter((clip) => this.time < clip.length && !clip.video.error);
    // The clock waits for the slowest video: when one stalls, no other runs ahead of it. Where the browser was busy for
    // a while and all videos went on, the clock goes with them.
    const slowest = Math.min(...running.map(({ video }) => video.currentTime));
    if (running.length) this.time = Math.max(this.time, slowest, Math.min(this.time + passed, slowest + LAG));
    else this.time += passed;
    if (still.matches && this.time >= this.longest) {
      this.pause();
      this.mark();
      return;
    }
    if (this.time >= this.longest + HOLD * this.speed) {
      this.replays += 1;
      this.seek(0);
    }
    for (const clip of this.clips) this.follow(clip);
    this.mark();
    this.request = requestAnimationFrame((next) => this.tick(next));
  }

  follow(clip) {
    const { video } = clip;
    if (video.error) return;
    if (this.time >= clip.length) {
      if (!video.paused && !video.ended) {
        video.pause();
        video.currentTime = this.within(clip, this.time);
      }
      return;
    }
    const ahead = video.currentTime - this.time;
    if (Math.abs(ahead) > SEEK * Math.max(1, this.speed) && !video.seeking) video.currentTime = this.time;
    if (ahead > (video.paused ? 0.02 : LEAD)) {
      video.pause();
      return;
    }
    const rate = this.speed * (1 - Math.max(-0.2, Math.min(0.2, ahead * 2)));
    if (Math.abs(video.playbackRate - rate) > 0.03 * this.speed) video.playbackRate = rate;
    if (video.paused) video.play().catch(() => {}); // refused while the tab is hidden; the next tick asks again
  }

  mark() {
    for (const clip of this.clips) {
      const over = clip.length < this.longest - 0.5 / clip.fps && this.time >= clip.length;
      if (clip.ended.hidden === over) clip.ended.hidden = !over;
    }
    if (this.paint) this.paint(Math.min(1, this.time / this.longest));
  }
}
