// A chart that stays: new data, another theme and another size are drawn in the same place. So
// zoom, hidden lines and what is selected survive, and Plotly does its work once.
// What comes in `data` is said in app/plot/__init__.py.

const charts = new WeakMap(); // by the element that Streamlit gives each

export default async function ({ data, parentElement, setStateValue, setTriggerValue }) {
  let chart = charts.get(parentElement);
  if (!chart) charts.set(parentElement, (chart = new Chart(parentElement)));
  await chart.show(data, setStateValue, () => setTriggerValue("csv", true));
  // Streamlit also calls this when newer data came before the older was drawn: the chart stays.
  return () => parentElement.isConnected || chart.end();
}

class Chart {
  constructor(parent) {
    this.frame = parent.appendChild(document.createElement("div"));
    this.frame.setAttribute("role", "figure");
    // What changes elsewhere does not move what is in it: the browser need not look.
    this.frame.style.contain = "strict";
    this.plot = this.frame.appendChild(document.createElement("div"));
    this.plot.className = "js-plotly-plot"; // as Plotly calls it, before it is there
    this.foot = new Foot(parent, () => this.askForFile());
    this.axes = {}; // as the last figure had them: {x2: {range, uirevision}}
    this.uids = new Map(); // of traces, by their names
    this.told = JSON.stringify(NOTHING);
    this.resized = new ResizeObserver(() => this.fit());
    this.resized.observe(this.frame);
  }

  async show(bytes, setStateValue, askForFile) {
    this.setStateValue = setStateValue;
    this.askForFile = askForFile;
    if (!same(bytes, this.bytes)) {
      this.bytes = bytes;
      this.said = parsed(bytes);
      this.about = this.said.about;
      this.frame.setAttribute("aria-label", this.about.alt);
      this.frame.style.height = `${this.about.height}px`; // nothing jumps when Plotly comes
      this.foot.say(this.about);
      if (this.said.file) save(this.said.file.csv, `${this.about.key}.csv`);
    }
    try {
      this.Plotly = await plotly(this.about.source);
    } catch {
      this.plot.textContent = this.about.labels.not_served;
      return;
    }
    const theme = themeOf(this.frame);
    if (this.ended || (!this.said && theme.toString() === this.theme)) return;
    this.theme = theme.toString();
    await this.draw(theme);
  }

  async draw(theme) {
    // Plotly writes into what it is given: for another theme, the figure is read again.
    const { figure, over } = this.said ?? parsed(this.bytes);
    this.said = undefined;
    const { layout } = figure;
    const data = [...figure.data, ...over];
    Object.assign(layout, this.size(), { template: theme.template });
    layout.title.text = `<b>${layout.title.text}</b>`;
    // A finger scrolls the page.
    if (layout.dragmode === "zoom" && TOUCH.matches) layout.dragmode = false;
    if (this.about.select.includes("points")) layout.clickmode = "event+select";
    this.keepZoom(layout);
    this.nameTraces(data);
    this.ids = data.map(this.about.select.length ? ids : () => []);
    this.keepSelection(data, layout);
    const isFirst = !this.plot.on;
    if (isFirst) this.plot.replaceChildren();
    await this.Plotly.react(this.plot, data, layout, this.config());
    if (isFirst) this.listen();
    else this.tell(); // a box may hold more now
  }

  // -- what the person did to it

  keepZoom(layout) {
    const axes = {};
    for (const [name, axis] of Object.entries(layout)) {
      if (!/^[xy]axis\d*$/.test(name)) continue;
      // Where an axis shows something else, its zoom means nothing.
      axis.uirevision = `${axis.title?.text} ${axis.type}`;
      const before = this.axes[name.replace("axis", "")];
      const isSame = before?.uirevision === axis.uirevision;
      const is = this.plot.layout?.[name]?.range;
      // Plotly keeps a zoom only as long as the range is the one it was made in.
      const isZoomed = isSame && axis.range && before.range && `${is}` !== `${before.range}`;
      if (isZoomed) axis.range = before.range;
      const range = axis.range && [...axis.range];
      axes[name.replace("axis", "")] = { range, uirevision: axis.uirevision, isSame };
    }
    this.axes = axes;
  }

  // A line stays hidden when others go: it is known by its name, not by its place.
  nameTraces(data) {
    const seen = new Map();
    for (const trace of data) {
      const name = `${trace.legendgroup} ${trace.name}`;
      seen.set(name, (seen.get(name) ?? 0) + 1);
      const one = `${name} ${seen.get(name)}`;
      if (!this.uids.has(one)) this.uids.set(one, `trace${this.uids.size}`);
      trace.uid = this.uids.get(one);
    }
  }

