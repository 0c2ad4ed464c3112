// uPlot with the page's colours; drawn anew when light and dark change.

const dark = matchMedia("(prefers-color-scheme: dark)");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000];

function axis(label, space) {
  return { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") }, label, labelSize: label ? 20 : 0, size: space };
}

export class Plot {
  // `kind`: "time" (x: seconds since the epoch) or "bars" (x: middle of each bin). `whole`: y counts things.
  constructor(place, kind, label, { unit = "", whole = false } = {}) {
    Object.assign(this, { place, kind, label, unit, whole, data: [[], []], made: null });
    new ResizeObserver(() => this.made?.setSize(this.size())).observe(place);
    dark.addEventListener("change", () => this.draw());
  }

  size() {
    return { width: Math.max(200, this.place.clientWidth), height: 150 };
  }

  show(data) {
    this.data = data;
    if (this.made) this.made.setData(data);
    else this.draw();
  }

  draw() {
    this.made?.destroy();
    const bars = this.kind === "bars";
    const series = {
      label: this.label,
      stroke: colour("--accent"),
      fill: bars ? colour("--chosen") : undefined,
      width: 1.5,
      paths: bars ? uPlot.paths.bars({ size: [0.9] }) : undefined,
      points: { show: !bars && this.data[0].length < 60, size: 6 },
    };
    const options = {
      ...this.size(),
      scales: { x: bars ? { time: false, range: (_, low, high) => [0, high + low] } : {}, y: { range: (_, low, high) => [Math.min(0, low), high > 0 ? high * 1.05 : 1] } },
      axes: [axis(bars ? this.unit : "", bars ? 50 : 30), { ...axis("", 52), incrs: this.whole ? WHOLE : undefined }],
      series: [{ label: bars ? this.unit : "Time" }, series],
      legend: { live: !bars, show: !bars },
    };
    this.made = new uPlot(options, this.data, this.place);
  }
}

// Bins of equal width from 0: [middles, counts].
export function binned(values, number = 20) {
  if (!values.length) return [[], []];
  const highest = Math.max(...values);
  const width = highest / number || 1;
  const counts = new Array(number).fill(0);
  for (const value of values) counts[Math.min(number - 1, Math.floor(value / width))] += 1;
  return [counts.map((_, place) => (place + 0.5) * width), counts];
}
