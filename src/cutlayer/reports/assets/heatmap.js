// Cells by row and column, as shades.
(() => {
  "use strict";
  const cutlayer = (globalThis.cutlayer ??= {});
  const {
    colour, explore, extent, html, hush, isDark, number, onWidth, palette, prepare, ramp, sayIn, ticks,
  } = cutlayer.charts;
  /** spec: title, rows, columns, value(r, c), rowName(r), columnName(c), x, y, unit, log, format.
      columnText(c): what stands below a column where all of them fit; otherwise its number does.
      numbers: write the value in each cell where it fits. Returns {draw, mark(column)}. */
  function heatmap(host, spec) {
    const format = spec.format ?? number;
    const canvas = html("canvas", { role: "img", tabindex: 0, class: "chart" });
    const key = html("div", { class: "key" });
    host.append(canvas, key);
    let geometry = null, cursor = [-1, -1], marked = -1;
    const values = new Float32Array(spec.rows * spec.columns);
    for (let r = 0, i = 0; r < spec.rows; r++) for (let c = 0; c < spec.columns; c++, i++) values[i] = spec.value(r, c) ?? NaN;
    const [low, high] = extent(values);
    canvas.setAttribute("aria-label", `${spec.title}: ${spec.rows} by ${spec.columns} values from ${format(low)} to ${format(high)} ${spec.unit ?? ""}. Arrow keys read the cells.`);
    const share = (value) => {
      if (high === low) return 0.7;
      return spec.log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
    };
    let painted = null;  // the cells as a picture, for one theme
    function paint() {
      const colours = palette(), scheme = isDark();
      if (painted?.scheme === scheme) return { colours, cells: painted.cells };
      const pixels = new ImageData(spec.columns, spec.rows);
      values.forEach((value, i) => {
        if (Number.isNaN(value) || (spec.blank && !value)) return;
        const colour = colours[Math.round(255 * Math.min(1, Math.max(0, share(value))))];
        pixels.data.set(colour, 4 * i);
        pixels.data[4 * i + 3] = 255;
      });
      const cells = html("canvas", { width: spec.columns, height: spec.rows });
      cells.getContext("2d").putImageData(pixels, 0, 0);
      painted = { scheme, cells };
      return { colours, cells };
    }
    const read = ([r, c]) => {
      const { left, top, wide, high: tall } = geometry, value = spec.value(r, c);
      sayIn(canvas, left + (c + 0.5) * wide, top + (r + 0.5) * tall, [`${spec.columnName(c)}, ${spec.rowName(r)}`,
        Number.isNaN(value) || value === null ? "took no part" : `${spec.title}: ${format(value)} ${spec.unit ?? ""}`]);
    };
    const draw = onWidth(host, (width) => {
      const names = Array.from({ length: Math.min(spec.rows, 400) }, (_, r) => spec.shortName?.(r) ?? spec.rowName(r));
      const left = Math.min(width * 0.32, 24 + 6.6 * Math.max(...names.map((text) => text.length)));
      const tall = spec.rows <= 40 ? Math.max(12, Math.min(22, 420 / spec.rows)) : Math.max(0.5, 420 / spec.rows);
      const plot = { left, top: 4, wide: (width - left - 8) / spec.columns, high: tall };
      const height = Math.round(tall * spec.rows + 46);
      const context = prepare(canvas, width, height);
      geometry = plot;
      const { colours, cells } = paint();
      context.fillStyle = colour("well");
      context.fillRect(left, 4, spec.columns * plot.wide, spec.rows * tall);
      context.imageSmoothingEnabled = tall < 1 || plot.wide < 1;
      context.drawImage(cells, left, 4, spec.columns * plot.wide, spec.rows * tall);
      context.imageSmoothingEnabled = true;
      if (tall >= 9 && plot.wide >= 9) {  // thin gaps between cells that are large enough
        context.strokeStyle = colour("card");
        context.lineWidth = 1;
        context.beginPath();
        for (let r = 0; r <= spec.rows; r++) { context.moveTo(left, 4 + r * tall); context.lineTo(width - 8, 4 + r * tall); }
        for (let c = 0; c <= spec.columns; c++) { context.moveTo(left + c * plot.wide, 4); context.lineTo(left + c * plot.wide, 4 + spec.rows * tall); }
        context.stroke();
      }
      context.font = "11px system-ui, sans-serif";
      context.textBaseline = "middle";
      if (spec.numbers && tall >= 14 && plot.wide >= 7.5 * String(Math.round(high)).length) {
        context.textAlign = "center";
        for (let r = 0; r < spec.rows; r++) for (let c = 0; c < spec.columns; c++) {
          const value = spec.value(r, c);
          if (!value) continue;
          const [red, green, blue] = colours[Math.round(255 * share(value))];
          context.fillStyle = 0.3 * red + 0.59 * green + 0.11 * blue > 130 ? "#111" : "#fff";
          context.fillText(format(value), left + (c + 0.5) * plot.wide, 4 + (r + 0.5) * tall);
        }
      }
      context.fillStyle = colour("faint");
      context.textAlign = "right";
      const every = Math.max(1, Math.ceil(13 / tall));
      for (let r = 0; r < spec.rows; r += every) {
        let text = spec.shortName?.(r) ?? spec.rowName(r);
        while (text.length > 2 && context.measureText(text).width > left - 20) text = `${text.slice(0, -2)}…`;
        context.fillText(text, left - 5, 4 + (r + 0.5) * tall);
      }
      context.textAlign = "center";
      const stride = Math.max(1, ...ticks(0, spec.columns, width / 60, true).slice(1, 2));
      const base = 4 + spec.rows * tall;
      const texts = spec.columnText ? Array.from({ length: spec.columns }, (_, c) => spec.columnText(c)) : [];
      const fit = texts.length && texts.every((text) => context.measureText(text).width < plot.wide - 4);
      for (let c = 0; c < spec.columns; c++) {
        const label = fit ? texts[c] : spec.columnLabel?.(c) ?? c;
        if (!fit && label % stride && spec.columns > stride) continue;
        const half = context.measureText(String(label)).width / 2;
        context.fillText(String(label), Math.min(left + (c + 0.5) * plot.wide, width - half), base + 11);
      }
      context.fillText(texts.length && !fit ? `${spec.x}, in the order of the rows from 0` : spec.x, left + (width - left) / 2, base + 30);
      context.save();
      context.translate(8, 4 + (spec.rows * tall) / 2);
      context.rotate(-Math.PI / 2);
      context.fillText(spec.y, 0, 0);
      context.restore();
      if (marked >= 0) {
        context.strokeStyle = colour("ink");
        context.lineWidth = 1.5;
        context.strokeRect(left + marked * plot.wide - 0.75, 3, Math.max(plot.wide, 1) + 1.5, spec.rows * tall + 2);
      }
      key.replaceChildren(format(low), ramp(), `${format(high)} ${spec.unit ?? ""}${spec.log ? ", logarithmic" : ""}`);
    });
    explore(canvas, (x, y) => {
      if (!geometry) return;
      const c = Math.floor((x - geometry.left) / geometry.wide), r = Math.floor((y - geometry.top) / geometry.high);
      if (c < 0 || r < 0 || c >= spec.columns || r >= spec.rows) return hush();
      read((cursor = [r, c]));
    }, (dx, dy) => {
      cursor = [Math.min(spec.rows - 1, Math.max(0, cursor[0] + dy)), Math.min(spec.columns - 1, Math.max(0, cursor[1] + dx))];
      if (cursor[0] >= 0 && cursor[1] >= 0) read(cursor);
    });
    if (spec.pick) canvas.addEventListener("click", () => cursor[1] >= 0 && spec.pick(cursor[1]));
    return { draw, mark: (column) => { marked = column; if (geometry) draw(); } };
  }

  Object.assign(cutlayer.charts, { heatmap });
})();
