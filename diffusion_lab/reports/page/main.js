"use strict";

/** Puts the page together. */
(() => {
  const { h, content } = Report;
  const { runs } = content;
  const single = runs.length === 1;
  const { count } = Report.format;

  const written = () => {
    const time = new Date(content.written);
    const text = new Intl.DateTimeFormat("en", {
      dateStyle: "medium",
      timeStyle: content.watch ? "medium" : "short",
    }).format(time);
    return h("time", { datetime: content.written }, content.watch ? `updated ${text}` : text);
  };

  const top = () => {
    const run = runs[0];
    const states = new Map();
    for (const { state } of runs) states.set(state, (states.get(state) || 0) + 1);
    const badges = single
      ? [Report.badge(run.state)]
      : [...states].map(([state, number]) => h("span", { class: `badge ${state}` }, `${number} ${state}`));
    const varied = content.varied.map((one) => one.name);
    const some = varied.slice(0, 6).join(", ") + (varied.length > 6 ? ` and ${varied.length - 6} more` : "");
    const headline = single
      ? run.headline
      : [count(runs.length, "run"), varied.length ? `varied: ${some}` : "with the same settings"].join(" · ");
    return h(
      "header",
      { class: "top" },
      h(
        "div",
        { class: "titles" },
        h("div", { class: "name" }, h("h1", {}, content.title), badges),
        h("p", { class: "headline" }, headline),
        h("p", { class: "headline mono" }, single ? run.folder : content.folder),
      ),
      h("div", { class: "meta" }, written(), content.watch ? watching() : null, Report.theme.button()),
    );
  };

  /** Reads the page again while nobody is in the middle of something. */
  const watching = () => {
    let paused = false;
    let touched = 0;
    for (const kind of ["pointerdown", "pointermove", "keydown", "wheel", "touchmove"])
      addEventListener(kind, () => {
        touched = Date.now();
      });
    const busy = () => document.hidden || document.querySelector("dialog[open]") || Date.now() - touched < 1500;
    setInterval(
      () => {
        if (paused || busy()) return;
        Report.state.set("scroll", scrollY);
        location.reload();
      },
      Math.max(content.watch * 1000, 1000),
    );
    const button = h(
      "button",
      {
        type: "button",
        "aria-pressed": "false",
        click: () => {
          paused = !paused;
          button.setAttribute("aria-pressed", String(paused));
          button.textContent = paused ? "Paused" : "Pause";
        },
      },
      "Pause",
    );
    return button;
  };

  const navigation = (sections) => {
    const links = sections.map((section) => h("a", { href: `#${section.id}` }, section.label));
    let current = null;
    const mark = () => {
      const reached = sections.filter((section) => section.getBoundingClientRect().top < innerHeight * 0.3);
      const link = links[Math.max(reached.length - 1, 0)];
      if (link === current) return;
      current?.removeAttribute("aria-current");
      link.setAttribute("aria-current", "true");
      current = link;
    };
    let waiting = false;
    const later = () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        mark();
      });
    };
    addEventListener("scroll", later, { passive: true });
    later();
    return h(
      "nav",
      { class: "sections", "aria-label": "Sections" },
      h(
        "ul",
        {},
        links.map((link) => h("li", {}, link)),
      ),
    );
  };

  const ofOneRun = (run) => [
    Report.run.samples(run),
    Report.charts.section(),
    Report.run.quality(run),
    Report.run.sampled(run),
    Report.run.nearest(run),
    Report.run.settings(run),
    Report.run.commands(run),
    Report.run.environment(run),
    Report.run.log(run),
  ];

  const ofSeveralRuns = () => [
    Report.compare.best(),
    Report.table.section(),
    Report.compare.parallel(),
    Report.charts.section(),
    Report.compare.samples(),
    Report.compare.shared(),
  ];

  const build = () => {
    const sections = (single ? ofOneRun(runs[0]) : ofSeveralRuns()).filter(Boolean);
    const notes = content.notes.length
      ? h(
          "div",
          { class: "notes", role: "note" },
          h(
            "ul",
            {},
            content.notes.map((note) => h("li", {}, note)),
          ),
        )
      : null;
    document
      .getElementById("app")
      .replaceChildren(
        top(),
        navigation(sections),
        h(
          "main",
          { id: "main", tabindex: -1 },
          notes,
          single ? [Report.run.notes(runs[0]), Report.run.tiles(runs[0])] : null,
          sections,
        ),
        h(
          "footer",
          {},
          `Written by diffusion_lab ${content.version}. Charts by Apache ECharts. This file loads nothing from anywhere.`,
        ),
      );
    if (content.watch)
      requestAnimationFrame(() => scrollTo({ top: Report.state.get("scroll", 0), behavior: "instant" }));
    performance.mark("report-built");
  };

  build();
})();
