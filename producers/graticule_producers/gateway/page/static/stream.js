// A stream as it grows: newest picture, measurements over time, filmstrip.

import { ask, element, percent, rounded, tell } from "/static/common.js";
import { Plot } from "/static/plots.js";

const FILM = 12;
const MOST = 2000;
const get = (id) => document.getElementById(id);
const stream = get("live").dataset.stream;
const state = get("state");
const strip = get("strip");
const plots = {
  fraction: new Plot(get("plot-fraction"), "time", "Defect fraction, %"),
  count: new Plot(get("plot-count"), "time", "Objects", { whole: true }),
  radius: new Plot(get("plot-radius"), "time", "Mean radius, px"),
};
let points = [];
let drawn = false;

async function load() {
  const query = new URLSearchParams({ stream, limit: MOST });
  const answer = await (await ask(`/api/v1/streams/series?${query}`)).json();
  points = answer.points;
  strip.replaceChildren();
  for (const point of points.slice(-FILM)) film(point);
  draw();
}

function add(point) {
  const known = points.findIndex((other) => other.job_id === point.job_id);
  if (known >= 0) points.splice(known, 1);
  points.push(point);
  points = points.slice(-MOST);
  film(point);
  // Many pictures a second are drawn once a frame.
  if (!drawn) requestAnimationFrame(draw);
  drawn = true;
}

function draw() {
  drawn = false;
  const done = points.filter((point) => point.status === "succeeded");
  const times = done.map((point) => Date.parse(point.captured_at ?? point.completed_at) / 1000);
  plots.fraction.show([times, done.map((point) => point.area_fraction * 100)]);
  plots.count.show([times, done.map((point) => point.count)]);
  plots.radius.show([times, done.map((point) => point.mean_radius)]);
  if (done.length) newest(done.at(-1));
}

function newest(point) {
  const path = `/api/v1/jobs/${point.job_id}/overlay.webp?width=1024`;
  const picture = get("newest");
  if (picture.getAttribute("src") !== path) picture.src = path;
  picture.hidden = false;
  get("newest-link").href = `/jobs/${point.job_id}`;
  const radius = point.mean_radius === null ? "" : `, mean radius ${rounded(point.mean_radius)} px`;
  get("newest-text").textContent = `${point.filename}: ${point.count} objects, ${percent(point.area_fraction)}${radius}`;
}

function film(point) {
  const kind = point.status === "succeeded" ? "overlay.webp" : "image.png";
  const picture = element("img", { src: `/api/v1/jobs/${point.job_id}/${kind}?width=160`, alt: "", loading: "lazy" });
  const text = point.status === "succeeded" ? `${point.filename} (${point.count})` : `${point.filename}: failed`;
  strip.prepend(element("li", {}, element("a", { href: `/jobs/${point.job_id}` }, picture, text)));
  while (strip.children.length > FILM) strip.lastElementChild.remove();
}

function follow() {
  const events = new EventSource(`/api/v1/events?${new URLSearchParams({ stream })}`);
  events.addEventListener("open", () => say("Live: new pictures appear by themselves.", false));
  events.addEventListener("error", () => say("The connection is lost; trying again. What is shown may be old.", true));
  events.addEventListener("job", (event) => add(JSON.parse(event.data)));
  events.addEventListener("reset", () => load().catch((error) => tell(error.message)));
}

function say(text, lost) {
  state.textContent = text;
  state.classList.toggle("lost", lost);
}

get("stream").addEventListener("change", (event) => event.target.form.submit());
follow();
load().catch((error) => tell(error.message));
