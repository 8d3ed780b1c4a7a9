// What all charts stand on: elements, numbers, packed arrays, colours, redrawing and reading aloud.
(() => {
  "use strict";
  const cutlayer = (globalThis.cutlayer ??= {});
  const SVG = "http://www.w3.org/2000/svg";
  const DASHES = ["", "7 4", "2 3", "9 3 2 3", "1 4"];
  const COLOURS = 7;
  // One hue that rises evenly in lightness: read without telling colours apart, also in print.
  const LIGHT = [[190, 217, 238], [138, 189, 220], [76, 152, 203], [18, 93, 168], [8, 34, 82]];
  const DARK = [[38, 62, 94], [33, 86, 143], [61, 141, 207], [137, 199, 241], [234, 247, 255]];

  function fill(element, attributes, children) {
    for (const [key, value] of Object.entries(attributes ?? {})) {
      if (value === undefined || value === null || value === false) continue;
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return element;
  }
  const html = (name, attributes, ...children) =>
    fill(document.createElement(name), attributes, children);
  const svg = (name, attributes, ...children) =>
    fill(document.createElementNS(SVG, name), attributes, children);

  // ---- numbers ----
  const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
  const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
  function number(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "-";
    return Math.abs(value) >= 1000 ? whole.format(value) : short.format(value);
  }
  function ticks(low, high, count, integers) {
    if (!(high > low)) return [low];
    const raw = (high - low) / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(raw));
    let step = [1, 2, 5, 10].find((factor) => factor * power >= raw) * power;
    if (integers) step = Math.max(1, Math.round(step));
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++)
      found.push(Number((i * step).toPrecision(12)));
    // One number alone is no scale.
    return found.length > 1 || integers || count > 8 ? found : ticks(low, high, 2 * count);
  }
  function logTicks(low, high) {
    const found = [];
    const few = high / low < 200;
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      for (const factor of few ? [1, 2, 5] : [1]) {
        const value = Number((factor * 10 ** power).toPrecision(6));
        if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
      }
    return found.length ? found : [low];
  }
  function extent(values) {
    let low = Infinity, high = -Infinity;
    for (const value of values) {
      if (value === null || Number.isNaN(value)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
    return [low, high];
  }

  // ---- arrays as they come from report/views/pack.py ----
  function decode(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return bytes;
  }
  async function unpack(packed) {
    const stream = new Blob([decode(packed.deflated)]).stream().pipeThrough(new DecompressionStream("deflate"));
    const buffer = await new Response(stream).arrayBuffer();
    const codes = packed.bytes === 2 ? new Uint16Array(buffer) : new Uint8Array(buffer);
    const none = packed.bytes === 2 ? 65535 : 255;
    const values = new Float32Array(codes.length);
    for (let i = 0; i < codes.length; i++) {
      const value = packed.low + packed.step * codes[i];
      values[i] = codes[i] === none ? NaN : packed.log ? Math.exp(value) : value;
    }
    const [rows, columns] = packed.shape;
    return { values, rows, columns, at: (row, column) => values[row * columns + column] };
  }

  // ---- theme, width and print ----
  const live = new Set();
  function onWidth(host, draw) {
    let width = 0;
    const one = { host, draw: () => draw(Math.max(220, host.clientWidth)) };
    new ResizeObserver(() => {
      if (!host.clientWidth || host.clientWidth === width) return;
      width = host.clientWidth;
      one.draw();
    }).observe(host);
    live.add(one);
    return one.draw;
  }
  function redraw() {
    for (const one of live) {
      if (one.host.isConnected) one.draw();
      else live.delete(one);
    }
  }
  const colour = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const isDark = () => colour("scheme") === "dark";
  /** 256 colours from little to much: more stands out more against the page. */
  function palette() {
    const ramp = isDark() ? DARK : LIGHT;
    return Array.from({ length: 256 }, (_, i) => {
      const at = (i / 255) * (ramp.length - 1), index = Math.min(ramp.length - 2, Math.floor(at));
      return ramp[index].map((part, j) => Math.round(part + (ramp[index + 1][j] - part) * (at - index)));
    });
  }
  /** share => CSS colour, for the theme of the moment. */
  function shades() {
    const colours = palette();
    return (share) => `rgb(${colours[Math.round(255 * Math.min(1, Math.max(0, share)))].join(",")})`;
  }
  /** The colours from little to much as a bar. */
  function ramp() {
    const rgb = shades(), stops = [0, 0.25, 0.5, 0.75, 1].map(rgb).join(",");
    return html("span", { class: "ramp", "aria-hidden": "true", style: `background:linear-gradient(to right,${stops})` });
  }
  const line = (index) => `var(--c${index % COLOURS})`;

  // ---- what a chart says of one point ----
  const tip = html("div", { class: "tip", role: "status", "aria-live": "polite", hidden: true });
  function say(x, y, lines) {
    if (!tip.isConnected) document.body.append(tip);
    tip.replaceChildren(...lines.map((text) => html("div", {}, text)));
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = Math.min(x + 14, document.documentElement.clientWidth - box.width - 6);
    const above = y - box.height - 12;
    tip.style.left = `${Math.max(6, left)}px`;
    tip.style.top = `${above > 6 ? above : y + 16}px`;
  }
  const hush = () => { tip.hidden = true; };
  /** Pointer, arrow keys and Escape on `target`; point(x, y) and move(dx, dy) say what is there. */
  function explore(target, point, move) {
    target.addEventListener("pointermove", (event) => {
      const box = target.getBoundingClientRect();
      point(event.clientX - box.left, event.clientY - box.top, event);
    });
    target.addEventListener("pointerleave", hush);
    target.addEventListener("blur", hush);
    target.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      if (event.key === "Escape") hush();
      if (!step[event.key]) return;
      event.preventDefault();
      move(...step[event.key]);
    });
  }
  function sayIn(target, x, y, lines) {
    const box = target.getBoundingClientRect();
    say(box.left + x, box.top + y, lines);
  }

  /** A canvas of that size in CSS pixels, sharp on screen and on paper; its context. */
  function prepare(canvas, width, height) {
    const ratio = Math.max(2, globalThis.devicePixelRatio || 1);
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.aspectRatio = `${width} / ${height}`;
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    return context;
  }


  addEventListener("beforeprint", () => {
    document.documentElement.classList.add("printing");
    redraw();
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("printing");
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  cutlayer.charts = {
    DASHES, colour, explore, extent, html, hush, isDark, line, logTicks, number, onWidth,
    palette, prepare, ramp, redraw, sayIn, shades, svg, ticks, unpack,
  };
})();
