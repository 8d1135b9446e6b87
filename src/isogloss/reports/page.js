"use strict";
(() => {
  const PRINTED_WIDTH = 660;
  const NARROW = 560;
  const config = {
    responsive: true,
    displaylogo: false,
    showTips: false,
    modeBarButtons: [["toImage"]],
    toImageButtonOptions: { format: "svg" },
    plotlyServerURL: "",
    topojsonURL: "",
  };
  const narrowed = window.matchMedia(`(max-width: ${NARROW}px)`);

  // Sets "yaxis.ticktext" and the like in a copy of a layout.
  const changed = (layout, changes) => {
    const copy = structuredClone(layout);
    for (const [path, value] of Object.entries(changes)) {
      const names = path.split(".");
      const last = names.pop();
      names.reduce((part, name) => (part[name] ??= {}), copy)[last] = value;
    }
    return copy;
  };

  const plots = [...document.querySelectorAll("figure")].map((figure) => {
    const holder = figure.querySelector(".plot");
    const { data, layout, narrow } = JSON.parse(figure.querySelector(".drawing").textContent);
    const draw = () => Plotly.react(holder, data, changed(layout, narrowed.matches ? narrow : {}), config);
    for (const button of figure.querySelectorAll("button[data-group]")) {
      button.addEventListener("click", () => {
        const shown = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(shown));
        for (const trace of data) if (trace.meta === button.dataset.group) trace.visible = shown;
        draw();
      });
    }
    draw();
    return { holder, figure, draw };
  });

  narrowed.addEventListener("change", () => plots.forEach(({ draw }) => draw()));
  window.addEventListener("beforeprint", () => {
    for (const { holder, figure } of plots) {
      const width = figure.classList.contains("half") ? PRINTED_WIDTH / 2 - 16 : PRINTED_WIDTH;
      Plotly.relayout(holder, { width, autosize: false });
    }
  });
  window.addEventListener("afterprint", () => plots.forEach(({ draw }) => draw()));
})();
