// The page around the views: sections, navigation, the run in detail, and light or dark.
(() => {
  "use strict";
  const cutlayer = (globalThis.cutlayer ??= {});
  const { html, redraw } = cutlayer.charts;

  const breath = () => new Promise((go) => setTimeout(go));

  /** Puts a view into its section, in place of what was there. */
  async function fill(section, view, shared) {
    const place = html("div", { class: "view" }), id = section.id;
    section.dataset.kind = view.kind;
    section.replaceChildren(html("h2", { id: `${id}-title` }, view.title), html("p", { class: "about" }, view.text), place);
    await cutlayer.views[view.kind](place, view.data ?? {}, shared);
  }
  /** Adds a section for each view to `parent`, one after the other, so that the first shows soon.
   * shared: the round that all sliders of a run are at. */
  async function lay(parent, views, prefix, shared = new EventTarget()) {
    for (const view of views) {
      const id = `${prefix}${view.id}`;
      const section = html("section", { id, "aria-labelledby": `${id}-title`, tabindex: -1 });
      parent.append(section);
      await fill(section, view, shared);
      await breath();
    }
  }
  /** Light, dark or as the system has it; remembered where the browser lets it. */
  function themes() {
    const names = { auto: "Follow the system", light: "Light", dark: "Dark" };
    const stored = () => { try { return localStorage.getItem("cutlayer-theme"); } catch { return null; } };
    const dress = (value) => {
      document.documentElement.dataset.theme = value;
      try { localStorage.setItem("cutlayer-theme", value); } catch { /* a file may have no storage */ }
      redraw();
    };
    const theme = html("select", { "aria-label": "Light or dark", class: "theme", onchange: () => dress(theme.value) },
      Object.entries(names).map(([value, text]) => html("option", { value }, text)));
    theme.value = stored() in names ? stored() : "auto";
    document.documentElement.dataset.theme = theme.value;
    return theme;
  }
  Object.assign(cutlayer, { fill, lay, themes });

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
    root.replaceChildren(
      html("a", { class: "skip", href: "#views" }, "Skip to the views"),
      html("header", {}, html("div", {}, html("h1", {}, report.title), html("p", {}, report.about)), themes()),
      nav, main, html("footer", {}, report.foot));
    await lay(together, report.together, "all-");
    await show(0);
    document.documentElement.dataset.ready = "yes";
  };

  const payload = document.getElementById("report");
  if (payload) cutlayer.mount(document.getElementById("root"), JSON.parse(payload.textContent));
})();
