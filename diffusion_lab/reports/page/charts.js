"use strict";

/** Which runs are shown: those that the table's filter, its checkboxes and the parallel coordinates leave. */
Report.shown = (() => {
  const listeners = [];
  let runs = Report.content.runs.map((_, index) => index);
  return {
    get: () => runs,
    set: (indices) => {
      runs = indices;
      for (const listener of listeners) listener();
    },
    onChange: (listener) => listeners.push(listener),
  };
})();

/** Conversion of steps to what the horizontal axis of the curves shows. */
Report.axis = (() => {
  const runs = Report.content.runs;
  const every = (test) => runs.every((run) => !Object.keys(run.curves).length || test(run));
  const names = {
    step: "Step",
    ...(every((run) => run.steps_per_epoch) ? { epoch: "Epoch" } : {}),
    ...(every((run) => run.batch) ? { images: "Images seen" } : {}),
    time: "Time",
  };
  const seconds = (run, step) => {
    const [steps, times] = run.time;
    let low = 0;
    let high = steps.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (steps[middle] <= step) low = middle;
      else high = middle;
    }
    if (high <= low || steps[high] === steps[low]) return times[low];
    return times[low] + ((times[high] - times[low]) * (step - steps[low])) / (steps[high] - steps[low]);
  };
  /** Images up to a step; the last step of an epoch may have fewer than the others. */
  const imagesSeen = (run, step) => {
    const steps = step + 1;
    const perEpoch = run.steps_per_epoch;
    const images = run.facts.train_images;
    if (!images || !perEpoch) return steps * run.batch;
    const epoch = Math.min(images, perEpoch * run.batch);
    return Math.floor(steps / perEpoch) * epoch + Math.min((steps % perEpoch) * run.batch, epoch);
  };
  const convert = {
    step: (_, step) => step,
    epoch: (run, step) => (step + 1) / run.steps_per_epoch,
    images: imagesSeen,
    time: seconds,
  };
  const { number, compact, duration } = Report.format;
  const texts = {
    step: (x) => `step ${number(Math.round(x))}`,
    epoch: (x) => `epoch ${number(x, 3)}`,
    images: (x) => `${number(Math.round(x))} images`,
    time: duration,
  };
  const ticks = {
    step: compact,
    epoch: (x) => number(x, 3),
    images: compact,
    time: (x) =>
      x === 0 ? "0" : x < 60 ? `${number(x)} s` : x < 7200 ? `${number(x / 60, 3)} min` : `${number(x / 3600, 3)} h`,
  };
  const chosen = () => {
    const name = Report.state.get("axis", "step");
    return name in names ? name : "step";
  };
  return {
    names,
    chosen,
    convert: (run, step) => convert[chosen()](run, step),
    text: (x) => texts[chosen()](x),
    tick: (x) => ticks[chosen()](x),
  };
})();

