// The first page: pictures that are dropped, chosen or pasted become results.

import { ask, element, tell } from "/static/common.js";
import { Viewer } from "/static/viewer.js";

const WAIT = 30;
const AT_ONCE = 3;
const viewer = new Viewer();
const drop = document.getElementById("drop");
const files = document.getElementById("files");
const progress = document.getElementById("progress");
const strip = document.getElementById("strip");
const waiting = [];
let active = 0;

async function measure(file) {
  const line = element("p", {}, `${file.name}: sending …`);
  progress.append(line);
  try {
    let job = await send(file);
    while (job.status === "waiting") {
      line.textContent = `${file.name}: waiting for a worker …`;
      job = await (await ask(`/api/v1/jobs/${job.job_id}?wait=${WAIT}`)).json();
    }
    line.remove();
    if (job.failure) tell(`${file.name}: ${job.failure.message}`);
    else add(job);
  } catch (error) {
    line.remove();
    tell(`${file.name}: ${error.message}`);
  }
}

async function send(file) {
  const query = new URLSearchParams({ model: document.getElementById("model").value, filename: file.name, wait: WAIT });
  const threshold = document.getElementById("threshold").value;
  const stream = document.getElementById("stream").value;
  if (threshold) query.set("parameters", JSON.stringify({ threshold: Number(threshold) }));
  if (stream) query.set("stream", stream);
  const answer = await ask(`/api/v1/jobs?${query}`, { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
  return (await answer.json()).jobs[0];
}

function add(job) {
  const picture = element("img", { src: `${job.links["overlay.webp"]}?width=160`, alt: "" });
  const button = element("button", { type: "button" }, picture, `${job.filename} (${job.result.measurements.count})`);
  button.addEventListener("click", () => show(job, button));
  strip.prepend(element("li", {}, button));
  show(job, button);
}

function show(job, button) {
  for (const other of strip.querySelectorAll("[aria-current]")) other.removeAttribute("aria-current");
  button.setAttribute("aria-current", "true");
  viewer.show(job).catch((error) => tell(error.message));
}

function take(list) {
  tell("");
  waiting.push(...list);
  while (active < AT_ONCE && waiting.length) next();
}

async function next() {
  active += 1;
  while (waiting.length) await measure(waiting.shift());
  active -= 1;
}

files.addEventListener("change", () => {
  take([...files.files]);
  files.value = "";
});
for (const kind of ["dragover", "dragenter"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take([...event.dataTransfer.files]);
});
addEventListener("paste", (event) => take([...event.clipboardData.files]));
document.getElementById("order").addEventListener("submit", (event) => event.preventDefault());