  keepSelection(data, layout) {
    layout.selectionrevision = performance.now(); // what is selected is ours, not Plotly's
    const isKept = ({ xref, yref }) => this.axes[xref]?.isSame && this.axes[yref]?.isSame;
    layout.selections = (this.plot.layout?.selections ?? []).filter(isKept);
    const chosen = new Set(JSON.parse(this.told).points);
    if (!chosen.size && !layout.selections.length) return;
    data.forEach((trace, index) => {
      // Places in a trace change with its data; what they stand for does not.
      const places = this.ids[index].flatMap((id, place) => (chosen.has(id) ? [place] : []));
      if (this.ids[index].length) trace.selectedpoints = places;
    });
  }

  listen() {
    if (!this.about.select.length) return;
    this.plot.on("plotly_selected", () => this.tell());
    this.plot.on("plotly_deselect", () => this.clear());
    this.plot.on("plotly_doubleclick", () => this.clear());
  }

  tell() {
    const { data, layout } = this.plot;
    const points = data.flatMap((trace, index) =>
      Array.from(trace.selectedpoints ?? [], (place) => this.ids[index][place]));
    const boxes = (layout.selections ?? [])
      .filter(({ type }) => type === "rect")
      .map(({ x0, x1, y0, y1 }) => ({ x: [x0, x1], y: [y0, y1] }));
    this.say({ points: [...new Set(points)].filter(Number.isFinite), boxes });
  }

  clear() {
    if (this.told === JSON.stringify(NOTHING)) return;
    this.say(NOTHING);
    this.Plotly.update(this.plot, { selectedpoints: [null] }, { selections: [] });
  }

  say(selected) {
    const told = JSON.stringify(selected);
    if (told === this.told) return;
    this.told = told;
    this.setStateValue("selected", selected);
  }

  // -- its size

  size() {
    const isWhole = document.fullscreenElement === this.frame;
    const height = isWhole ? this.frame.clientHeight : this.about.height;
    return { width: Math.max(this.frame.clientWidth, 150), height };
  }

  fit() {
    const { layout } = this.plot;
    const { width, height } = this.about ? this.size() : {};
    if (layout && (layout.width !== width || layout.height !== height)) {
      this.Plotly.relayout(this.plot, { width, height });
    }
  }

  fullscreen() {
    if (document.fullscreenElement) return document.exitFullscreen();
    this.frame.style.background = this.plot.layout.template.layout.paper_bgcolor;
    return this.frame.requestFullscreen();
  }

  config() {
    const { picture, select } = this.about;
    const asked = JSON.stringify([picture, select]);
    // The same object while it says the same: Plotly begins anew with another.
    if (this.asked !== asked) {
      this.asked = asked;
      this.made = {
        displaylogo: false,
        showSendToCloud: false,
        toImageButtonOptions: picture,
        modeBarButtonsToRemove: [
          ...["autoScale2d", "zoomIn2d", "zoomOut2d"],
          ...(select.includes("box") ? [] : ["select2d"]),
          ...(select.includes("lasso") ? [] : ["lasso2d"]),
        ],
        modeBarButtonsToAdd: document.fullscreenEnabled
          ? [{ ...FULLSCREEN, click: () => this.fullscreen() }]
          : [],
      };
    }
    return this.made;
  }

  end() {
    this.ended = true;
    this.resized.disconnect();
    this.Plotly?.purge(this.plot);
  }
}

// What stands under a chart: its caption, and the button that gives its data.
class Foot {
  constructor(parent, askForFile) {
    const foot = parent.appendChild(document.createElement("div"));
    foot.style.cssText = "display: flex; gap: 0.75rem; align-items: start; margin-top: 0.25rem";
    this.caption = foot.appendChild(document.createElement("p"));
    this.caption.style.cssText =
      "flex: 1; margin: 0; font-size: 0.875rem; line-height: 1.5; overflow-wrap: anywhere;" +
      "color: color-mix(in srgb, var(--st-text-color) 62%, var(--st-background-color))";
    this.button = foot.appendChild(document.createElement("button"));
    this.button.style.cssText =
      "border: 0; padding: 0 0.25rem; background: none; cursor: pointer; white-space: nowrap;" +
      "font: inherit; font-size: 0.875rem; line-height: 1.5; color: var(--st-text-color)";
    this.button.onclick = askForFile;
  }

