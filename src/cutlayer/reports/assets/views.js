// How kinds of views (report/views) are drawn: functions (place, data, shared), by kind.
(() => {
  "use strict";
  const cutlayer = (globalThis.cutlayer ??= {});
  const {
    explore, heatmap, html, hush, legend, lines, number, numbers, onWidth, prepare, sayIn, scatter,
    svg, table, ticks, unpack,
  } = cutlayer.charts;
  const notes = (texts) => texts.map((text) => html("p", { class: "note" }, text));

  function headline(place, data) {
    place.append(html("dl", { class: "figures" }, data.figures.map((one) => html("div", {},
      html("dt", {}, one.name), html("dd", {}, one.value, one.note ? html("small", {}, one.note) : null)))),
    ...notes(data.notes));
  }

  function job(place, data) {
    const columns = [{ title: "setting" }, { title: "value" }, { title: "default" }];
    const cells = (row) => [row.path, row.value, row.usual];
    place.append(html("dl", { class: "facts" }, Object.entries(data.facts).map(([name, value]) =>
      html("div", {}, html("dt", {}, name), html("dd", {}, value)))));
    if (data.changed.length) place.append(html("h3", {}, "Set for this run"),
      table(columns, data.changed.map(cells), "Settings that are not the default"));
    place.append(numbers(columns.slice(0, 2), () => data.same.map((row) => cells(row).slice(0, 2)),
      "Settings at their default", `${data.same.length} settings at their default`));
  }

  function curves(place, data) {
    const hidden = new Set(), draws = [];
    const labels = data.charts[0].series.map((one) => one.label);
    // A line that spends nothing says so in its label, which then differs between charts.
    for (const chart of data.charts) chart.series.forEach((one, i) => { one.label = labels[i] ?? one.label; });
    if (labels.length > 1) place.append(legend(labels, hidden, () => draws.forEach((draw) => draw())));
    const grid = html("div", { class: "grid2" });
    place.append(grid);
    for (const chart of data.charts) {
      const host = html("div", { class: "host" });
      grid.append(html("figure", {}, html("figcaption", {}, html("strong", {}, chart.title), chart.y === "loss" ? "" : `, ${chart.y}`), host,
        numbers([{ title: "run" }, { title: chart.x, numeric: true }, { title: chart.y, numeric: true }],
          () => chart.series.flatMap((one) => one.level !== undefined
            ? [[one.label, { text: "none spent", value: 0 }, { text: number(one.level), value: one.level }]]
            : one.x.map((x, i) => [one.label, { text: number(x), value: x }, { text: number(one.y[i]), value: one.y[i] }])),
          chart.title)));
      draws.push(lines(host, chart, hidden));
    }
  }

  async function labels(place, data) {
    const counts = await unpack(data.counts);
    const host = html("div", { class: "host" });
    place.append(host);
    heatmap(host, {
      title: "samples", rows: counts.rows, columns: counts.columns, value: counts.at, blank: true, numbers: true,
      rowName: (r) => data.classes[r], columnName: (c) => `${data.names[c]} (${number(data.samples[c])} samples)`,
      x: "device", y: "label",
    });
  }

  async function devices(place, data) {
    const count = data.turns["took part"].length;
    if (data.accuracy.length) {
      const host = html("div", { class: "host" });
      place.append(html("h3", {}, "Accuracy on the test set, weighted by its own mix of labels"), host);
      bars(host, { title: "Accuracy by device, by its mix of labels", unit: "%", groups: { "accuracy (%)": data.accuracy }, colours: ["c0"], mean: true, names: data.names });
    }
    if (data.held_out.length) {
      const host = html("div", { class: "host" });
      place.append(html("h3", {}, "Accuracy on its own held-out samples"), host);
      bars(host, { title: "Accuracy by device, on its held-out samples", unit: "%", groups: { "accuracy (%)": data.held_out }, colours: ["c0"], names: data.names });
    }
    const turns = html("div", { class: "host" });
    place.append(html("h3", {}, "Turns"), turns);
    bars(turns, { title: "Turns by device", unit: "", groups: data.turns, colours: ["c2", "c4", "c1", "grey"], names: data.names });
    if (data.reasons.length) place.append(html("p", { class: "note" }, "Left out because: ",
      data.reasons.map(([reason, times]) => `${reason} (${number(times)})`).join("; "), "."));
    if (data.over_rounds) {
      const values = await unpack(data.over_rounds.values), host = html("div", { class: "host" });
      place.append(html("details", { open: count <= 100 }, html("summary", {}, "Accuracy of each device over the rounds"), host));
      heatmap(host, {
        title: "accuracy", unit: "%", rows: values.rows, columns: values.columns, value: values.at,
        rowName: (r) => data.names[r], shortName: String, columnName: (c) => `round ${data.over_rounds.rounds[c]}`,
        columnLabel: (c) => data.over_rounds.rounds[c], x: "round", y: "device",
      });
    }
    const held = data.held_out.length ? [{ title: "on held-out samples (%)", numeric: true }, { title: "held out", numeric: true }] : [];
    place.append(numbers([{ title: "device" }, { title: "by its mix of labels (%)", numeric: true }, ...held,
      ...Object.keys(data.turns).map((title) => ({ title, numeric: true }))],
    () => Array.from({ length: count }, (_, m) => [{ text: data.names[m].replace(/^device /, ""), value: m }, { text: number(data.accuracy[m]), value: data.accuracy[m] ?? -1 },
      ...(held.length ? [{ text: number(data.held_out[m]), value: data.held_out[m] ?? -1 }, data.held_out_samples[m]] : []),
      ...Object.values(data.turns).map((values) => values[m])]), "Accuracy and turns by device"));
  }

  async function classes(place, data) {
    if (data.matrix) {
      const values = await unpack(data.matrix), host = html("div", { class: "host" });
      place.append(html("h3", {}, "What each class is taken for"), host);
      heatmap(host, {
        title: "share of the true class", unit: "%", rows: values.rows, columns: values.columns, value: values.at, blank: true,
        rowName: (r) => data.names[r], columnName: (c) => `taken for ${data.names[c]}`,
        columnText: (c) => data.names[c],
        x: "predicted", y: "true class",
      });
    }
    if (data.wrong.length) place.append(html("p", { class: "note" }, "Most often wrong: ",
      data.wrong.slice(0, 6).map(([is, said, times]) => `${is} taken for ${said} (${number(times)})`).join("; "), "."));
    const samples = data.samples ? [{ title: "test samples", numeric: true }] : [];
    place.append(numbers([{ title: "class" }, { title: "accuracy (%)", numeric: true }, ...samples],
      () => data.names.map((name, i) => [name, { text: number(data.accuracy[i]), value: data.accuracy[i] ?? -1 },
        ...(samples.length ? [data.samples[i]] : [])]), "Accuracy by class"));
  }

  /** A bar a device, stacked by group. */
  function bars(host, spec) {
    const groups = Object.entries(spec.groups).map(([name, values], i) => ({ name, values, colour: spec.colours[i] }))
      .filter((group) => group.values.some((value) => value));
    const count = Object.values(spec.groups)[0].length;
    const sums = Array.from({ length: count }, (_, m) => groups.reduce((sum, group) => sum + (group.values[m] ?? 0), 0));
    const top = spec.unit === "%" ? 100 : Math.max(1, ...sums);
    const mean = sums.reduce((a, b) => a + b, 0) / count;
    const picture = svg("svg", { role: "img", tabindex: 0, class: "chart", "aria-label": `${spec.title}: ${count} devices, ${number(Math.min(...sums))} to ${number(Math.max(...sums))} ${spec.unit}, mean ${number(mean)}. Arrow keys read the bars.` });
    if (groups.length > 1) host.append(html("div", { class: "legend" }, groups.map((group) =>
      html("span", {}, html("i", { class: "chip", style: `background:var(--${group.colour})` }), group.name))));
    host.append(picture);
    let cursor = -1, across = () => 0, wide = 1;
    const read = (m) => sayIn(picture, across(m), 20, [spec.names[m], ...groups.map((group) => `${group.name}: ${number(group.values[m])}`)]);
    onWidth(host, (width) => {
      const height = 170, left = 44, right = width - 10, base = height - 36;
      wide = (right - left) / count;
      across = (m) => left + (m + 0.5) * wide;
      const tall = (value) => (value / top) * (base - 10), marks = [];
      for (const tick of ticks(0, top, 3, spec.unit !== "%")) marks.push(
        svg("line", { class: "grid", x1: left, x2: right, y1: base - tall(tick), y2: base - tall(tick) }),
        svg("text", { x: left - 6, y: base - tall(tick) + 4, "text-anchor": "end" }, number(tick)));
      const gap = wide > 5 ? 0.18 : 0;
      for (const group of groups) {
        let path = "";
        group.values.forEach((value, m) => {
          if (!value) return;
          const below = groups.slice(0, groups.indexOf(group)).reduce((sum, one) => sum + (one.values[m] ?? 0), 0);
          path += `M${(left + (m + gap / 2) * wide).toFixed(2)},${(base - tall(below)).toFixed(1)}v${(-tall(value)).toFixed(1)}h${((1 - gap) * wide).toFixed(2)}v${tall(value).toFixed(1)}z`;
        });
        marks.push(svg("path", { d: path, style: `fill:var(--${group.colour})` }));
      }
      if (spec.mean) marks.push(svg("line", { class: "rule", x1: left, x2: right, y1: base - tall(mean), y2: base - tall(mean) }),
        svg("text", { class: "halo", x: right, y: base - tall(mean) - 5, "text-anchor": "end" }, `mean ${number(mean)}`));
      const stride = Math.max(1, ...ticks(0, count, width / 50, true).slice(1, 2));
      for (let m = 0; m < count; m += stride) marks.push(svg("text", { x: across(m), y: base + 15, "text-anchor": "middle" }, m));
      marks.push(svg("text", { class: "axis", x: (left + right) / 2, y: height - 5, "text-anchor": "middle" }, "device"));
      picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
      picture.setAttribute("height", height);
      picture.replaceChildren(...marks);
    });
    explore(picture, (x) => {
      const m = Math.floor((x - 44) / wide);
      m >= 0 && m < count ? read((cursor = m)) : hush();
    }, (dx) => read((cursor = Math.min(count - 1, Math.max(0, cursor + dx)))));
  }

  async function patches(place, data) {
    const count = data.side ** 2, slid = data.budgets.length + 1;
    let kept = data.own ?? data.budgets[data.budgets.length - 1];
    const slide = html("input", { type: "range", min: 1, max: count, value: kept, "aria-label": "Patches kept" });
    const out = html("output", {}, `${kept} of ${count}`);
    const pictures = await Promise.all(data.images.map(async (one) => {
      const picture = new Image();
      picture.src = one.source;
      await picture.decode();
      return picture;
    }));
    const of = (number, text) => (number === data.own ? `${text}: this run` : text);
    const titles = [of(null, `all ${count}`), ...data.budgets.map((number) => of(number, String(number))), "by slider"];
    const cells = [];
    const rows = data.images.map((one, i) => html("tr", {}, html("th", { scope: "row" }, one.label), titles.map((_, column) => {
      const canvas = html("canvas", { role: "img" }), keep = () => (column === 0 ? count : column === slid ? kept : data.budgets[column - 1]);
      const answer = one.predicted[column];
      cells.push({ canvas, keep, picture: pictures[i], one });
      return html("td", {}, canvas, answer === undefined ? null
        : html("small", { class: answer === one.label ? "right" : "wrong" }, answer === one.label ? "✓ " : "✗ ", answer));
    })));
    const lay = (only) => {
      for (const cell of cells) if (!only || cell.keep() === kept) cover(cell.canvas, cell.picture, cell.one, cell.keep(), data);
    };
    slide.addEventListener("input", () => {
      kept = Number(slide.value);
      out.textContent = `${kept} of ${count}`;
      lay(true);
    });
    place.append(html("div", { class: "stepper" }, html("label", {}, "by slider: "), slide, out),
      html("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Images and kept patches" },
        html("table", { class: "patches", style: `--columns:${titles.length}` }, html("caption", { class: "hide" }, "Patches kept, by image and number"),
          html("thead", {}, html("tr", {}, html("td", {}), titles.map((title) => html("th", { scope: "col" }, title)))), html("tbody", {}, rows))));
    lay();
  }
  /** An image with its kept patches as they are and the others dimmed (merged) or dark (dropped). */
  function cover(canvas, picture, one, keep, data) {
    const size = 128, context = prepare(canvas, size, size), step = size / data.side;
    const kept = Math.min(keep, one.ranks.length);
    canvas.setAttribute("aria-label", `${one.label}, ${kept} of ${one.ranks.length} patches kept`);
    context.imageSmoothingEnabled = picture.naturalWidth > 64;
    context.drawImage(picture, 0, 0, size, size);
    one.ranks.forEach((rank, i) => {
      const left = (i % data.side) * step, top = Math.floor(i / data.side) * step;
      if (rank >= kept) {
        context.fillStyle = data.rest === "merge" ? "rgba(110,116,130,0.72)" : "rgba(0,0,0,0.88)";
        context.fillRect(left, top, step, step);
      } else if (kept < one.ranks.length) {
        context.strokeStyle = "rgba(255,200,0,0.6)";
        context.lineWidth = step > 6 ? 1 : 0.5;
        context.strokeRect(left + 0.5, top + 0.5, step - 1, step - 1);
      }
    });
  }

  function leakage(place, data) {
    const value = (text) => Number.parseFloat(String(text).replaceAll(",", ""));
    const cells = data.rows.map((row) => row.map((text, i) =>
      (data.columns[i].numeric ? { text, value: Number.isNaN(value(text)) ? -Infinity : value(text) } : text)));
    place.append(table(data.columns, cells, "What attacks made of each setting"), ...notes(data.notes));
    if (data.picture) place.append(html("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Images made again" },
      html("img", { src: data.picture, alt: "Attacked images, and what was made of what crosses the cut" })));
  }

  function comparison(place, data) {
    const decimals = (column) => {
      if (column.decimals !== null) return column.decimals;
      const sizes = data.rows.map((row) => row[column.key]?.mean).filter((value) => value).map(Math.abs);
      return sizes.length ? Math.min(3, Math.max(0, 1 - Math.floor(Math.log10(Math.min(...sizes))))) : 0;
    };
    const columns = data.columns.map((column) => ({ ...column, digits: decimals(column) }));
    const show = (value, digits) => value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
    const cell = (one, digits) => {
      if (!one || one.mean === null) return { text: "-", value: -Infinity };
      const [low, high] = [show(one.low, digits), show(one.high, digits)];
      return { text: show(one.mean, digits) + (low === high ? "" : ` (${low} to ${high})`), value: one.mean, best: one.best };
    };
    place.append(...notes([data.finding].filter(Boolean)), ...notes(data.notes.filter((text) => text.startsWith("Not"))),
      table([{ title: "run", said: true }, { title: "seeds", numeric: true }, { title: columns[0]?.title ?? "", numeric: true }, { title: "against the highest", said: true },
        ...columns.slice(1).map((column) => ({ title: column.title, numeric: true }))],
      data.rows.map((row) => [row.label, { text: String(row.seeds.length), value: row.seeds.length }, cell(row[columns[0]?.key], columns[0]?.digits),
        { text: row.verdict.text, value: row.verdict.order }, ...columns.slice(1).map((column) => cell(row[column.key], column.digits))]), "Runs side by side"),
      ...notes(data.notes.filter((text) => !text.startsWith("Not"))));
  }

  function pareto(place, data) {
    const host = html("div", { class: "host" });
    place.append(html("figure", {}, html("figcaption", {}, html("strong", {}, "By megabyte"), ", accuracy (%)"), host));
    scatter(host, { title: "Accuracy against bytes", x: "sent up and down in all (MB), logarithmic", y: "accuracy (%)", unit: "MB", points: data.points });
  }

  const missing = () => {};

  Object.assign((cutlayer.views ??= {}), {
    classes, comparison, curves, devices, headline, job, labels, leakage, missing, pareto, patches,
  });
})();
