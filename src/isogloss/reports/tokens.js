"use strict";
(() => {
  let tip = null;
  const hide = () => {
    tip?.remove();
    tip = null;
  };
  for (const section of document.querySelectorAll("section")) {
    const data = JSON.parse(section.querySelector("script").textContent);
    for (const holder of section.querySelectorAll(".scroll")) {
      const svg = holder.querySelector("svg");
      const part = data.parts[Number(holder.dataset.part)];
      const [left, cell, top, row] = ["left", "cell", "top", "row"].map((name) => Number(svg.dataset[name]));
      svg.addEventListener("pointermove", (event) => {
        const frame = svg.getBoundingClientRect();
        const layer = Math.floor((event.clientX - frame.left - left) / cell);
        const token = Math.floor((event.clientY - frame.top - top) / row);
        hide();
        const ids = part.ids[layer]?.[token];
        if (!ids) return;
        const lines = ids.map((expert, rank) => {
          const marked = part.pivot?.[layer][token][rank] ? "  as the pivot" : "";
          return `expert ${expert}: weight ${part.weights[layer][token][rank]}, logit ${part.logits[layer][token][rank]}, rank ${part.ranks[layer][token][rank]}${marked}`;
        });
        tip = document.createElement("div");
        tip.className = "tip";
        tip.textContent = [`${data.tokens[token]}, layer ${data.layers[layer]}`, ...lines].join("\n");
        document.body.append(tip);
        tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
        tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
      });
      svg.addEventListener("pointerleave", hide);
    }
  }
})();
