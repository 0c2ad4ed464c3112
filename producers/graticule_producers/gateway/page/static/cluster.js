// The cluster's figures, every two seconds.

import { ask, element } from "/static/common.js";

const EVERY = 2000;
const get = (id) => document.getElementById(id);
let before = null;

async function look() {
  const cluster = await (await ask("/api/v1/cluster")).json();
  const now = performance.now() / 1000;
  const ended = cluster.succeeded + cluster.failed;
  if (before) get("throughput").textContent = Math.max(0, (ended - before.ended) / (now - before.now)).toFixed(1);
  before = { now, ended };
  const queues = Object.entries(cluster.queues);
  get("workers-alive").textContent = cluster.workers.length;
  get("waiting").textContent = queues.reduce((sum, [, waiting]) => sum + waiting, 0);
  get("at-work").textContent = cluster.at_work;
  get("succeeded").textContent = cluster.succeeded;
  get("failed").firstElementChild.textContent = cluster.failed;
  fill("queues", queues);
  fill("workers", cluster.workers.map((worker) => [worker.name, worker.state, worker.provider, worker.threads, worker.models.join(", ")]));
}

function fill(table, rows) {
  const made = rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", typeof cell === "number" ? { class: "number" } : {}, String(cell)))));
  get(table).tBodies[0].replaceChildren(...made);
}

async function keepLooking() {
  try {
    await look();
    get("state").textContent = "";
    get("state").classList.remove("lost");
  } catch (error) {
    get("state").textContent = `${error.message} What is shown may be old.`;
    get("state").classList.add("lost");
  }
  setTimeout(keepLooking, EVERY);
}

keepLooking();