Report.charts = (() => {
  const { h } = Report;
  const { number, compact } = Report.format;
  const { runs } = Report.content;
  const single = runs.length === 1;
  const cards = [];

  /** Exponential moving average without the bias of its start, as TensorBoard's. */
  const smoothed = (values, weight) => {
    let mean = 0;
    let share = 0;
    return values.map((value) => {
      if (value === null) return null;
      mean = weight * mean + (1 - weight) * value;
      share = weight * share + (1 - weight);
      return mean / share;
    });
  };

  const lineColor = (chart, index) => {
    if (chart.kind === "bands") return Report.colors.scale(index / Math.max(Object.keys(chart.lines).length - 1, 1));
    return Report.colors.category(index);
  };

  /** The lines of a chart: of the only run all metrics, of several runs one metric of each that is shown. */
  const linesOf = (card) => {
    if (single) {
      return Object.entries(card.chart.lines).map(([metric, label], index) => ({
        id: metric,
        label,
        run: runs[0],
        curve: runs[0].curves[metric],
        color: lineColor(card.chart, index),
        hidden: card.hidden.has(metric),
      }));
    }
    return Report.shown
      .get()
      .filter((index) => runs[index].curves[card.metric])
      .map((index) => ({
        id: String(index),
        label: runs[index].label,
        run: runs[index],
        curve: runs[index].curves[card.metric],
        color: Report.runColors.of(index),
        hidden: false,
      }));
  };

  const nullOf = (card) => {
    for (const run of single ? runs : Report.shown.get().map((index) => runs[index]))
      if (card.metric in run.nulls) return run.nulls[card.metric];
    return null;
  };

  const seriesOf = (card) => {
    const lines = linesOf(card).filter((line) => !line.hidden);
    const weight = Report.state.get("smoothing", 0);
    const many = lines.length > 12;
    const series = [];
    for (const line of lines) {
      const [steps, values] = line.curve;
      const xs = steps.map((step) => Report.axis.convert(line.run, step));
      const smooth = weight > 0 && values.length > 20;
      const shared = { type: "line", animation: false, connectNulls: false, color: line.color };
      if (smooth && single)
        series.push({
          ...shared,
          id: `${line.id} raw`,
          name: "",
          data: xs.map((x, index) => [x, values[index]]),
          symbol: "none",
          silent: true,
          z: 1,
          tooltip: { show: false },
          lineStyle: { width: 1, opacity: 0.25 },
        });
      const ys = smooth ? smoothed(values, weight) : values;
      series.push({
        ...shared,
        id: line.id,
        name: line.label,
        data: xs.map((x, index) => [x, ys[index]]),
        showSymbol: values.length <= 24 && lines.length <= 12,
        symbol: "circle",
        symbolSize: values.length === 1 ? 7 : 5,
        triggerLineEvent: true,
        lineStyle: { width: many ? 1.2 : 1.8, opacity: lines.length > 40 ? 0.55 : 1 },
        emphasis: single ? { disabled: true } : { focus: "series", lineStyle: { width: 2.6, opacity: 1 } },
        blur: { lineStyle: { opacity: 0.12 } },
      });
    }
    const real = nullOf(card);
    if (real !== null && series.length)
      series[0].markLine = {
        silent: true,
        symbol: "none",
        animation: false,
        lineStyle: { color: Report.theme.color("soft"), type: [5, 4], width: 1.2 },
        label: {
          formatter: `real images ${number(real, 3)}`,
          position: "insideEndTop",
          color: Report.theme.color("soft"),
          fontSize: 11,
        },
        data: [{ yAxis: real }],
      };
    if (real !== null && series.length)
      // so that the axis contains it
      series.push({
        type: "line",
        id: "real images",
        name: "",
        data: [[series[0].data[0][0], real]],
        symbol: "none",
        silent: true,
      });
    return series;
  };

  /** The known point of a line that is nearest to x; of several runs, null before the first and after the last point. */
  const nearest = (data, x) => {
    const known = data.filter(([, y]) => y !== null);
    if (!known.length || (!single && (x < known[0][0] || x > known[known.length - 1][0]))) return null;
    return known.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
  };

  const tip = (card, items) => {
    const x = (items.find((item) => item.seriesName) ?? items[0])?.value[0];
    if (x === undefined) return "";
    const sign = card.chart.better === "higher" ? -1 : 1;
    const found = card.series.filter((one) => one.name).map((one) => ({ ...one, point: nearest(one.data, x) }));
    const known = found.filter((one) => one.point);
    if (!single) known.sort((a, b) => sign * (a.point[1] - b.point[1]));
    const most = 10;
    const rows = known
      .slice(0, most)
      .map((one) =>
        h(
          "div",
          { class: "row" },
          h("span", { class: "dot", style: { "--color": one.color } }),
          h("span", {}, one.name),
          h("b", {}, number(one.point[1])),
        ),
      );
    const more = known.length > most ? h("div", {}, `and ${known.length - most} more`) : null;
    return h("div", { class: "tip" }, Report.axis.text(x), rows, more);
  };

  const options = (card) => {
    const color = Report.theme.color;
    const series = seriesOf(card);
    card.series = series;
    const log = Report.state.get("log", false) && card.chart.kind !== "quality" && card.chart.kind !== "throughput";
    const positive = log && series.every((one) => one.data.every(([, y]) => y === null || y > 0));
    const label = { color: color("faint"), fontSize: 11, hideOverlap: true };
    return {
      animation: false,
      textStyle: { fontFamily: getComputedStyle(document.body).fontFamily },
      grid: { left: 2, right: 14, top: 14, bottom: 2, outerBoundsMode: "same", outerBoundsContain: "axisLabel" },
      xAxis: {
        type: "value",
        min: 0,
        max: "dataMax",
        axisLabel: {
          ...label,
          formatter: Report.axis.tick,
          showMinLabel: true,
          alignMinLabel: "left",
          alignMaxLabel: "right",
        },
        axisLine: { lineStyle: { color: color("strong-line") } },
        axisTick: { show: false },
        splitLine: { show: false },
        splitNumber: 4,
      },
      yAxis: {
        type: positive ? "log" : "value",
        scale: true,
        axisLabel: { ...label, formatter: (y) => compact(y) },
        axisLine: { show: false },
        axisTick: { show: false },
        splitLine: { lineStyle: { color: color("line") } },
        splitNumber: 4,
      },
      dataZoom: [
        { type: "inside", xAxisIndex: 0, zoomOnMouseWheel: "ctrl", moveOnMouseMove: "shift", filterMode: "none" },
      ],
      tooltip: {
        trigger: "axis",
        confine: true,
        transitionDuration: 0,
        backgroundColor: color("card"),
        borderColor: color("strong-line"),
        padding: [6, 10],
        extraCssText: "box-shadow:0 4px 16px rgb(0 0 0 / 14%);border-radius:8px",
        axisPointer: { type: "line", lineStyle: { color: color("strong-line") }, label: { show: false } },
        formatter: (items) => tip(card, [items].flat()),
      },
      series,
    };
  };

  /** What a screen reader says about a chart, and the rows of its table. */
  const summary = (card) =>
    linesOf(card)
      .filter((line) => !line.hidden)
      .map((line) => {
        const known = line.curve[1].filter((value) => value !== null);
        if (!known.length) return { label: line.label, points: 0 };
        const best = card.chart.better === "higher" ? Math.max(...known) : Math.min(...known);
        const step = line.curve[0][line.curve[1].indexOf(best)];
        const where = Report.axis.text(Report.axis.convert(line.run, step));
        return { label: line.label, points: known.length, first: known[0], last: known[known.length - 1], best, where };
      });

  const describe = (card) => {
    const rows = summary(card);
    const lines = rows
      .slice(0, 5)
      .map((row) =>
        row.points ? `${row.label} from ${number(row.first)} to ${number(row.last)}` : `${row.label} has no value`,
      );
    const more = rows.length > 5 ? `, and ${rows.length - 5} more` : "";
    const axis = Report.axis.names[Report.axis.chosen()].toLowerCase();
    return `Line chart: ${card.title()} by ${axis}. ${lines.join("; ")}${more}. Left and right arrow keys read the values.`;
  };

  const table = (card) => {
    const better = card.chart.better === "higher" ? "highest" : "lowest";
    const head = ["line", "first", "last", better, "at"].map((text, index) =>
      h("th", { scope: "col", class: index ? "number" : null }, text),
    );
    const rows = summary(card).map((row) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, row.label),
        [row.first, row.last, row.best].map((value) => h("td", { class: "number" }, number(value))),
        h("td", { class: "number" }, row.where || "–"),
      ),
    );
    return h("div", { class: "scroll tall" }, h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows)));
  };

  const legend = (card) => {
    if (!single || Object.keys(card.chart.lines).length < 2) return null;
    const buttons = linesOf(card).map((line) =>
      h(
        "button",
        {
          type: "button",
          "aria-pressed": String(!line.hidden),
          click: () => {
            if (!card.hidden.delete(line.id)) card.hidden.add(line.id);
            draw(card);
          },
        },
        h("span", { class: "swatch", style: { "--color": line.color } }),
        line.label,
      ),
    );
    return h("div", { class: "legend", role: "group", "aria-label": "Lines shown" }, buttons);
  };

  const readByKeys = (card, event) => {
    const moves = { ArrowLeft: -1, ArrowRight: 1, Home: Number.NEGATIVE_INFINITY, End: Number.POSITIVE_INFINITY };
    if (!(event.key in moves) || !card.plot) return;
    event.preventDefault();
    const series = card.plot.getOption().series.filter((one) => one.name);
    if (!series.length) return;
    const longest = series.reduce((a, b) => (b.data.length > a.data.length ? b : a));
    card.at = Math.min(Math.max((card.at ?? -1) + moves[event.key], 0), longest.data.length - 1);
    const x = longest.data[card.at][0];
    card.plot.dispatchAction({
      type: "showTip",
      seriesId: longest.id,
      seriesIndex: card.plot.getOption().series.indexOf(longest),
      dataIndex: card.at,
    });
    const values = series.slice(0, 6).map((one) => `${one.name} ${number(nearest(one.data, x)?.[1])}`);
    Report.announce(`${Report.axis.text(x)}: ${values.join(", ")}`);
  };

  const draw = (card) => {
    if (!card.seen) return;
    const focused = card.legendPlace.contains(document.activeElement)
      ? [...card.legendPlace.querySelectorAll("button")].indexOf(document.activeElement)
      : -1;
    card.legendPlace.replaceChildren(...[legend(card)].filter(Boolean));
    if (focused >= 0) card.legendPlace.querySelectorAll("button")[focused].focus();
    card.place.setAttribute("aria-label", describe(card));
    if (card.asTable) {
      card.tablePlace.replaceChildren(table(card));
      return;
    }
    if (!card.plot) {
      card.plot = echarts.init(card.place, null, { renderer: "canvas" });
      card.plot.getZr().on("dblclick", () => card.plot.dispatchAction({ type: "dataZoom", start: 0, end: 100 }));
      card.plot.on("mouseover", (event) => Report.light?.(event.seriesId));
      card.plot.on("mouseout", () => Report.light?.(null));
      new ResizeObserver(() => card.plot.resize()).observe(card.place);
    }
    card.plot.setOption(options(card), { notMerge: true });
    card.at = null;
  };

  const redraw = () => {
    for (const card of cards) draw(card);
  };

  const watcher = new IntersectionObserver(
    (entries) => {
      for (const entry of entries)
        if (entry.isIntersecting) {
          watcher.unobserve(entry.target);
          entry.target.card.seen = true;
          draw(entry.target.card);
        }
    },
    { rootMargin: "200px" },
  );

  const make = (chart) => {
    const metrics = Object.keys(chart.lines);
    const card = {
      chart,
      metric: metrics.includes("val/loss") ? "val/loss" : metrics[0],
      hidden: new Set(),
      seen: false,
    };
    if (single && chart.kind === "loss") card.hidden.add("val/loss_raw");
    card.title = () => (single || metrics.length === 1 ? chart.title : `${chart.title}, ${chart.lines[card.metric]}`);
    const hint = chart.better ? `${chart.better} is better` : "";
    const choice =
      single || metrics.length === 1
        ? null
        : h(
            "select",
            {
              "aria-label": `Line of the chart ${chart.title}`,
              change: (event) => {
                card.metric = event.target.value;
                draw(card);
              },
            },
            metrics.map((name) => h("option", { value: name, selected: name === card.metric }, chart.lines[name])),
          );
    const swap = h(
      "button",
      {
        type: "button",
        class: "plain",
        "aria-pressed": "false",
        "aria-label": `${chart.title} as a table`,
        click: () => {
          card.asTable = !card.asTable;
          swap.setAttribute("aria-pressed", String(card.asTable));
          card.place.hidden = card.asTable;
          card.tablePlace.hidden = !card.asTable;
          draw(card);
        },
      },
      "Table",
    );
    const detail = choice
      ? ""
      : chart.kind === "quality" && single
        ? `${Object.values(chart.lines)[0]}, ${hint}`
        : [hint, chart.unit].filter(Boolean).join(", ");
    card.legendPlace = h("div", {});
    card.tablePlace = h("div", { hidden: true });
    card.place = h("div", {
      class: `chart ${single ? "" : "tall"}`,
      role: "img",
      tabindex: 0,
      keydown: (event) => readByKeys(card, event),
    });
    card.element = h(
      "div",
      { class: "card chart-card", "data-chart": chart.title },
      h(
        "div",
        { class: "chart-head" },
        h("h3", {}, chart.title, " ", h("span", { class: "hint" }, detail)),
        choice,
        swap,
      ),
      card.legendPlace,
      card.place,
      card.tablePlace,
    );
    card.element.card = card;
    cards.push(card);
    watcher.observe(card.element);
    return card.element;
  };

  const controls = () => {
    const axis = h(
      "select",
      {
        change: (event) => {
          Report.state.set("axis", event.target.value);
          redraw();
        },
      },
      Object.entries(Report.axis.names).map(([name, text]) =>
        h("option", { value: name, selected: name === Report.axis.chosen() }, text),
      ),
    );
    const smoothing = h("input", {
      type: "range",
      min: 0,
      max: 0.98,
      step: 0.02,
      value: Report.state.get("smoothing", 0),
      input: (event) => {
        Report.state.set("smoothing", Number(event.target.value));
        redraw();
      },
    });
    const log = h("input", {
      type: "checkbox",
      checked: Report.state.get("log", false),
      change: (event) => {
        Report.state.set("log", event.target.checked);
        redraw();
      },
    });
    return h(
      "div",
      { class: "controls" },
      h("label", {}, "Axis", axis),
      h("label", {}, "Smoothing", smoothing),
      h("label", {}, log, "Logarithmic"),
    );
  };

  const section = () => {
    const { charts } = Report.content;
    if (!charts.length)
      return Report.section(
        "curves",
        "Curves",
        null,
        Report.empty("Nothing is logged yet. The first values appear after training.log_interval optimizer steps."),
      );
    const by = Report.runColors.metric;
    const about = [
      by ? `Coloured by the best ${by} of each run: blue is better.` : "",
      Report.content.thinned ? "Long curves are thinned: the lowest and the highest value of each part are kept." : "",
    ].join(" ");
    const part = Report.section("curves", "Curves", about, h("div", { class: "cards" }, charts.map(make)));
    part.head.append(controls());
    return part;
  };

  Report.theme.onChange(redraw);
  Report.shown.onChange(redraw);

  /** Emphasize the lines of one run, or of none. */
  const emphasize = (index) => {
    for (const card of cards)
      if (card.plot && !card.asTable) {
        card.plot.dispatchAction({ type: "downplay" });
        if (index !== null) card.plot.dispatchAction({ type: "highlight", seriesId: String(index) });
      }
  };

  return { section, emphasize };
})();
