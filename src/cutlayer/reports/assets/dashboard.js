// The dashboard: the list of runs, kept up to date by events, and below it one run or several.
(() => {
  "use strict";
  const cutlayer = (globalThis.cutlayer ??= {});
  const { html, number, svg } = cutlayer.charts;
  const STATES = {
    running: "running", waiting: "in its first round", finished: "finished", silent: "silent", unreadable: "unreadable",
  };
  // Nothing is asked for again sooner than this many times as long as its last answer took.
  const REST = 4, SOONEST_MS = 500;

  const place = document.getElementById("dashboard");
  const runs = new Map();  // id => what the server told of it
  const lines = new Map();  // id => its row in the table
  const picked = new Set();

  // ---- the list ----
  const COLUMNS = [
    { title: "run" }, { title: "state" }, { title: "rounds", sort: (run) => run.rounds },
    { title: "accuracy (%)", numeric: true, wide: true, sort: (run) => run.accuracy ?? -1 },
    { title: "its course", wide: true, sort: (run) => run.accuracy ?? -1 },
    { title: "MB", numeric: true, wide: true, sort: (run) => run.up_bytes + run.down_bytes },
    { title: "in its world (s)", numeric: true, wide: true, sort: (run) => run.virtual_s ?? -1 },
    { title: "devices (J)", numeric: true, wide: true, sort: (run) => run.joules ?? -1 },
    { title: "last change", wide: true, sort: (run) => -run.changed_s },
  ];
  // Which columns are left out, kept in this browser where it lets a page keep anything. A phone begins without the
  // wide ones: the accuracy and its course stand below the name there.
  const narrow = matchMedia("(max-width: 520px)").matches;
  const KEPT = narrow ? "cutlayer-columns-narrow" : "cutlayer-columns";
  let without = new Set(COLUMNS.filter((column) => narrow && column.wide).map((column) => column.title));
  try { without = new Set(JSON.parse(localStorage.getItem(KEPT) ?? "null") ?? without); } catch { /* as it begins */ }
  const gone = (i) => without.has(COLUMNS[i].title);
  /** The accuracies of a run as a small curve, between the least and the largest of them. */
  function spark(values) {
    if (values.length < 2) return "-";
    const low = Math.min(...values), high = Math.max(...values), span = high - low || 1;
    const points = values.map((value, i) => `${(1 + 68 * i / (values.length - 1)).toFixed(1)},${(15 - 14 * (value - low) / span).toFixed(1)}`);
    return svg("svg", { class: "spark", viewBox: "0 0 70 16", role: "img", "aria-label": `accuracy from ${number(100 * values[0])} to ${number(100 * values.at(-1))} %` },
      svg("polyline", { points: points.join(" ") }));
  }
  const ago = (then) => {
    const seconds = Math.max(0, Date.now() / 1000 - then);
    if (!then) return "-";
    if (seconds < 100) return `${Math.round(seconds)} s ago`;
    if (seconds < 6000) return `${Math.round(seconds / 60)} min ago`;
    return seconds < 172800 ? `${Math.round(seconds / 3600)} h ago` : `${Math.round(seconds / 86400)} days ago`;
  };
  function row(run) {
    const box = html("input", { type: "checkbox", "aria-label": `Side by side: ${run.id}`, onchange: () => {
      box.checked ? picked.add(run.id) : picked.delete(run.id);
      choose();
    } });
    box.checked = picked.has(run.id);
    const what = run.method === null ? "" : `${run.method}, seed ${run.seed}, ${run.model}${run.network ? ", over a network" : ""}`;
    const cells = [
      html("td", {}, html("span", { class: `state ${run.state}`, title: run.fault }, STATES[run.state])),
      html("td", {}, run.of === null ? "-" : [html("progress", { max: run.of, value: run.rounds, "aria-label": `${run.rounds} of ${run.of} rounds` }), `${run.rounds} / ${run.of}`]),
      ...[run.accuracy === null ? null : 100 * run.accuracy, (run.up_bytes + run.down_bytes) / 1e6].map((value) => html("td", { class: "numeric" }, number(value))),
      ...[run.virtual_s, run.joules].map((value) => html("td", { class: "numeric" }, number(value))),
      html("td", { "data-then": run.changed_s }, ago(run.changed_s)),
    ];
    cells.splice(3, 0, html("td", {}, spark(run.curve)));
    cells.forEach((cell, i) => { cell.hidden = gone(i + 1); });
    const brief = run.accuracy === null ? "" : [`${number(100 * run.accuracy)} % `, run.curve.length > 1 ? spark(run.curve) : ""];
    return html("tr", { "data-id": run.id, "aria-current": opened === run.id ? "true" : null },
      html("td", { class: "pickbox" }, box),
      html("th", { scope: "row" }, html("a", { href: `#run=${encodeURIComponent(run.id)}` }, run.id), " ", html("b", { class: "brief" }, brief),
        html("small", { class: "note" }, ` ${run.fault || run.notice || what}`)), ...cells);
  }
  let order = [8, 1];
  const body = html("tbody");
  const heads = COLUMNS.map((column, i) => html("th", { scope: "col", class: column.numeric ? "numeric" : "" },
    html("button", { type: "button", onclick: () => { order = order[0] === i ? [i, -order[1]] : [i, 1]; arrange(); } }, column.title)));
  const choice = html("details", { class: "columns" }, html("summary", {}, "Columns"), COLUMNS.slice(1).map((column) => {
    const box = html("input", { type: "checkbox", onchange: () => {
      box.checked ? without.delete(column.title) : without.add(column.title);
      try { localStorage.setItem(KEPT, JSON.stringify([...without])); } catch { /* for this visit, then */ }
      for (const [id, run] of runs) lines.set(id, row(run));
      leaveOut();
      arrange();
    } });
    box.checked = !without.has(column.title);
    return html("label", {}, box, ` ${column.title}`);
  }));
  const leaveOut = () => heads.forEach((head, i) => { head.hidden = i > 0 && gone(i); });
  leaveOut();
  // What happened while somebody watched, until it is put away.
  const told = html("div", { class: "notices", role: "alert" });
  function tell(run, sentence) {
    const line = html("p", {}, html("a", { href: `#run=${encodeURIComponent(run.id)}` }, run.id), `: ${sentence} `,
      html("button", { type: "button", "aria-label": `Put away: ${run.id}`, onclick: () => line.remove() }, "Put away"));
    told.append(line);
    while (told.children.length > 5) told.firstChild.remove();
  }
  /** Tells of a run that has ended, stopped or begun to diverge since it was last heard of. */
  function compareWith(before, run) {
    if (run.notice && run.notice !== before.notice && !(before.notice && run.notice.startsWith("it diverges"))) tell(run, run.notice);
    else if (run.state === "finished" && before.state !== "finished") tell(run, `it finished after ${run.rounds} rounds${run.accuracy === null ? "" : `, at ${number(100 * run.accuracy)} %`}`);
  }
  const search = html("input", { type: "search", placeholder: "Only runs with …", "aria-label": "Only runs whose name or method has", oninput: () => arrange() });
  const link = html("span", { class: "link", role: "status" }, "connecting");
  const count = html("span", { class: "link" });
  const beside = html("button", { type: "button", disabled: true, onclick: () => {
    location.hash = [...picked].map((id) => `with=${encodeURIComponent(id)}`).join("&");
  } }, "Side by side");
  const choose = () => {
    for (const id of [...picked]) if (!runs.has(id)) picked.delete(id);
    beside.disabled = picked.size < 2;
    beside.textContent = picked.size < 2 ? "Side by side: tick two runs" : `${picked.size} runs side by side`;
  };
  /** Rows in order, and only those looked for; a row that has the focus keeps it. */
  function arrange() {
    const focus = document.activeElement, wanted = search.value.toLowerCase();
    const rank = COLUMNS[order[0]].sort ?? ((run) => (order[0] === 1 ? run.state : run.id));
    const found = [...runs.values()].filter((run) => `${run.id} ${run.method} ${run.state}`.toLowerCase().includes(wanted));
    found.sort((a, b) => {
      const [x, y] = [rank(a), rank(b)];
      return order[1] * (typeof x === "number" ? x - y : x.localeCompare(y, "en", { numeric: true })) || a.id.localeCompare(b.id, "en", { numeric: true });
    });
    body.replaceChildren(...found.map((run) => lines.get(run.id)));
    heads.forEach((head, j) => (j === order[0] ? head.setAttribute("aria-sort", order[1] > 0 ? "ascending" : "descending") : head.removeAttribute("aria-sort")));
    count.textContent = found.length === runs.size ? `${runs.size} runs` : `${found.length} of ${runs.size} runs`;
    if (focus && focus !== document.activeElement && focus.isConnected) focus.focus({ preventScroll: true });
  }
  function hear(news) {
    if (news.all) {
      runs.clear();
      lines.clear();
    }
    for (const id of news.gone ?? []) {
      runs.delete(id);
      lines.delete(id);
    }
    const known = lines.size;
    for (const run of news.runs) {
      if (runs.has(run.id)) compareWith(runs.get(run.id), run);
      runs.set(run.id, run);
      const old = lines.get(run.id), next = row(run);
      lines.set(run.id, next);
      if (old?.isConnected) {
        const focused = old.contains(document.activeElement) ? document.activeElement.tagName : null;
        old.replaceWith(next);
        if (focused) next.querySelector(focused.toLowerCase())?.focus({ preventScroll: true });
      }
    }
    // Rows move only when there are others: what a reader looks at stays where it is.
    if (news.all || lines.size !== known || news.gone?.length) arrange();
    choose();
    if (opened && !runs.has(opened)) return route();
    if (news.runs.some((run) => run.id === opened || several.includes(run.id))) refresh();
  }
  setInterval(() => {
    for (const cell of body.querySelectorAll("[data-then]")) cell.textContent = ago(Number(cell.dataset.then));
  }, 5000);

  // ---- one run, or several side by side ----
  let opened = null, several = [], shown = { views: new Map(), shared: null, at: null };
  let turn = 0, latest = -1, computedFor = -1;  // rounds of the views shown, and of those computed
  const title = html("h2", { id: "shown-title" }, "");
  const links = html("ul", {});
  const views = html("div", { id: "views", tabindex: -1 });

  async function ask(what, ids) {
    const answer = await fetch(`${what}?${ids.map((id) => `id=${encodeURIComponent(id)}`).join("&")}`);
    if (!answer.ok) throw new Error(await answer.text());
    return answer.json();
  }
  /** Draws the views that are other than those shown, and says whether it drew all: one that is being
   * read with keys waits. */
  async function draw(found, mine) {
    let all = true;
    for (const view of found) {
      const text = JSON.stringify(view), id = `view-${view.id}`;
      if (shown.views.get(id) === text) continue;
      const section = document.getElementById(id);
      if (section && section !== document.activeElement && section.contains(document.activeElement)) {
        section.addEventListener("focusout", () => setTimeout(refresh), { once: true });
        all = false;
        continue;
      }
      if (section) {
        const high = section.offsetHeight;
        section.style.minHeight = `${high}px`;  // the page does not jump while it is drawn
        await cutlayer.fill(section, view, shown.shared);
        section.style.minHeight = "";
      } else await cutlayer.lay(views, [view], "view-", shown.shared);
      if (mine !== turn) return false;
      shown.views.set(id, text);
    }
    if (shown.at !== null) shown.shared.dispatchEvent(new CustomEvent("round", { detail: { round: shown.at, from: null } }));
    const sections = [...views.querySelectorAll("section")];
    if (links.children.length !== sections.length) links.replaceChildren(...sections.map((one) =>
      html("li", {}, html("a", { href: `#${one.id}`, onclick: (event) => {
        event.preventDefault();  // the address keeps naming the run
        one.scrollIntoView();
        one.focus({ preventScroll: true });
      } }, one.querySelector("h2").textContent))));
    return all;
  }
  async function show(mine) {
    if (!opened && !several.length) return;
    if (several.length) {
      const found = await ask("together", several);
      if (mine === turn) await draw(found.together, mine);
      return;
    }
    const found = await ask("run", [opened]);
    if (mine !== turn) return;
    title.textContent = `${opened}: ${found.title}`;
    // What is computed stays as it is until it is computed again.
    await draw(found.views.filter((view) => !found.computed.includes(view.id) || !shown.views.has(`view-${view.id}`)), mine);
    if (mine !== turn) return;
    latest = found.rounds;
    if (due()) recompute();
  }
  /** Whether views are to be computed: those of a run that goes on once, when it is opened. */
  const due = () => opened && latest !== computedFor && (computedFor < 0 || runs.get(opened)?.state !== "running");
  /** The views that take the server seconds: the others are followed meanwhile. */
  async function compute(mine) {
    if (!due()) return;
    const more = await ask("computed", [opened]);
    if (mine === turn && await draw(more.views, mine)) computedFor = more.rounds;
  }
  /** A function that has `work` done: once at a time, and with rests that grow with what it takes, but
   * at once for what was just opened. Its `note` says what went wrong. */
  function paced(work) {
    const note = html("p", { class: "note", role: "status" });
    let timer = 0, busy = false, again = false, rest = 0, rests = turn;
    const want = () => {
      if (rests !== turn) {
        clearTimeout(timer);
        [timer, rest, rests] = [0, 0, turn];
      }
      again ||= busy;
      if (busy || timer) return;
      timer = setTimeout(async () => {
        const mine = turn, began = performance.now();
        [timer, busy, again] = [0, true, false];
        const problem = await work(mine).then(() => "", (error) => error.message);
        busy = false;
        if (mine !== turn) return want();
        rest = Math.max(SOONEST_MS, REST * (performance.now() - began));
        note.textContent = problem;
        if (work === compute || !due()) document.documentElement.dataset.ready = `${opened ?? several.join(" ")} ${shown.views.size}`;
        if (again) want();
      }, rest);
    };
    return Object.assign(want, { note });
  }
  const refresh = paced(show), recompute = paced(compute);
  function route() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const run = asked.get("run");
    turn += 1;
    opened = run;
    several = run ? [] : asked.getAll("with");
    shown = { views: new Map(), shared: new EventTarget(), at: null };
    const mine = shown;
    mine.shared.addEventListener("round", ({ detail }) => {
      if (!detail.from) return;
      mine.at = Number(detail.from.value) === Number(detail.from.max) ? null : detail.round;  // the last: follow
    });
    latest = computedFor = -1;
    views.replaceChildren();
    links.replaceChildren();
    delete document.documentElement.dataset.ready;
    title.textContent = run ?? (several.length ? `${several.length} runs side by side` : "");
    for (const [id, line] of lines) id === run ? line.setAttribute("aria-current", "true") : line.removeAttribute("aria-current");
    recompute.note.textContent = "";
    refresh.note.textContent = run && runs.size && !runs.has(run) ? `There is no run ${run} now.` : "";
    if (run && runs.size && !runs.has(run)) opened = null;
    if (opened || several.length) {
      refresh();
      title.scrollIntoView();
    }
  }

  place.append(
    html("a", { class: "skip", href: "#views", onclick: (event) => { event.preventDefault(); views.focus(); } }, "Skip to the views"),
    html("header", {}, html("div", {}, html("h1", {}, "cutlayer dashboard"), html("p", {}, `Runs in ${place.dataset.folder}`)), cutlayer.themes()),
    html("main", {},
      html("section", { "aria-label": "Runs" }, html("div", { class: "list" }, search, beside, choice, html("a", { href: "runs.csv", download: "runs.csv" }, "All as CSV"), count, link), told,
        html("div", { class: "scroll runs", tabindex: 0, role: "region", "aria-label": "Runs" },
          html("table", {}, html("caption", { class: "hide" }, "Runs. Headers sort."),
            html("thead", {}, html("tr", {}, html("th", { class: "pickbox" }, html("span", { class: "hide" }, "side by side")), heads)), body))),
      title, refresh.note, recompute.note, html("nav", { "aria-label": "Views" }, links), views),
    html("footer", {}, `cutlayer ${place.dataset.version}. Read only: nothing here changes a run.`));

  const source = new EventSource("events");
  source.onmessage = (event) => {
    const first = !runs.size;
    link.textContent = "live";
    link.classList.remove("lost");
    hear(JSON.parse(event.data));
    document.documentElement.dataset.listed = runs.size;
    if (first && !opened && !several.length) route();
  };
  source.onerror = () => {
    link.textContent = "the server does not answer; trying again";
    link.classList.add("lost");
  };
  addEventListener("hashchange", route);
  if (location.hash.length > 1) route();  // a run that is named needs no list
  addEventListener("keydown", (event) => {
    if (event.target.matches("input, select, textarea")) return;
    if (event.key === "/") { event.preventDefault(); search.focus(); }
    if (event.key === "j" || event.key === "k") {
      const all = [...body.querySelectorAll("a")], now = all.indexOf(document.activeElement);
      all[Math.min(all.length - 1, Math.max(0, now + (event.key === "j" ? 1 : -1)))]?.focus();
    }
  });
})();
