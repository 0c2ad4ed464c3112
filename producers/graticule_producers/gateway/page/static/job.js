// The page of one job: its result, or waiting for it.

import { ask, tell } from "/static/common.js";
import { Viewer } from "/static/viewer.js";

const shown = document.getElementById("shown");
const waiting = document.getElementById("waiting");

async function show() {
  const job = await (await ask(`/api/v1/jobs/${shown.dataset.job}`)).json();
  await new Viewer().show(job);
}

async function wait() {
  for (;;) {
    const job = await (await ask(`/api/v1/jobs/${waiting.dataset.job}?wait=30`)).json();
    if (job.status !== "waiting") location.reload();
  }
}

(shown ? show() : waiting ? wait() : Promise.resolve()).catch((error) => tell(error.message));
