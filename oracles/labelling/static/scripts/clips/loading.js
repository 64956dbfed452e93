// Loading clips a few at a time: a browser opens six connections to a server, and answers must find one free.

const AT_ONCE = 4;
const MOST = 5; // with those that somebody waits for

const waiting = [];
const loading = new Set();

function startNext() {
  while (loading.size < AT_ONCE && waiting.length > 0) start(waiting.shift());
}

function start({ video, url }) {
  loading.add(video);
  const over = () => {
    for (const name of ["loadeddata", "error", "emptied"]) video.removeEventListener(name, over);
    loading.delete(video);
    startNext();
  };
  video.src = url;
  for (const name of ["loadeddata", "error", "emptied"]) video.addEventListener(name, over);
}

// Load a video when its turn has come.
export function load(video, url) {
  waiting.push({ video, url });
  startNext();
}

// Somebody looks at it: load it now, or next, whatever else is on its way.
export function hurry(video) {
  const at = waiting.findIndex((item) => item.video === video);
  if (at < 0) return;
  const [item] = waiting.splice(at, 1);
  if (loading.size < MOST) start(item);
  else waiting.unshift(item);
}

// Nobody wants it any more.
export function forget(video) {
  const at = waiting.findIndex((item) => item.video === video);
  if (at >= 0) waiting.splice(at, 1);
  video.pause();
  video.removeAttribute("src");
  video.load(); // lets go of the decoder
}