  say({ caption, labels }) {
    this.caption.textContent = caption;
    this.button.innerHTML = DOWNLOAD;
    this.button.append(labels.csv);
    this.button.title = labels.csv_help;
  }
}

function save(text, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

const NOTHING = { points: [], boxes: [] };
const TOUCH = matchMedia("(pointer: coarse)");
const CORNERS = "M3 3h7v2H5v5H3zM14 3h7v7h-2V5h-5zM3 14h2v5h5v2H3zM19 14h2v7h-7v-2h5z";
const DOWNLOAD =
  '<svg width="16" height="16" viewBox="0 0 24 24" fill="currentColor" aria-hidden="true" ' +
  'style="vertical-align: -0.15em; margin-right: 0.35em">' +
  '<path d="M11 4h2v8l3-3 1.4 1.4L12 16l-5.4-5.6L8 9l3 3zM4 15h2v3h12v-3h2v5H4z"/></svg>';
const FULLSCREEN = {
  name: "fullscreen",
  title: "Fullscreen",
  icon: { width: 24, height: 24, path: CORNERS },
};

// -- what comes

let loading;

function plotly(source) {
  loading ??= new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = source;
    script.onload = script.onerror = () => {
      if (window.Plotly) return done(window.Plotly); // where nobody serves it, HTML may come
      loading = undefined; // the next chart tries again
      failed(new Error(`${source} could not be loaded`));
    };
    document.head.append(script);
  });
  return loading;
}

function same(bytes, others) {
  return bytes.length === others?.length && bytes.every((byte, place) => byte === others[place]);
}

function parsed(bytes) {
  return JSON.parse(new TextDecoder().decode(bytes));
}

const ARRAYS = {
  i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array, i4: Int32Array, u4: Uint32Array,
  f4: Float32Array, f8: Float64Array,
};

// Of each point of a trace, its `customdata` or the first of them.
function ids({ customdata = [] }) {
  if (Array.isArray(customdata)) return customdata.map((one) => (Array.isArray(one) ? one[0] : one));
  const bytes = Uint8Array.from(atob(customdata.bdata), (char) => char.charCodeAt());
  const columns = Number(String(customdata.shape ?? "").split(",")[1] ?? 1);
  const all = new ARRAYS[customdata.dtype](bytes.buffer);
  return Array.from(all).filter((_, place) => place % columns === 0);
}

// -- how it looks: as Streamlit's own charts do

function themeOf(element) {
  const style = getComputedStyle(element);
  const of = (name) => style.getPropertyValue(`--st-${name}`).trim();
  const ground = of("background-color");
  const isDark = luminance(ground) < 0.5;
  const [soft, ink, line] = isDark
    ? ["#e6eaf1", "#fafafa", "#31333f"]
    : ["#6b6f7f", "#262730", "#e6eaf1"];
  const axis = {
    automargin: true, gridcolor: line, zerolinecolor: line, tickcolor: line,
    tickfont: { color: soft, size: 12 }, title: { font: { color: soft, size: 14 } },
  };
  const head = of("heading-color") || of("text-color");
  const layout = {
    font: { color: soft, family: of("font"), size: 12 },
    title: { font: { family: of("heading-font"), size: 16, color: head }, pad: { l: 4 } },
    legend: { font: { size: 12, color: ink } },
    paper_bgcolor: ground,
    plot_bgcolor: ground,
    xaxis: merged(axis, { showgrid: false, zeroline: false, title: { standoff: 20 } }),
    yaxis: merged(axis, { title: { standoff: 24 } }),
    margin: { pad: 8 },
    hoverlabel: { bgcolor: ground, bordercolor: of("border-color"), font: { color: ink, size: 12 } },
    colorway: of("chart-categorical-colors").split(","),
  };
  const template = { layout, data: { scatter: [{ marker: { line: { width: 0 } } }] } };
  return { template, toString: () => JSON.stringify(template) };
}

function merged(axis, more) {
  return { ...axis, ...more, title: { ...axis.title, ...more.title } };
}

// Of a colour as Streamlit's themes write it, 0 to 1.
function luminance(color) {
  const canvas = document.createElement("canvas").getContext("2d");
  canvas.fillStyle = color; // which makes it #rrggbb
  const [red, green, blue] = canvas.fillStyle.match(/\w\w/g).map((part) => parseInt(part, 16) / 255);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}
