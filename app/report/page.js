"use strict";
(() => {
  const plots = [...document.querySelectorAll("figure")].map((figure) => ({
    place: figure.querySelector(".plot"),
    spec: JSON.parse(figure.querySelector("script").textContent),
  }));
  const root = document.documentElement;
  const dark = matchMedia("screen and (prefers-color-scheme: dark)");
  const phone = matchMedia("screen and (max-width: 640px)");
  const touch = matchMedia("(pointer: coarse)").matches;
  const PAPER = { whole: 680, half: 324 }; // pixels of a printed page's width

  function theme(name) {
    const style = getComputedStyle(root);
    const color = (what) => style.getPropertyValue(`--${name}-${what}`).trim();
    const clear = "rgba(0, 0, 0, 0)";
    const axis = {
      gridcolor: color("grid"), linecolor: color("line"), zerolinecolor: color("line"),
      tickcolor: color("line"), title: { font: { size: 13 } },
    };
    return { layout: {
      paper_bgcolor: clear, plot_bgcolor: clear,
      font: { color: color("ink"), family: style.getPropertyValue("--font"), size: 13 },
      title: { font: { size: 16 } }, xaxis: axis, yaxis: axis,
      legend: { bgcolor: clear },
      modebar: { bgcolor: clear, color: color("soft"), activecolor: color("ink") },
    } };
  }

  function laidOut(spec, name, narrow) {
    const layout = structuredClone((narrow && spec.narrow) || spec.layout);
    layout.template = theme(name);
    return layout;
  }

  function draw({ place, spec }, paper) {
    const layout = laidOut(spec, dark.matches && !paper ? "dark" : "light", phone.matches && !paper);
    if (touch) layout.dragmode = false; // a finger scrolls the page
    if (paper) layout.width = place.closest(".half") ? PAPER.half : PAPER.whole;
    place.style.height = `${layout.height}px`;
    Plotly.react(place, spec.data, layout, {
      responsive: true, displaylogo: false, displayModeBar: touch ? false : "hover",
      showSendToCloud: false, plotlyServerURL: "", // nothing leaves this page
      modeBarButtonsToRemove: ["toImage", "select2d", "lasso2d", "zoomIn2d", "zoomOut2d"],
      modeBarButtonsToAdd: [{
        name: "picture", title: document.body.dataset.picture, icon: Plotly.Icons.camera,
        click: () => save(place, spec),
      }],
    });
    // Its texts, out of their order, say less than the page around it.
    for (const svg of place.querySelectorAll("svg")) svg.setAttribute("aria-hidden", "true");
  }

  function save(place, spec) { // with its title, dark on white, whatever is on the screen
    const layout = laidOut(spec, "light", phone.matches);
    layout.title = spec.title;
    layout.margin.t += spec.room;
    layout.height += spec.room;
    layout.paper_bgcolor = "#ffffff";
    const size = { width: place.clientWidth, height: layout.height, scale: 2 };
    Plotly.downloadImage({ data: spec.data, layout }, { filename: spec.name, ...size });
  }

  const all = (paper) => plots.forEach((plot) => draw(plot, paper));
  root.classList.add("drawn");
  all(false);
  dark.addEventListener("change", () => all(false));
  phone.addEventListener("change", () => all(false));
  addEventListener("beforeprint", () => all(true));
  addEventListener("afterprint", () => all(false));

  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const down = heading.getAttribute("aria-sort") === "ascending";
        for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => {
          const cell = row.cells[column];
          return "sort" in cell.dataset ? Number(cell.dataset.sort) : cell.textContent;
        };
        const compare = (a, b) => {
          const [x, y] = [key(a), key(b)];
          if (x === "" || y === "") return (x === "") - (y === ""); // what is missing is last
          const order = typeof x === "number" ? x - y : x.localeCompare(y);
          return down ? -order : order;
        };
        body.append(...[...body.rows].sort(compare));
      });
    });
  }
})();
