// Tables that sort, sliders over rounds, and a choice of one of many.
(() => {
  "use strict";
  const cutlayer = (globalThis.cutlayer ??= {});
  const {
    html,
  } = cutlayer.charts;
  // ---- tables ----
  /** columns of {title, numeric}; rows of cells {text, value, best} or texts. */
  function table(columns, rows, caption) {
    const cell = (one) => (typeof one === "object" && one !== null ? one : { text: String(one ?? "-"), value: one });
    const body = html("tbody");
    const lay = (found) => body.replaceChildren(...found.map((row) => html("tr", {}, row.map((one, i) => {
      const { text, best } = cell(one);
      // A path such as training.rounds may break after a dot.
      const parts = i ? [text] : text.split(/(?<=[._])/).flatMap((part, j) => (j ? [html("wbr"), part] : [part]));
      return html(i ? "td" : "th", { class: [columns[i].numeric && "numeric", columns[i].said && "said", best && "best"].filter(Boolean).join(" "), scope: i ? null : "row" },
        parts, best ? html("span", { class: "star", title: "the best", role: "img", "aria-label": "the best" }, " ★") : null);
    }))));
    let order = [-1, 1];
    const heads = columns.map((column, i) => html("th", { scope: "col", class: column.numeric ? "numeric" : "" },
      html("button", { type: "button", onclick: () => {
        order = order[0] === i ? [i, -order[1]] : [i, 1];
        heads.forEach((head, j) => (j === i ? head.setAttribute("aria-sort", order[1] > 0 ? "ascending" : "descending") : head.removeAttribute("aria-sort")));
        const rank = (row) => cell(row[i]).value ?? cell(row[i]).text;
        lay([...rows].sort((a, b) => {
          const [x, y] = [rank(a), rank(b)];
          return order[1] * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)));
        }));
      } }, column.title)));
    lay(rows);
    return html("div", { class: rows.length > 60 ? "scroll tall" : "scroll", tabindex: 0, role: "region", "aria-label": caption },
      html("table", {}, html("caption", { class: "hide" }, `${caption}. Headers sort.`), html("thead", {}, html("tr", {}, heads)), body));
  }
  /** A table that is made when it is asked for. */
  const numbers = (columns, rows, caption, name = "The numbers") => {
    const element = html("details", {}, html("summary", {}, name));
    element.addEventListener("toggle", () => element.append(table(columns, rows(), caption)), { once: true });
    return element;
  };

  // ---- one of many ----
  /** A slider over `values` with buttons; `shared` keeps all sliders of a run at one round. */
  function stepper(values, shared, show) {
    let place = values.length - 1;
    const out = html("output", {});
    const slide = html("input", { type: "range", min: 0, max: values.length - 1, step: 1, "aria-label": "Round" });
    const lay = () => {
      slide.value = place;
      out.textContent = `round ${values[place]}`;
      slide.setAttribute("aria-valuetext", `round ${values[place]}`);
      show(place);
    };
    const go = (to) => {
      place = Math.min(values.length - 1, Math.max(0, to));
      lay();
      shared.dispatchEvent(new CustomEvent("round", { detail: { round: values[place], from: slide } }));
    };
    slide.addEventListener("input", () => go(Number(slide.value)));
    shared.addEventListener("round", ({ detail }) => {
      if (detail.from === slide || !slide.isConnected) return;
      let near = 0;
      values.forEach((value, i) => { if (value <= detail.round) near = i; });
      if (near !== place) { place = near; lay(); }
    });
    const button = (text, label, by) => html("button", { type: "button", "aria-label": label, onclick: () => go(place + by) }, text);
    const element = html("div", { class: "stepper" }, button("‹", "Round before", -1), slide, button("›", "Next round", 1), out);
    return { element, go, start: lay };
  }
  /** Radio buttons that look like tabs. */
  function choice(name, options, chosen, changed) {
    return html("fieldset", { class: "choice" }, html("legend", { class: "hide" }, name), options.map(([value, label]) =>
      html("label", {}, html("input", { type: "radio", name: `${name}-${choice.count = (choice.count ?? 0) + (value === options[0][0])}`, checked: value === chosen, onchange: () => changed(value) }), html("span", {}, label))));
  }

  Object.assign(cutlayer.charts, { choice, numbers, stepper, table });
})();
