// Lines with bands, their legend, and points with names.
(() => {
  "use strict";
  const cutlayer = (globalThis.cutlayer ??= {});
  const {
    DASHES, explore, extent, html, hush, line, logTicks, number, onWidth, sayIn, svg, ticks,
  } = cutlayer.charts;
  /** spec: title, x, y, log, whole, series of {label, x, y, low, high} or {label, level}. */
  function lines(host, spec, hidden = new Set()) {
    const places = [...new Set(spec.series.flatMap((one) => one.x ?? []))].sort((a, b) => a - b);
    let cursor = -1;
    const name = `${spec.title}. ` + spec.series.map((one) => one.level !== undefined
      ? `${one.label}: ${number(one.level)}`
      : `${one.label}: ${number(one.y[0])} at ${number(one.x[0])} to ${number(one.y.at(-1))} at `
        + number(one.x.at(-1))).join("; ") + ". Arrow keys read the points.";
    const picture = svg("svg", { role: "img", tabindex: 0, "aria-label": name, class: "chart" });
    host.append(picture);

    const draw = onWidth(host, (width) => {
      const height = Math.round(Math.min(300, Math.max(200, width * 0.55)));
      const box = { left: 44, right: width - 10, top: 10, bottom: height - 40 };
      const shown = spec.series.filter((one) => !hidden.has(one.label));
      const [low, high] = extent(shown.flatMap((one) =>
        one.level !== undefined ? [one.level] : [...one.y, ...(one.low ?? []), ...(one.high ?? [])]));
      const room = (high - low || Math.abs(high) || 1) * 0.08;
      const y0 = low >= 0 ? Math.max(0, low - room) : low - room, y1 = high + room;
      let [x0, x1] = extent(places);
      if (!places.length) [x0, x1] = [0, 1];
      if (spec.log) x0 = places.find((place) => place > 0);
      if (x0 === x1) [x0, x1] = spec.log ? [x0 / 2, x1 * 2] : [x0 - 1, x1 + 1];
      const across = (value) => {
        const share = spec.log ? Math.log(value / x0) / Math.log(x1 / x0) : (value - x0) / (x1 - x0);
        return box.left + 6 + share * (box.right - box.left - 12);
      };
      const down = (value) => box.bottom - ((value - y0) / (y1 - y0)) * (box.bottom - box.top);
      const marks = [];
      for (const tick of ticks(y0, y1, height / 55)) {
        marks.push(svg("line", { class: "grid", x1: box.left, x2: box.right, y1: down(tick), y2: down(tick) }));
        marks.push(svg("text", { x: box.left - 6, y: down(tick) + 4, "text-anchor": "end" }, number(tick)));
      }
      let last = -Infinity;
      for (const tick of spec.log ? logTicks(x0, x1) : ticks(x0, x1, width / 80, spec.whole)) {
        const at = across(tick), half = 3.6 * number(tick).length;
        if (at - half < last || at + half > width) continue;
        last = at + half + 6;
        marks.push(svg("line", { class: "grid", x1: at, x2: at, y1: box.top, y2: box.bottom }));
        marks.push(svg("text", { x: at, y: box.bottom + 16, "text-anchor": "middle" }, number(tick)));
      }
      marks.push(svg("text", { class: "axis", x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" },
        spec.x + (spec.log ? ", logarithmic" : "")));
      spec.series.forEach((one, index) => {
        if (hidden.has(one.label)) return;
        const style = `stroke:${line(index)};fill:none`;
        const dash = DASHES[index % DASHES.length];
        if (one.level !== undefined) {
          marks.push(svg("line", { class: "line", style, "stroke-dasharray": dash || "4 4",
            x1: box.left, x2: box.right, y1: down(one.level), y2: down(one.level) }));
          return;
        }
        const kept = one.x.map((_, i) => i).filter((i) => one.y[i] !== null && (!spec.log || one.x[i] > 0));
        const path = (values, order) => order.map((i) => `${across(one.x[i]).toFixed(1)},${down(values[i]).toFixed(1)}`).join(" ");
        if (one.low) marks.push(svg("polygon", { class: "band", style: `fill:${line(index)}`,
          points: `${path(one.high, kept)} ${path(one.low, [...kept].reverse())}` }));
        marks.push(svg("polyline", { class: "line", style, "stroke-dasharray": dash, points: path(one.y, kept) }));
        if (kept.length <= 25) for (const i of kept)
          marks.push(svg("circle", { cx: across(one.x[i]), cy: down(one.y[i]), r: 3.2, style: `fill:${line(index)}` }));
      });
      const rule = svg("line", { class: "rule", y1: box.top, y2: box.bottom, visibility: "hidden" });
      picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
      picture.setAttribute("height", height);
      picture.replaceChildren(...marks, rule);
      picture.reading = (place) => {
        const at = across(places[place]);
        rule.setAttribute("x1", at); rule.setAttribute("x2", at);
        rule.setAttribute("visibility", "visible");
        const said = [`${spec.x}: ${number(places[place])}`];
        spec.series.forEach((one) => {
          if (hidden.has(one.label) || !one.x) return;
          let near = 0;
          one.x.forEach((x, i) => { if (Math.abs(x - places[place]) <= Math.abs(one.x[near] - places[place])) near = i; });
          const span = one.low && one.low[near] !== one.high[near]
            ? ` (${number(one.low[near])} to ${number(one.high[near])})` : "";
          said.push(`${one.label}: ${number(one.y[near])}${span}`);
        });
        sayIn(picture, at, box.top + 10, said);
      };
      picture.nearest = (x) => places.reduce((best, place, i) =>
        Math.abs(across(place) - x) < Math.abs(across(places[best]) - x) ? i : best, 0);
      picture.unrule = () => rule.setAttribute("visibility", "hidden");
    });
    explore(picture, (x) => {
      if (!places.length) return;
      cursor = picture.nearest(x);
      picture.reading(cursor);
    }, (dx) => {
      if (!places.length) return;
      cursor = Math.min(places.length - 1, Math.max(0, cursor + dx));
      picture.reading(cursor);
    });
    for (const event of ["pointerleave", "blur"]) picture.addEventListener(event, () => picture.unrule?.());
    return draw;
  }

  /** Buttons that show and hide series in all charts that share `hidden`. */
  function legend(labels, hidden, changed) {
    const sample = (index) => svg("svg", { width: 34, height: 12, "aria-hidden": "true" },
      svg("line", { class: "line", x1: 1, x2: 33, y1: 6, y2: 6, style: `stroke:${line(index)}`, "stroke-dasharray": DASHES[index % DASHES.length] }),
      svg("circle", { cx: 17, cy: 6, r: 3.2, style: `fill:${line(index)}` }));
    return html("div", { class: "legend", role: "group", "aria-label": "Show or hide" },
      labels.map((label, index) => html("button", {
        type: "button", "aria-pressed": "true",
        onclick: (event) => {
          hidden.has(label) ? hidden.delete(label) : hidden.add(label);
          event.currentTarget.setAttribute("aria-pressed", String(!hidden.has(label)));
          changed();
        },
      }, sample(index), label)));
  }

  // ---- points with names ----
  /** spec: title, x, y, points of {label, x, y, front, line}; x is logarithmic. */
  function scatter(host, spec) {
    const picture = svg("svg", { role: "img", tabindex: 0, class: "chart",
      "aria-label": `${spec.title}. ` + spec.points.map((p) => `${p.label}: ${number(p.x)} ${spec.x}, ${number(p.y)} ${spec.y}`).join("; ") });
    host.append(picture);
    let cursor = -1, placed = [];
    const read = (i) => sayIn(picture, placed[i][0], placed[i][1], [spec.points[i].label,
      `${number(spec.points[i].x)} ${spec.unit}, ${number(spec.points[i].y)} %`]);
    onWidth(host, (width) => {
      const height = Math.round(Math.min(440, Math.max(280, width * 0.5)));
      const box = { left: 44, right: width - 14, top: 14, bottom: height - 40 };
      let [x0, x1] = extent(spec.points.map((p) => p.x)), [y0, y1] = extent(spec.points.map((p) => p.y));
      [x0, x1] = [x0 / 1.25, x1 * 1.25];
      const room = 0.12 * (y1 - y0 || 10);
      [y0, y1] = [y0 - room, y1 + room];
      const across = (v) => box.left + (Math.log(v / x0) / Math.log(x1 / x0)) * (box.right - box.left);
      const down = (v) => box.bottom - ((v - y0) / (y1 - y0)) * (box.bottom - box.top);
      const marks = [];
      for (const tick of ticks(y0, y1, height / 60)) marks.push(
        svg("line", { class: "grid", x1: box.left, x2: box.right, y1: down(tick), y2: down(tick) }),
        svg("text", { x: box.left - 6, y: down(tick) + 4, "text-anchor": "end" }, number(tick)));
      let last = -Infinity;
      for (const tick of logTicks(x0, x1)) {
        if (across(tick) < last || across(tick) + 3.6 * number(tick).length > width) continue;
        last = across(tick) + 7 * number(tick).length + 8;
        marks.push(svg("line", { class: "grid", x1: across(tick), x2: across(tick), y1: box.top, y2: box.bottom }),
          svg("text", { x: across(tick), y: box.bottom + 16, "text-anchor": "middle" }, number(tick)));
      }
      marks.push(svg("text", { class: "axis", x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, spec.x));
      const front = spec.points.filter((p) => p.front).sort((a, b) => a.x - b.x);
      const steps = front.map((p, i) => `${i ? `H${across(p.x)}` : `M${across(p.x)},${down(p.y)}`}V${down(p.y)}`).join("");
      marks.push(svg("path", { class: "front", d: steps }));
      placed = spec.points.map((p) => [across(p.x), down(p.y)]);
      const taken = placed.map(([x, y]) => [x - 8, y - 8, x + 8, y + 8]);
      spec.points.forEach((p, i) => marks.push(svg("circle", { cx: placed[i][0], cy: placed[i][1], r: p.front ? 7 : 5.5,
        style: `fill:${line(p.line)};stroke:var(${p.front ? "--ink" : "--card"});stroke-width:1.5` })));
      const order = spec.points.map((_, i) => i).sort((a, b) => spec.points[b].front - spec.points[a].front);
      for (const i of order) {
        const p = spec.points[i], wide = 6.6 * p.label.length, [x, y] = placed[i];
        const free = [[10, 4], [-wide - 10, 4], [-wide / 2, -13], [-wide / 2, 22], [10, -12], [10, 20]].find(([dx, dy]) => {
          const area = [x + dx, y + dy - 11, x + dx + wide, y + dy + 3];
          return area[0] > box.left && area[2] < width && area[1] > 0 && area[3] < box.bottom
            && !taken.some((t) => area[0] < t[2] && t[0] < area[2] && area[1] < t[3] && t[1] < area[3]);
        });
        if (!free) continue;  // its name is in the tip and in the table
        const [dx, dy] = free;
        taken.push([x + dx, y + dy - 11, x + dx + wide, y + dy + 3]);
        marks.push(svg("text", { class: p.front ? "name strong halo" : "name halo", x: x + dx, y: y + dy }, p.label));
      }
      picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
      picture.setAttribute("height", height);
      picture.replaceChildren(...marks);
    });
    explore(picture, (x, y) => {
      const far = placed.map(([px, py]) => Math.hypot(px - x, py - y));
      const near = far.indexOf(Math.min(...far));
      far[near] < 30 ? read((cursor = near)) : hush();
    }, (dx, dy) => {
      cursor = (cursor + dx + dy + placed.length) % placed.length;
      read(cursor);
    });
  }

  Object.assign(cutlayer.charts, { legend, lines, scatter });
})();
