"use strict";

/** The parts of the page that are about several runs. */
Report.compare = (() => {
  const { h, content } = Report;
  const { runs } = content;
  const { number, count } = Report.format;
  const who = (index, text) => [h("span", { class: "dot", "data-run": index }), runLink(index, text)];

  /** The name of runs that differ only in the seed: what their labels have in common. */
  const nameOf = (indices) => {
    const parts = indices.map((index) => runs[index].label.split(", "));
    return parts[0].filter((part) => parts.every((other) => other.includes(part))).join(", ") || runs[indices[0]].label;
  };
  const runLink = (index, text) =>
    h(
      "button",
      { type: "button", class: "link", title: runs[index].name, click: () => open(index) },
      text ?? runs[index].label,
    );

  const paint = () => {
    for (const dot of document.querySelectorAll(".dot[data-run]"))
      dot.style.setProperty("--color", Report.runColors.of(Number(dot.dataset.run)));
  };
  Report.theme.onChange(paint);

  const verdict = (ranking) => {
    const [first, second] = ranking.entries;
    if (ranking.tied === null) {
      const single = ranking.entries.every((entry) => entry.value[1] === null);
      return single ? "Measured once for each run, so there are no error bars: small differences may be chance." : "";
    }
    if (ranking.tied === 0) return "The 95 % intervals of all others lie apart from that of the first.";
    const names = ranking.tied === 1 && second ? "one other" : `${ranking.tied} others`;
    return `Not clearly best: the 95 % interval of ${names} overlaps that of ${nameOf(first.runs)}.`;
  };

  const rankingCard = (ranking) => {
    const bounds = Report.run.boundsOf(ranking.entries.flatMap((entry) => [entry.value, entry.null]));
    const real = ranking.entries.find((entry) => entry.null)?.null ?? null;
    const item = (entry, place) =>
      Report.run.measured(
        h(
          "span",
          { class: "who" },
          h("span", { class: "place" }, `${place + 1}`),
          who(entry.runs[0], nameOf(entry.runs)),
          entry.runs.length > 1 ? h("span", { class: "interval seeds" }, count(entry.runs.length, "seed")) : null,
        ),
        entry.value,
        real,
        bounds,
      );
    const most = ranking.entries.length > 7 ? 5 : 7;
    const first = ranking.entries.slice(0, most).map(item);
    const rest = ranking.entries.slice(most);
    const list = h("ol", { class: "rank measures" }, first);
    const more = rest.length
      ? h(
          "button",
          {
            type: "button",
            class: "plain",
            click: (event) => {
              list.append(...rest.map((entry, place) => item(entry, place + most)));
              paint();
              event.target.remove();
            },
          },
          `Show ${rest.length} more`,
        )
      : null;
    return h(
      "div",
      { class: "card" },
      h("h3", {}, ranking.title, " ", h("span", { class: "hint" }, `${ranking.better} is better`)),
      h("p", { class: "source" }, [ranking.source, ranking.group].filter(Boolean).join("; ")),
      Report.run.realLine(real),
      list,
      more,
      h("p", { class: "verdict" }, verdict(ranking)),
    );
  };

  const best = () => {
    if (!content.rankings.length)
      return Report.section(
        "best",
        "Best runs",
        null,
        Report.empty(
          "No two runs have a result that can be compared: they have no validation loss and no evaluation yet, or these measure different things.",
        ),
      );
    const shown = content.rankings.slice(0, 6);
    const rest = content.rankings.slice(6);
    const more = rest.length
      ? h(
          "details",
          {},
          h("summary", {}, `${rest.length} further rankings`),
          h("div", { class: "cards" }, rest.map(rankingCard)),
        )
      : null;
    const part = Report.section(
      "best",
      "Best runs",
      "By each metric, among runs that measure the same. Bars are 95 % intervals where they are known.",
      h("div", { class: "cards" }, shown.map(rankingCard)),
      more,
    );
    requestAnimationFrame(paint);
    return part;
  };

  /** Axes of the parallel coordinates: what was varied, and the results. */
  const axes = () => {
    const columns = Report.table.columns;
    const varied = columns.filter((column) => content.varied.some((one) => one.key === column.id)).slice(0, 8);
    const results = columns
      .filter((column) => column.better)
      .slice(0, 2)
      .reverse();
    return [...varied, ...results].filter((column) => runs.some((run) => column.value(run) !== null));
  };

  const parallel = () => {
    const list = axes();
    const result = list.findLast((column) => column.better);
    if (!result || list.length < 2 || runs.length < 3) return null;
    const values = runs.map((run) => result.value(run));
    const known = values.filter((value) => value !== null);
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const place = h("div", {
      class: "parallel",
      role: "img",
      "aria-label": `Parallel coordinates of ${list.map((column) => column.name).join(", ")}. The table of runs has the same values, and its filter selects among them.`,
    });
    const clear = h("button", { type: "button", hidden: true, click: () => select(null) }, "Clear selection");
    let plot = null;
    const select = (indices) => {
      clear.hidden = indices === null;
      Report.table.brush(indices);
      if (indices === null) draw();
    };
    const axisOf = (column, dim) => {
      const color = Report.theme.color;
      const shared = {
        dim,
        name: column.name,
        nameLocation: column.better === "lower" ? "start" : "end",
        nameTextStyle: { color: color("soft"), fontSize: 11.5 },
      };
      if (!column.numeric) {
        const names = [...new Set(runs.map((run) => column.text(run)))].sort((a, b) =>
          a.localeCompare(b, "en", { numeric: true }),
        );
        return { ...shared, type: "category", data: names };
      }
      const numbers = runs.map((run) => column.value(run)).filter((value) => value !== null);
      const [least, most] = [Math.min(...numbers), Math.max(...numbers)];
      const log = least > 0 && most / least >= 10;
      // A logarithmic axis would end at powers of ten: the logarithms are drawn on a linear one.
      const change = log ? Math.log10 : (value) => value;
      const distinct = [...new Set(numbers)];
      const few = !column.better && distinct.length <= 8;
      const margin = (change(most) - change(least)) * 0.04 || Math.abs(change(most)) * 0.1 || 1;
      return {
        ...shared,
        type: "value",
        log,
        min: change(least) - margin,
        max: change(most) + margin,
        axisLabel: {
          customValues: few ? distinct.map(change) : undefined,
          color: color("ink"),
          fontSize: 11,
          textBorderColor: color("card"),
          textBorderWidth: 3,
          formatter: (value) => number(log ? 10 ** value : value, 3),
          showMinLabel: few,
          showMaxLabel: few,
          hideOverlap: true,
        },
        inverse: column.better === "lower",
      };
    };
    const draw = () => {
      if (!plot) return;
      const color = Report.theme.color;
      const axisList = list.map(axisOf);
      const shown = new Set(Report.shown.get());
      const data = runs.map((run, index) => ({
        value: list.map((column, dim) => {
          const value = column.numeric ? column.value(run) : column.text(run);
          return value === null ? "-" : axisList[dim].log ? Math.log10(value) : value;
        }),
        lineStyle: {
          color:
            values[index] === null
              ? color("strong-line")
              : Report.colors.scale(
                  result.better === "lower"
                    ? (values[index] - low) / (high - low || 1)
                    : (high - values[index]) / (high - low || 1),
                ),
          opacity: brushing || shown.has(index) ? 0.75 : 0.06,
          width: runs.length > 60 ? 1.1 : 1.7,
        },
      }));
      plot.setOption(
        {
          animation: false,
          textStyle: { fontFamily: getComputedStyle(document.body).fontFamily },
          parallel: {
            left: 46,
            right: 84,
            top: 36,
            bottom: 14,
            axisExpandable: false,
            parallelAxisDefault: {
              nameGap: 14,
              axisLine: { lineStyle: { color: color("strong-line") } },
              axisTick: { show: false },
              z: 10,
              axisLabel: { color: color("ink"), fontSize: 11, textBorderColor: color("card"), textBorderWidth: 3 },
              areaSelectStyle: { color: color("accent"), borderColor: color("accent"), opacity: 0.16, width: 18 },
            },
          },
          parallelAxis: axisList,
          series: [{ type: "parallel", data, inactiveOpacity: 0.04, activeOpacity: 0.9, progressive: 0, silent: true }],
        },
        { notMerge: true },
      );
    };
    let brushing = false;
    const start = () => {
      plot = echarts.init(place, null, { renderer: "canvas" });
      plot.on("axisareaselected", () => {
        const series = plot.getModel().getSeries()[0];
        const active = series.getRawIndicesByActiveState("active");
        brushing = true;
        select(active.length ? new Set(active) : null);
        brushing = false;
      });
      new ResizeObserver(() => plot.resize()).observe(place);
      draw();
    };
    new IntersectionObserver((entries, observer) => {
      if (entries.some((entry) => entry.isIntersecting)) {
        observer.disconnect();
        start();
      }
    }).observe(place);
    Report.theme.onChange(draw);
    Report.shown.onChange(() => {
      if (!brushing) draw();
    });
    const part = Report.section(
      "varied",
      "What was varied",
      `Each line is a run, coloured by ${result.name}: blue is better. Drag along an axis to select runs for the whole page.`,
      h("div", { class: "card parallel-scroll" }, place),
    );
    part.head.append(clear);
    return part;
  };

  const samples = () => {
    const epochs = [...new Set(runs.flatMap((run) => run.pictures.map((picture) => picture.epoch)))].sort(
      (a, b) => a - b,
    );
    if (!epochs.length)
      return Report.section("samples", "Samples", null, Report.empty("No run has sample images yet."));
    const figures = runs.map((run, index) => {
      if (!run.pictures.length) return null;
      const image = Report.images.lazy(run.pictures[run.pictures.length - 1]);
      const epoch = h("span", { class: "epoch" });
      const element = h("figure", { class: "card" }, h("figcaption", {}, who(index), epoch), image);
      return { element, image, epoch };
    });
    const place = h("div", { class: "side-by-side" });
    let most = 24;
    const arrange = () => {
      const shown = Report.shown.get().filter((index) => figures[index]);
      place.replaceChildren(...shown.slice(0, most).map((index) => figures[index].element));
      more.hidden = shown.length <= most;
      more.textContent = `Show ${Math.min(48, shown.length - most)} more of ${shown.length}`;
    };
    const more = h("button", {
      type: "button",
      style: { "margin-top": "14px" },
      click: () => {
        most += 48;
        arrange();
        paint();
      },
    });
    const show = (chosen) => {
      for (const [index, figure] of figures.entries()) {
        if (!figure) continue;
        const { pictures } = runs[index];
        const picture = pictures.findLast((one) => one.epoch <= epochs[chosen]) ?? pictures[0];
        figure.epoch.textContent = `epoch ${picture.epoch}`;
        Report.images.show(figure.image, { ...picture, caption: `${runs[index].label}: ${picture.caption}` });
      }
    };
    const labels = epochs.map((epoch) => `epoch ${epoch}`);
    const bar = Report.images.slider(labels, "Epoch of the samples", "epoch", show);
    const size = h("input", {
      type: "range",
      min: 120,
      max: 560,
      step: 20,
      value: state("figure", 240),
      "aria-label": "Size of the images",
      input: (event) => {
        Report.state.set("figure", Number(event.target.value));
        place.style.setProperty("--figure", `${event.target.value}px`);
      },
    });
    place.style.setProperty("--figure", `${state("figure", 240)}px`);
    const varied = new Set(content.varied.map((one) => one.key));
    const different = ["compute.seed", "model.architecture.image_size", "model.architecture.in_channels"].filter(
      (key) => varied.has(key),
    );
    const noise = different.length
      ? `The runs differ in ${different.join(", ")}, so they do not start from the same noise.`
      : "All grids start from the same noise, so images in the same place can be compared.";
    Report.shown.onChange(arrange);
    arrange();
    const part = Report.section("samples", "Samples", noise, h("div", { class: "viewer" }, bar), place, more);
    part.head.append(h("div", { class: "controls" }, h("label", {}, "Size", size)));
    return part;
  };
  const state = (name, otherwise) => Report.state.get(name, otherwise);

  const shared = () => {
    const keys = Object.keys(content.shared);
    if (!keys.length) return null;
    const run = { settings: {}, differs: [], name: "" };
    const part = Report.run.settings(run, "shared");
    part.querySelector("h2").textContent = "Settings in common";
    part.label = "Settings";
    for (const details of part.querySelectorAll("details")) details.open = false;
    return part;
  };

  /** Everything about one run, in a panel over the page. */
  const open = (index) => {
    const run = runs[index];
    const dialog = h("dialog", { "aria-labelledby": "run-title", close: () => dialog.remove() });
    const viewer = () => Report.images.viewer(run.pictures, run.facts.total_epochs, "epoch of one run");
    const samples = run.pictures.length
      ? Report.section("run-samples", "Samples", null, h("div", { class: "card" }, viewer()))
      : null;
    dialog.append(
      h(
        "div",
        { class: "dialog-head" },
        h("h2", { id: "run-title" }, h("span", { class: "dot", "data-run": index }), run.name, Report.badge(run.state)),
        h("button", { type: "button", click: () => dialog.close() }, "Close"),
      ),
      h("p", { class: "headline" }, run.headline),
      ...Report.run.notes(run),
      Report.run.tiles(run),
      ...[
        samples,
        run.nearest.length ? Report.run.nearest(run) : null,
        run.sampled.length ? Report.run.sampled(run) : null,
        run.quality.length ? Report.run.quality(run) : null,
        Report.run.settings(run, "run-settings"),
        Report.run.commands(run, "run-commands"),
        Report.run.environment(run, "run-environment"),
        Report.run.log(run, "run-log"),
      ].filter(Boolean),
    );
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close(); // outside of its content
    });
    document.body.append(dialog);
    paint();
    dialog.showModal();
  };

  return { best, parallel, samples, shared, open };
})();
