"use strict";
(() => {
  const NEAR = 18; // pixels of a drawing within which a point is pointed at
  const CODE = /\(([a-z]{3}_[A-Z][a-z]{3})\)$/;
  const byGroup = new Map();
  const names = new Map();
  const remember = (group, element) => {
    if (!byGroup.has(group)) byGroup.set(group, []);
    byGroup.get(group).push(element);
  };
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const make = (name, fields, ...children) => {
    const element = Object.assign(document.createElement(name), fields);
    element.append(...children);
    return element;
  };

  // Languages by the code at the end of a row's heading or of an entry of a key.
  for (const row of all("tbody tr")) {
    const text = row.firstElementChild.textContent.trim();
    const code = CODE.exec(text)?.[1];
    if (!code) continue;
    names.set(text, code);
    remember(code, row);
  }
  for (const mark of all("svg [data-g]")) remember(mark.dataset.g, mark);
  for (const button of all(".key button")) {
    const code = CODE.exec(button.textContent.trim())?.[1];
    if (code) names.set(button.textContent.trim().replace(/^\S+\s/, ""), code);
  }

  let pinned = null;
  let lit = null;
  const light = (asked) => {
    const group = asked ?? pinned;
    if (group === lit) return;
    lit = group;
    for (const element of all(".lit")) element.classList.remove("lit");
    for (const element of all(".dim")) element.classList.remove("dim");
    if (group === null) return;
    for (const element of byGroup.get(group) ?? []) {
      element.classList.add("lit");
      if (element.matches("g")) for (const other of all("g[data-g]", element.parentNode)) other.classList.toggle("dim", other.dataset.g !== group);
    }
  };

  const scale = (svg, name) => {
    const [low, high, start, end] = (svg.dataset[name] ?? "0,1,0,1").split(",").map(Number);
    return {
      pixel: (value) => start + ((end - start) * (value - low)) / (high - low),
      value: (pixel) => low + ((high - low) * (pixel - start)) / (end - start),
    };
  };

  const nearest = (svg, parts, at) => {
    let best = null;
    for (const trace of parts.data) {
      const [x, y] = [scale(svg, trace.xaxis ?? "x"), scale(svg, trace.yaxis ?? "y")];
      if (trace.type === "heatmap") {
        const numeric = (list) => typeof list[0] === "number";
        const place = (list, value) => (numeric(list) ? list.findIndex((each) => each === Math.round(value)) : Math.round(value));
        const [column, row] = [place(trace.x, x.value(at.x)), place(trace.y, y.value(at.y))];
        const value = trace.z[row]?.[column];
        if (value === null || value === undefined) continue;
        const text = trace.hovertext?.[row][column] ?? `<b>${trace.y[row]}</b><br><b>${trace.x[column]}</b><br>${Number(value).toPrecision(3)}`;
        best = { distance: 0, text, row, x: at.x, y: at.y };
      } else if (trace.hovertext && trace.hidden !== true) {
        trace.hovertext.forEach((text, place) => {
          if (!text || trace.y[place] === null || trace.x[place] === null) return;
          const point = { x: x.pixel(trace.x[place]), y: y.pixel(trace.y[place]) };
          const distance = Math.hypot(point.x - at.x, point.y - at.y);
          if (distance < (best?.distance ?? NEAR)) best = { distance, text, group: trace.meta, row: Math.round(trace.y[place]), ...point };
        });
      }
    }
    return best;
  };

  // Hover texts were escaped for HTML when they were written; of their tags only bold and line breaks are kept.
  const words = (text) => {
    const tip = make("div", { className: "tip" });
    for (const node of new DOMParser().parseFromString(text, "text/html").body.childNodes) {
      if (node.nodeName === "BR") tip.append(make("br"));
      else tip.append(node.nodeName === "B" ? make("b", { textContent: node.textContent }) : node.textContent);
    }
    return tip;
  };

  const save = (name, type, text) => {
    const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const cell = (value) => {
    const text = String(value ?? "").replace(/\s*\n\s*/g, " ");
    const safe = /^[=+@]/.test(text) && isNaN(text) ? `'${text}` : text;
    return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const csv = (rows) => rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";

  const figureRows = ({ data, rows }) => {
    const lines = [["group", "x", "y", "low", "high", "value"]];
    for (const trace of data) {
      if (trace.type === "heatmap") {
        trace.z.forEach((row, at) => row.forEach((value, column) => lines.push([rows[at] ?? "", trace.x[column], trace.y[at], "", "", value])));
      } else if (trace.hovertext) {
        const bars = trace.error_x ?? trace.error_y;
        const along = trace.error_x ? trace.x : trace.y;
        trace.x.forEach((x, place) => {
          if (x === null || trace.y[place] === null) return;
          const ends = trace.customdata?.[place] ?? (bars ? [along[place] - bars.arrayminus[place], along[place] + bars.array[place]] : []);
          lines.push([rows[Math.round(trace.y[place])] ?? trace.meta, x, trace.y[place], ends[0], ends[1], ""]);
        });
      }
    }
    return lines;
  };
  const drawn = (svg) => {
    const copy = svg.cloneNode(true);
    const style = getComputedStyle(document.documentElement);
    const paints = new Set(copy.outerHTML.match(/--[a-z0-9]+/g));
    copy.setAttribute("style", [...paints].map((name) => `${name}:${style.getPropertyValue(name)}`).join(";") + ";font-family:sans-serif;background:var(--paper)");
    const look = document.createElementNS("http://www.w3.org/2000/svg", "style");
    look.textContent = "text{fill:var(--ink)}.row{fill:none}";
    copy.prepend(look);
    return new XMLSerializer().serializeToString(copy);
  };

  for (const figure of all("figure")) {
    const parts = JSON.parse(figure.querySelector(".drawing").textContent);
    const plot = figure.querySelector(".plot");
    const button = (text, act) => {
      const made = make("button", { type: "button", textContent: text });
      made.addEventListener("click", act);
      return made;
    };
    const shown = () => all("svg", plot).find((svg) => svg.getBoundingClientRect().width > 0);
    plot.after(
      make(
        "div",
        { className: "tools" },
        button("SVG", () => save(`${figure.id}.svg`, "image/svg+xml", drawn(shown()))),
        button("CSV", () => save(`${figure.id}.csv`, "text/csv", csv(figureRows(parts)))),
      ),
    );
    for (const entry of all("button[data-group]", figure)) {
      const group = entry.dataset.group;
      entry.addEventListener("click", () => {
        const on = entry.getAttribute("aria-pressed") !== "true";
        entry.setAttribute("aria-pressed", String(on));
        for (const mark of all("[data-g], [data-key]", plot)) {
          if (mark.dataset.g === group || mark.dataset.key === group) mark.classList.toggle("off", !on);
        }
        for (const trace of parts.data) if (trace.meta === group || trace.legendgroup === group) trace.hidden = !on;
      });
      if (byGroup.has(group) && CODE.test(entry.textContent.trim())) {
        entry.addEventListener("pointerenter", () => light(group));
        entry.addEventListener("pointerleave", () => light(null));
        entry.addEventListener("focus", () => light(group));
        entry.addEventListener("blur", () => light(null));
      }
    }
    const clear = () => {
      for (const tip of all(".tip", plot)) tip.remove();
    };
    for (const svg of all("svg", plot)) {
      svg.addEventListener("pointermove", (event) => {
        const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
        const hit = nearest(svg, parts, at);
        const row = parts.rows[Math.round(scale(svg, "y").value(at.y))];
        clear();
        light((hit ? parts.rows[hit.row] ?? (byGroup.has(hit.group) ? hit.group : null) : null) ?? row ?? null);
        if (!hit) return;
        const frame = plot.getBoundingClientRect();
        const tip = words(hit.text);
        plot.append(tip);
        const left = event.clientX - frame.left + 14;
        tip.style.left = `${Math.max(0, left + tip.offsetWidth > frame.width ? left - tip.offsetWidth - 28 : left)}px`;
        tip.style.top = `${event.clientY - frame.top + 14}px`;
      });
      svg.addEventListener("pointerleave", () => {
        clear();
        light(null);
      });
    }
  }

  for (const table of all("table")) {
    const title = table.closest(".scroll").getAttribute("aria-label");
    const made = make("button", { type: "button", textContent: "CSV" });
    made.addEventListener("click", () => {
      const rows = all("tr", table).map((row) => [...row.children].map((each) => each.textContent.trim()));
      save(`${title.replace(/\W+/g, "-")}.csv`, "text/csv", csv(rows));
    });
    table.closest(".scroll").before(make("div", { className: "tools" }, made));
  }

  if (names.size > 1) {
    const list = make("datalist", { id: "languages" });
    for (const text of [...names.keys()].sort()) list.append(make("option", { value: text }));
    const input = make("input", { type: "search", placeholder: "find a language" });
    input.setAttribute("list", "languages");
    input.setAttribute("aria-label", "Find a language in every figure and table");
    input.addEventListener("input", () => {
      const asked = input.value.trim().toLowerCase();
      const found = [...names].find(([text]) => asked && text.toLowerCase().startsWith(asked));
      pinned = found ? found[1] : null;
      light(null);
    });
    document.querySelector("nav").append(make("div", { className: "find" }, input, list));
  }

  const links = new Map(all("nav a[href^='#']").map((link) => [link.getAttribute("href").slice(1), link]));
  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        for (const link of links.values()) link.removeAttribute("aria-current");
        links.get(entry.target.id)?.setAttribute("aria-current", "true");
      }
    },
    { rootMargin: "0px 0px -75% 0px" },
  );
  for (const section of all("main > section")) seen.observe(section);
})();
