// One result: the picture with its mask, the numbers of the object that is pointed at, the table, the histogram.

import { ask, element, percent, rounded } from "/static/common.js";
import { Plot, binned } from "/static/plots.js";

const SVG = "http://www.w3.org/2000/svg";
const TEXTS = new Set([1, 5]);
const get = (id) => document.getElementById(id);

export class Viewer {
  constructor() {
    this.colours = new Map();
    this.histogram = new Plot(get("histogram"), "bars", "Objects", { unit: "Radius, px", whole: true });
    get("opacity").addEventListener("input", () => this.setOpacity());
    get("stage").addEventListener("pointermove", (event) => this.point(event));
    get("stage").addEventListener("pointerleave", () => this.choose(null));
    this.setOpacity();
  }

  // `job`: as the native interface shows it, with a result.
  async show(job) {
    this.job = job;
    this.objects = job.result.measurements.objects;
    const { "image.png": picture, "layer.png": layer } = job.links;
    get("picture").src = picture;
    get("picture").alt = `The picture ${job.filename}`;
    get("stage").style.setProperty("--ratio", job.result.image.width / job.result.image.height);
    get("layer").src = layer;
    get("title").textContent = job.filename;
    this.fillFacts(job.result);
    this.fillTable();
    this.fillLinks(job);
    this.choose(null);
    get("viewer").hidden = false;
    this.histogram.show(binned(this.objects.map((one) => one.equivalent_radius)));
    await this.fillLegend(job.result);
  }

  setOpacity() {
    const value = get("opacity").value;
    get("layer").style.opacity = value / 100;
    get("opacity-value").textContent = `${value} %`;
  }

  fillFacts({ measurements, image, model, timings }) {
    const work = Object.entries(timings).reduce((sum, [stage, seconds]) => (stage === "queued" ? sum : sum + seconds), 0);
    const facts = {
      Objects: measurements.count,
      "Area fraction": percent(measurements.area_fraction),
      "Mean radius": measurements.mean_radius === null ? "–" : `${rounded(measurements.mean_radius)} px`,
      Picture: `${image.width} × ${image.height} px`,
      Model: `${model.name} ${model.version}`,
      Work: `${(work * 1000).toFixed(0)} ms`,
    };
    const entries = Object.entries(facts).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, String(value))));
    get("facts").replaceChildren(...entries);
  }

  fillTable() {
    const rows = this.objects.map((one) => {
      const cells = [one.id, one.class_name, one.area, rounded(one.equivalent_radius), one.centroid.map((value) => rounded(value)).join(", "), one.touches_edge ? "yes" : "no", rounded(one.confidence, 2)];
      const row = element("tr", { tabindex: "0", "data-id": one.id }, ...cells.map((cell, place) => element("td", TEXTS.has(place) ? {} : { class: "number" }, String(cell))));
      for (const kind of ["focus", "pointerenter"]) row.addEventListener(kind, () => this.choose(one));
      return row;
    });
    if (!rows.length) rows.push(element("tr", {}, element("td", { colspan: "7" }, "No objects: nothing was found in this picture.")));
    get("objects").tBodies[0].replaceChildren(...rows);
  }

  fillLinks(job) {
    const named = { "result.json": "Result", "objects.csv": "CSV", "objects.parquet": "Parquet", "objects.geojson": "GeoJSON", "mask.png": "Mask", "overlay.webp": "Overlay" };
    const links = Object.entries(named).map(([name, text]) => element("a", { href: job.links[name] }, text));
    get("links").replaceChildren(element("a", { href: `/jobs/${job.job_id}` }, "Job"), ...links);
  }

  async fillLegend({ model, measurements }) {
    const reference = `${model.name}@${model.version}`;
    if (!this.colours.has(reference)) {
      const card = await (await ask(`/api/v1/models/${reference}`)).json();
      this.colours.set(reference, card.manifest.postprocessing.classes);
    }
    const counts = measurements.count_by_class;
    const kinds = this.colours.get(reference).filter((kind) => kind.name in counts);
    get("legend").replaceChildren(...kinds.map((kind) => element("li", {}, swatch(kind.colour), `${kind.name} (${counts[kind.name]})`)));
  }

  point(event) {
    const picture = get("picture").getBoundingClientRect();
    const { width, height } = this.job.result.image;
    const x = ((event.clientX - picture.left) / picture.width) * width;
    const y = ((event.clientY - picture.top) / picture.height) * height;
    const hit = this.objects.filter(({ bounding_box: [left, top, right, bottom] }) => x >= left && x < right && y >= top && y < bottom);
    this.choose(hit.length ? hit.reduce((one, other) => (other.area < one.area ? other : one)) : null);
  }

  choose(one) {
    for (const row of document.querySelectorAll("#objects tr.chosen")) row.classList.remove("chosen");
    get("box").hidden = !one;
    if (!one) {
      get("hovered").textContent = this.objects?.length ? "Point at an object, or choose a row, to see its numbers." : "";
      return;
    }
    document.querySelector(`#objects tr[data-id="${one.id}"]`)?.classList.add("chosen");
    const { width, height } = this.job.result.image;
    const [left, top, right, bottom] = one.bounding_box;
    Object.assign(get("box").style, { left: `${(left / width) * 100}%`, top: `${(top / height) * 100}%`, width: `${((right - left) / width) * 100}%`, height: `${((bottom - top) / height) * 100}%` });
    get("hovered").textContent = `No. ${one.id}, ${one.class_name}: ${one.area} px, radius ${rounded(one.equivalent_radius)} px, centre (${one.centroid.map((value) => rounded(value)).join(", ")}), confidence ${rounded(one.confidence, 2)}`;
  }
}

function swatch(colour) {
  const made = document.createElementNS(SVG, "svg");
  made.setAttribute("viewBox", "0 0 10 10");
  made.setAttribute("aria-hidden", "true");
  const square = document.createElementNS(SVG, "rect");
  for (const [name, value] of Object.entries({ width: 10, height: 10, rx: 2, fill: colour })) square.setAttribute(name, value);
  made.append(square);
  return made;
}
