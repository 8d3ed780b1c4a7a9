// The views of a round at a time: who got what, the timeline, and the map.
(() => {
  "use strict";
  const cutlayer = (globalThis.cutlayer ??= {});
  const {
    choice, colour, explore, extent, heatmap, html, hush, number, onWidth, prepare, ramp, sayIn,
    shades, stepper, svg, table, ticks, unpack,
  } = cutlayer.charts;
  const STAGES = {
    broadcast: "c5", forward: "c0", uplink: "c1", server: "grey", downlink: "c3", backward: "c2",
    tail_downlink: "c3", tail: "c5", tail_uplink: "c1", server_backward: "grey",
    upload: "c4", aggregation: "c6",
  };
  // Colours that two stages share: those of a tail are hatched.
  const HATCHED = new Set(["tail_downlink", "tail", "tail_uplink", "server_backward"]);
  const isUnit = (text) => /^[A-Za-z]{1,3}$/.test(text);
  // What a device is called: its name where it joined a network under one.
  const called = (data, m) => data.names[m] ?? `device ${m}`;
  function paint(context, stage) {
    if (!HATCHED.has(stage)) return colour(STAGES[stage]);
    const tile = html("canvas", { width: 5, height: 5 }), pen = tile.getContext("2d");
    pen.fillStyle = colour(STAGES[stage]);
    pen.fillRect(0, 0, 5, 5);
    pen.strokeStyle = colour("card");
    for (const at of [0, 5, 10]) { pen.beginPath(); pen.moveTo(at, 0); pen.lineTo(at - 5, 5); pen.stroke(); }
    return context.createPattern(tile, "repeat");
  }
  const unpackAll = (...packed) => Promise.all(packed.map(unpack));

  async function allocation(place, data, shared) {
    const values = await unpackAll(...data.quantities.map((one) => one.values));
    const said = (one) => (value) => (one.all !== undefined && value === one.all ? `all${value ? ` ${number(value)}` : ""}` : number(value));
    const named = (one, value) => `${one.title} ${said(one)(value)}${!one.unit ? "" : isUnit(one.unit) ? ` ${one.unit}` : ` (${one.unit})`}`;
    if (data.alike.length) place.append(html("p", { class: "note" }, "The same for all, always: ",
      data.alike.map((one) => named(one, one.value)).join(", "), "."));
    const host = html("div", { class: "host" }), detail = html("div", {});
    let map = null;
    const steps = stepper(data.rounds, shared, (c) => { map?.mark(c); detail.replaceChildren(roundTable(c)); });
    const show = (key) => {
      const i = data.quantities.findIndex((one) => one.key === key), one = data.quantities[i];
      host.replaceChildren();
      map = heatmap(host, {
        title: one.title, unit: one.unit, log: one.log, rows: data.devices, columns: data.rounds.length,
        value: values[i].at, format: said(one), rowName: (r) => data.names[r], shortName: String,
        columnName: (c) => `round ${data.rounds[c]}`, columnLabel: (c) => data.rounds[c], x: "round", y: "device",
        pick: (c) => steps.go(c),
      });
    };
    if (data.quantities.length) {
      const first = data.quantities[0].key;
      place.append(choice("Quantity", data.quantities.map((one) => [one.key, one.title]), first, (key) => { show(key); steps.start(); }), host);
      show(first);
    }
    function roundTable(c) {
      const missed = data.missed[c], rows = [];
      for (let m = 0; m < data.devices; m++) {
        const took = values.some((one) => !Number.isNaN(one.at(m, c)));
        if (!took && missed[m] === undefined) continue;
        rows.push([m, ...data.quantities.map((one, i) => {
          const value = values[i].at(m, c);
          return { text: Number.isNaN(value) ? "-" : said(one)(value), value: Number.isNaN(value) ? -1 : value };
        }), missed[m] ?? "took part"]);
      }
      const [took, planned] = data.seconds[c];
      const time = took === null ? "" : ` It took ${number(took)} s${planned === null ? "" : `; ${number(planned)} s were planned`}.`;
      return html("div", {}, html("p", {}, `Round ${data.rounds[c]}: ${rows.length} devices.${time}`),
        table([{ title: "device", numeric: true }, ...data.quantities.map((one) => ({ title: `${one.title}${isUnit(one.unit) ? ` (${one.unit})` : ""}`, numeric: true })), { title: "turn" }], rows, `Round ${data.rounds[c]}`));
    }
    place.append(html("h3", {}, "One round"), steps.element, detail);
    steps.start();
  }

  async function gantt(place, data, shared) {
    const [where, stage, start, end] = await unpackAll(data.place, data.stage, data.start, data.end);
    const offsets = [0];
    for (const size of data.sizes) offsets.push(offsets.at(-1) + size);
    const host = html("div", { class: "host" }), caption = html("p", {});
    const canvas = html("canvas", { role: "img", tabindex: 0, class: "chart" });
    host.append(canvas);
    let round = 0, geometry = null, cursor = [0, -1];
    const isLate = (m) => data.late[round].includes(data.devices[round][m]);
    const used = new Set(stage.values);
    // One way, a device computes the next step while it sends the last: a lane for each.
    const oneWay = !used.has(data.stages.indexOf("backward"));
    const computes = data.stages.map((name) => name === "forward" || name === "server");
    const lane = (i) => (!oneWay ? [0.1, 0.8] : computes[i] ? [0.1, 0.36] : [0.48, 0.42]);
    const spans = (m) => {
      const found = [];
      for (let i = offsets[round]; i < offsets[round + 1]; i++) if (where.values[i] === m) found.push(i);
      return found.sort((a, b) => start.values[a] - start.values[b]);
    };
    const read = (i) => {
      const seconds = data.last[round], m = where.values[i];
      sayIn(canvas, geometry.across((start.values[i] + Math.min(end.values[i], geometry.last)) / 2), geometry.top(m), [
        `${called(data, data.devices[round][m])}${isLate(m) ? ", late" : ""}`,
        `${data.stages[stage.values[i]].replace("_", " ")}: ${number(start.values[i] * seconds)} to ${number(end.values[i] * seconds)} s`]);
    };
    const draw = onWidth(host, (width) => {
      const ids = data.devices[round], rows = Math.max(1, ids.length), seconds = data.last[round];
      const tall = Math.max(3, Math.min(22, 560 / rows)), left = 44, right = width - 10;
      const height = Math.round(rows * tall + 44), context = prepare(canvas, width, height);
      // Who is far too late does not squeeze the round itself.
      const last = Math.min(1, (1.3 * data.seconds[round]) / seconds);
      const across = (share) => left + (share / last) * (right - left), top = (m) => 4 + m * tall;
      geometry = { across, top, tall, left, right, last };
      context.font = "11px system-ui, sans-serif";
      context.strokeStyle = colour("grid");
      context.fillStyle = colour("faint");
      context.textAlign = "center";
      for (const tick of ticks(0, last * seconds, width / 90)) {
        const at = across(tick / seconds);
        context.beginPath(); context.moveTo(at, 4); context.lineTo(at, 4 + rows * tall); context.stroke();
        context.fillText(number(tick), at, rows * tall + 18);
      }
      context.fillText("seconds since the round began", (left + right) / 2, height - 5);
      const colours = data.stages.map((name) => paint(context, name));
      for (let i = offsets[round]; i < offsets[round + 1]; i++) {
        context.fillStyle = colours[stage.values[i]];
        if (start.values[i] >= last) continue;
        const x = across(start.values[i]), wide = across(Math.min(end.values[i], last)) - x;
        const [above, high] = lane(stage.values[i]);
        // A hair between one step and the next.
        context.fillRect(x, top(where.values[i]) + tall * above, Math.max(0.6, wide > 4 ? wide - 0.7 : wide), tall * high);
      }
      context.textAlign = "right";
      context.textBaseline = "middle";
      const every = Math.max(1, Math.ceil(13 / tall));
      for (let m = 0; m < ids.length; m += every) {
        context.fillStyle = colour(isLate(m) ? "c1" : "faint");
        context.fillText(`${ids[m]}${isLate(m) ? " !" : ""}`, left - 6, top(m) + tall / 2);
      }
      canvas.setAttribute("aria-label", `Timeline of round ${data.rounds[round]}: ${ids.length} devices, ${number(data.seconds[round])} seconds. Arrow keys read the stages.`);
    });
    const steps = stepper(data.rounds, shared, (to) => {
      round = to;
      cursor = [0, -1];
      const late = data.late[to].length;
      caption.textContent = `Round ${data.rounds[to]} took ${number(data.seconds[to])} s with ${data.devices[to].length} devices${late ? `, ${late} of them late (!)` : ""}.`;
      if (geometry) draw();
    });
    explore(canvas, (x, y) => {
      const share = ((x - geometry.left) / (geometry.right - geometry.left)) * geometry.last;
      const m = Math.floor((y - 4) / geometry.tall);
      const inRow = (y - 4) / geometry.tall - m;
      const hit = spans(m).find((i) => start.values[i] <= share && share <= end.values[i]
        && (!oneWay || inRow < 0.47 === computes[stage.values[i]]));
      hit === undefined ? hush() : read(hit);
    }, (dx, dy) => {
      cursor = dy ? [Math.min(data.devices[round].length - 1, Math.max(0, cursor[0] + dy)), 0] : [cursor[0], cursor[1] + dx];
      const found = spans(cursor[0]);
      cursor[1] = Math.min(found.length - 1, Math.max(0, cursor[1]));
      if (found.length) read(found[cursor[1]]);
    });
    place.append(steps.element, caption, html("div", { class: "legend" }, data.stages.filter((_, i) => used.has(i)).map((name) =>
      html("span", {}, html("i", { class: HATCHED.has(name) ? "chip hatched" : "chip", style: `background-color:var(--${STAGES[name]})` }), name.replace("_", " ")))), host);
    steps.start();
  }

  async function fleet(place, data, shared) {
    const [x, y, speed, rate, covered] = await unpackAll(data.x, data.y, data.speed, data.rate, data.covered);
    const count = x.columns, moves = extent(speed.values)[1] > 0;
    const still = (array) => (r, m) => array.at(array.rows === 1 ? 0 : r, m);
    const px = still(x), py = still(y);
    let round = 0, by = "rate", cursor = -1, placed = [];
    const picture = svg("svg", { role: "img", tabindex: 0, class: "chart map" });
    const host = html("div", { class: "host" }), key = html("div", { class: "key" });
    host.append(picture, key);
    const outer = data.coverage_m * 1.04;
    // A few very good or bad links must not take all the colours.
    const ranges = { rate: bulk(rate.values), speed: bulk(speed.values) };
    const [x0, x1] = [Math.min(-outer, extent(x.values)[0]), Math.max(outer, extent(x.values)[1])];
    const [y0, y1] = [Math.min(-outer, extent(y.values)[0]), Math.max(outer, extent(y.values)[1])];
    const read = (m) => sayIn(picture, placed[m][0], placed[m][1], [`${called(data, data.numbers?.[m] ?? m)}${data.cohorts[round].includes(m) ? ", took part" : ""}`,
      `${number(Math.hypot(px(round, m), py(round, m)))} m away${moves ? `, ${number(speed.at(round, m))} m/s` : ""}`,
      covered.at(round, m) ? `${number(rate.at(round, m))} Mbit/s up` : "out of coverage"]);
    const draw = onWidth(host, (width) => {
      const scale = Math.min(width / (x1 - x0), 560 / (y1 - y0)), height = Math.round((y1 - y0) * scale);
      const across = (v) => width / 2 + (v - (x0 + x1) / 2) * scale, down = (v) => height / 2 - (v - (y0 + y1) / 2) * scale;
      const of = by === "rate" ? rate : speed;
      const [low, high] = ranges[by], log = by === "rate" && low > 0;
      const share = (v) => (high === low ? 0.7 : log ? Math.log(v / low) / Math.log(high / low) : (v - low) / (high - low));
      const joined = new Set(data.cohorts[round]), size = count > 300 ? 3 : count > 60 ? 4.5 : 6.5, marks = [], rgb = shades();
      marks.push(svg("circle", { class: "reach", cx: across(0), cy: down(0), r: data.coverage_m * scale }));
      for (const ring of ticks(0, data.coverage_m, 3).slice(1)) marks.push(
        svg("circle", { class: "ring", cx: across(0), cy: down(0), r: ring * scale }),
        svg("text", { class: "halo", x: across(0), y: down(ring) - 3, "text-anchor": "middle" }, `${number(ring)} m`));
      placed = [];
      for (let m = 0; m < count; m++) {
        placed.push([across(px(round, m)), down(py(round, m))]);
        const inside = covered.at(round, m), value = of.at(round, m);
        const paint = !inside || Number.isNaN(value) ? "fill:none;stroke:var(--faint)" : `fill:${rgb(share(value))};stroke:var(${joined.has(m) ? "--ink" : "--grey"})`;
        marks.push(svg("circle", { cx: placed[m][0], cy: placed[m][1], r: size, style: `${paint};stroke-width:${joined.has(m) ? 2.2 : 1}` }));
      }
      marks.push(svg("path", { class: "server", d: `M${across(0)},${down(0) - 10}l9,16h-18z` }, svg("title", {}, "the server")));
      picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
      picture.setAttribute("height", height);
      picture.setAttribute("aria-label", `Map of ${count} devices at the start of round ${data.rounds[round]}, coverage ${number(data.coverage_m)} m. Arrow keys read the devices.`);
      picture.replaceChildren(...marks);
      key.replaceChildren(html("span", { class: "server", "aria-hidden": "true" }, "▲"), "server", html("span", { class: "gap" }), `${number(low)} or less`, ramp(), by === "rate" ? `${number(high)} Mbit/s up or more${log ? ", logarithmic" : ""}` : `${number(high)} m/s or more`);
    });
    const caption = html("p", {});
    const steps = stepper(data.rounds, shared, (to) => {
      round = to;
      let inside = 0;
      for (let m = 0; m < count; m++) inside += covered.at(to, m);
      caption.textContent = `Round ${data.rounds[to]}: ${inside} of ${count} devices in coverage, ${data.cohorts[to].length} took part.`;
      if (placed.length) draw();
    });
    explore(picture, (mx, my) => {
      const box = picture.getBoundingClientRect(), zoom = box.width / (picture.viewBox.baseVal.width || 1);
      let near = -1, best = 18;
      placed.forEach(([a, b], m) => {
        const far = Math.hypot(a * zoom - mx, b * zoom - my);
        if (far < best) [near, best] = [m, far];
      });
      near < 0 ? hush() : read((cursor = near));
    }, (dx, dy) => read((cursor = (cursor + dx + dy + count) % count)));
    place.append(steps.element, caption);
    if (moves) place.append(choice("Colour", [["rate", "link rate"], ["speed", "speed"]], "rate", (value) => { by = value; draw(); }));
    place.append(host);
    steps.start();
  }

  /** The range of all but the lowest and highest two in a hundred. */
  function bulk(values) {
    const stride = Math.ceil(values.length / 5000);  // a sample of them is as good
    const sorted = values.filter((value, i) => i % stride === 0 && !Number.isNaN(value)).sort();
    const pick = (share) => sorted[Math.round(share * (sorted.length - 1))];
    return sorted.length ? [pick(0.02), pick(0.98)] : [0, 1];
  }

  Object.assign((cutlayer.views ??= {}), { allocation, fleet, gantt });
})();
