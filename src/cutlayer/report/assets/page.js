// The page around the views: sections, navigation, the run in detail, and light or dark.
(() => {
  "use strict";
  const cutlayer = (globalThis.cutlayer ??= {});
  const { html, redraw } = cutlayer.charts;

  const breath = () => new Promise((go) => setTimeout(go));

  /** Adds a section for each view to `parent`, one after the other, so that the first shows soon. */
  async function lay(parent, views, prefix) {
    const shared = new EventTarget();  // the round that all sliders of a run are at
    for (const view of views) {
      const id = `${prefix}${view.id}`, place = html("div", { class: "view" });
      parent.append(html("section", { id, "aria-labelledby": `${id}-title`, "data-kind": view.kind, tabindex: -1 },
        html("h2", { id: `${id}-title` }, view.title), html("p", { class: "about" }, view.text), place));
      await cutlayer.views[view.kind](place, view.data ?? {}, shared);
      await breath();
    }
  }

  /** Lays out a report (report/page.py) below `root`. */
  cutlayer.mount = async (root, report) => {
    const main = html("main", { id: "views", tabindex: -1 });
    let detail = html("div", { id: "detail" });
    const links = html("ul", {});
    const nav = html("nav", { "aria-label": "Views" }, links);
    const link = (view, prefix) => html("li", {}, html("a", { href: `#${prefix}${view.id}` }, view.title));
    const show = async (number) => {
      const run = report.runs[number];
      links.replaceChildren(...report.together.map((view) => link(view, "all-")), ...run.views.map((view) => link(view, "run-")));
      const next = html("div", { id: "detail" });
      detail.replaceWith(next);
      detail = next;  // a choice made meanwhile fills another
      await lay(next, run.views, "run-");
    };
    const select = html("select", { id: "run", onchange: () => show(Number(select.value)) },
      report.runs.map((run, i) => html("option", { value: i }, run.label)));
    const together = html("div", {});
    main.append(together);
    if (report.runs.length > 1) main.append(html("div", { class: "pick", id: "one" }, html("label", { for: "run" }, "One run in detail: "), select,
      report.more ? html("p", { class: "note" }, report.more) : ""));
    main.append(detail);
    const themes = { auto: "Follow the system", light: "Light", dark: "Dark" };
    const stored = () => { try { return localStorage.getItem("cutlayer-theme"); } catch { return null; } };
    const theme = html("select", { "aria-label": "Light or dark", class: "theme", onchange: () => dress(theme.value) },
      Object.entries(themes).map(([value, text]) => html("option", { value }, text)));
    const dress = (value) => {
      document.documentElement.dataset.theme = value;
      try { localStorage.setItem("cutlayer-theme", value); } catch { /* a file may have no storage */ }
      redraw();
    };
    theme.value = stored() in themes ? stored() : "auto";
    document.documentElement.dataset.theme = theme.value;
    root.replaceChildren(
      html("a", { class: "skip", href: "#views" }, "Skip to the views"),
      html("header", {}, html("div", {}, html("h1", {}, report.title), html("p", {}, report.about)), theme),
      nav, main, html("footer", {}, report.foot));
    await lay(together, report.together, "all-");
    await show(0);
    document.documentElement.dataset.ready = "yes";
  };

  const payload = document.getElementById("report");
  if (payload) cutlayer.mount(document.getElementById("root"), JSON.parse(payload.textContent));
})();
