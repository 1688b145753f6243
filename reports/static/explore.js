"use strict";
// Lets a map be moved, enlarged and asked for its images. Without this script it stands whole, and nothing is missing.
(() => {
  const space = "http://www.w3.org/2000/svg";
  const source = document.getElementById("map-images");
  if (!source) return;
  const images = JSON.parse(source.dataset.told);
  const [width, height] = images.size;
  const title = (code) => images.classes[code] ?? "no label";

  const element = (name, attributes, ...children) => {
    const made = document.createElement(name);
    Object.assign(made, attributes);
    made.append(...children);
    return made;
  };
  const drawn = (name, attributes) => {
    const made = document.createElementNS(space, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };

  const explore = (figure) => {
    const { x, y } = JSON.parse(figure.dataset.places);
    const svg = figure.querySelector("svg");
    const paths = { right: svg.querySelector(".right"), wrong: svg.querySelector(".wrong") };
    const wrong = images.names.map((_, i) => images.labels[i] >= 0 && images.predicted[i] >= 0 && images.labels[i] !== images.predicted[i]);
    const ring = drawn("circle", { class: "ring", r: 0, cx: 0, cy: 0 });
    svg.append(ring);
    const seen = element("div", { className: "seen" });
    seen.setAttribute("role", "status");
    let view = { x: 0, y: 0, zoom: 1 };
    let wanted = "";
    let current = -1;
    const shown = (i) => x[i] !== null && (wanted === "" || String(images.labels[i]) === wanted);

    const draw = () => {
      const [w, h] = [width / view.zoom, height / view.zoom];
      view.x = Math.min(Math.max(view.x, 0), width - w);
      view.y = Math.min(Math.max(view.y, 0), height - h);
      svg.setAttribute("viewBox", `${view.x} ${view.y} ${w} ${h}`);
      figure.classList.toggle("near", view.zoom > 1);
      const arm = 1.6 / view.zoom;
      const d = { right: "", wrong: "" };
      for (let i = 0; i < x.length; i++) {
        if (!shown(i)) continue;
        if (wrong[i]) d.wrong += `M${x[i] - arm} ${y[i] - arm}l${2 * arm} ${2 * arm}m0 ${-2 * arm}l${-2 * arm} ${2 * arm}`;
        else d.right += `M${x[i]} ${y[i]}h0`;
      }
      paths.right.setAttribute("d", d.right);
      paths.wrong.setAttribute("d", d.wrong);
      ring.setAttribute("r", current < 0 ? 0 : 5 / view.zoom);
    };

    const tell = (i) => {
      current = i;
      seen.replaceChildren();
      if (i < 0) seen.append(element("span", {}, "Point at an image, or tap it. Once chosen, the map is moved by dragging and enlarged by the wheel or two fingers."));
      else {
        ring.setAttribute("cx", x[i]);
        ring.setAttribute("cy", y[i]);
        if (images.atlas.drawn) {
          const at = [i % images.atlas.columns, Math.floor(i / images.atlas.columns)];
          const picture = drawn("svg", { viewBox: `${at[0]} ${at[1]} 1 1`, "aria-hidden": "true" });
          picture.append(drawn("use", { href: "#image-atlas", width: images.atlas.columns, height: images.atlas.rows }));
          seen.append(picture);
        }
        const verdict = wrong[i] ? `, predicted ${title(images.predicted[i])}: misclassified` : "";
        seen.append(element("span", {}, `${images.names[i]}: labelled ${title(images.labels[i])}${verdict}`));
      }
      ring.setAttribute("r", i < 0 ? 0 : 5 / view.zoom);
    };

    const place = (event) => {
      const box = svg.getBoundingClientRect();
      return [view.x + ((event.clientX - box.left) / box.width) * (width / view.zoom), view.y + ((event.clientY - box.top) / box.height) * (height / view.zoom)];
    };
    const nearest = ([px, py], reach) => {
      let best = -1;
      let least = reach * reach;
      for (let i = 0; i < x.length; i++) {
        if (!shown(i)) continue;
        const away = (x[i] - px) ** 2 + (y[i] - py) ** 2;
        if (away < least) [best, least] = [i, away];
      }
      return best;
    };
    const middle = () => (current < 0 ? [view.x + width / view.zoom / 2, view.y + height / view.zoom / 2] : [x[current], y[current]]);
    const zoom = (factor, [px, py] = middle()) => {
      const next = Math.min(Math.max(view.zoom * factor, 1), 24);
      view.x = px - ((px - view.x) * view.zoom) / next;
      view.y = py - ((py - view.y) * view.zoom) / next;
      view.zoom = next;
      draw();
    };
    const move = (dx, dy) => {
      view.x += (dx * width) / view.zoom;
      view.y += (dy * height) / view.zoom;
      draw();
    };
    const reset = () => {
      view = { x: 0, y: 0, zoom: 1 };
      draw();
    };
    // The next image from left to right, among those in sight.
    const step = (sign) => {
      const inside = (i) => x[i] >= view.x && x[i] <= view.x + width / view.zoom && y[i] >= view.y && y[i] <= view.y + height / view.zoom;
      const order = x.map((_, i) => i).filter((i) => shown(i) && inside(i)).sort((a, b) => x[a] - x[b] || a - b);
      if (!order.length) return tell(-1);
      const at = order.indexOf(current);
      return tell(order[at < 0 ? (sign > 0 ? 0 : order.length - 1) : (at + sign + order.length) % order.length]);
    };

    const keys = {
      ArrowLeft: () => move(-0.15, 0), ArrowRight: () => move(0.15, 0), ArrowUp: () => move(0, -0.15), ArrowDown: () => move(0, 0.15),
      "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: reset, n: () => step(1), p: () => step(-1), Escape: () => tell(-1),
    };
    svg.addEventListener("keydown", (event) => {
      if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      keys[event.key]();
    });
    svg.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && document.activeElement !== svg) return; // the page scrolls on over a map that nobody chose
      event.preventDefault();
      zoom(event.deltaY < 0 ? 1.25 : 0.8, place(event));
    }, { passive: false });
    const held = new Map();
    const mean = (points) => [0, 1].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
    const span = ([a, b]) => Math.hypot(a[0] - b[0], a[1] - b[1]);
    svg.addEventListener("pointerdown", (event) => {
      held.set(event.pointerId, [event.clientX, event.clientY]);
      svg.focus({ preventScroll: true });
      svg.setPointerCapture(event.pointerId);
      if (held.size === 1) tell(nearest(place(event), 12 / view.zoom));
    });
    for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, (event) => held.delete(event.pointerId));
    svg.addEventListener("pointermove", (event) => {
      if (!held.has(event.pointerId)) {
        const found = nearest(place(event), 6 / view.zoom);
        if (found !== current && found >= 0) tell(found);
        return;
      }
      const before = [...held.values()];
      held.set(event.pointerId, [event.clientX, event.clientY]);
      const after = [...held.values()];
      const [from, to, box] = [mean(before), mean(after), svg.getBoundingClientRect()];
      move((from[0] - to[0]) / box.width, (from[1] - to[1]) / box.height);
      if (after.length === 2 && span(before) > 0) zoom(span(after) / span(before), place({ clientX: to[0], clientY: to[1] }));
    });

    const button = (text, label, act) => {
      const made = element("button", { type: "button" }, text);
      made.setAttribute("aria-label", label);
      made.addEventListener("click", act);
      return made;
    };
    const choice = element("select", {}, element("option", { value: "" }, "all classes"));
    choice.setAttribute("aria-label", "Class to show");
    for (const code of [...new Set(images.labels)].sort((a, b) => a - b)) choice.append(element("option", { value: String(code) }, title(code)));
    choice.addEventListener("change", () => {
      wanted = choice.value;
      tell(-1);
      draw();
    });
    const controls = element("div", { className: "controls" }, button("+", "Enlarge", () => zoom(1.5)), button("−", "Reduce", () => zoom(1 / 1.5)),
      button("Whole", "Show the whole map", reset), button("‹", "Previous image", () => step(-1)), button("›", "Next image", () => step(1)), choice);
    svg.setAttribute("tabindex", "0");
    svg.setAttribute("role", "application");
    svg.setAttribute("aria-label", `${svg.getAttribute("aria-label")}. Arrow keys move it, plus and minus scale it, 0 shows all, n and p go from image to image.`);
    figure.classList.add("live");
    svg.after(controls, seen);
    tell(-1);
    draw();
  };

  for (const figure of document.querySelectorAll("figure.explorer")) explore(figure);
})();
