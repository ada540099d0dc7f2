"use strict";

/** The table of several runs: sorted, filtered, and choosing what the rest of the page shows. */
Report.table = (() => {
  const { h, content } = Report;
  const { runs } = content;
  const { number, duration } = Report.format;
  const state = Report.state;
  const unchecked = new Set(state.get("unchecked", []));
  let brushed = null; // indices that the parallel coordinates leave, null for all
  let rows = [];
  let body = null;
  let status = null;

  const bestOf = (run, metric, better) => {
    const known = run.curves[metric]?.[1].filter((value) => value !== null) ?? [];
    if (!known.length) return null;
    return better === "higher" ? Math.max(...known) : Math.min(...known);
  };

  /** Columns: a name, the value by which to sort, its text, and whether lower or higher is better. */
  const columns = (() => {
    const list = [];
    const main = content.metric;
    if (main)
      list.push({
        id: "best",
        name: main.name.replace(/^val\//, ""),
        title: `best ${main.name} of the run`,
        value: (run) => run.best?.value ?? null,
        better: main.mode === "max" ? "higher" : "lower",
      });
    for (const chart of content.charts)
      if (chart.kind === "quality" || chart.kind === "loss") {
        const metric = chart.kind === "loss" ? "val/loss" : Object.keys(chart.lines)[0];
        if (metric in chart.lines && metric !== main?.name && list.length < 4)
          list.push({
            id: metric,
            name: metric.replace(/^val\//, ""),
            title: `best ${metric} of the run`,
            value: (run) => bestOf(run, metric, chart.better),
            better: chart.better,
          });
      }
    for (const { key, name } of content.varied.slice(0, 12)) {
      const numeric = runs.every((run) => !(key in run.settings) || key in run.numbers);
      list.push({
        id: key,
        name,
        numeric,
        value: (run) => (numeric ? (run.numbers[key] ?? null) : (run.settings[key] ?? null)),
        text: (run) => (key in run.numbers ? number(run.numbers[key]) : (run.settings[key] ?? "–")),
        title: key,
      });
    }
    list.push(
      {
        id: "epochs",
        name: "epochs",
        value: (run) => run.facts.epochs ?? null,
        text: (run) => {
          const total = run.facts.total_epochs;
          return total && total !== run.facts.epochs ? `${run.facts.epochs} of ${total}` : number(run.facts.epochs);
        },
      },
      {
        id: "time",
        name: "time",
        value: (run) => run.facts.seconds ?? null,
        text: (run) => duration(run.facts.seconds),
      },
      {
        id: "speed",
        name: "images/s",
        value: (run) => run.facts.images_per_second ?? null,
        text: (run) => number(run.facts.images_per_second && Math.round(run.facts.images_per_second)),
      },
    );
    for (const column of list) column.numeric ??= true;
    return list;
  })();
  const named = [
    { id: "name", name: "run", numeric: false, value: (run) => run.label },
    { id: "state", name: "state", numeric: false, value: (run) => run.state },
    ...columns,
  ];

  const sorting = () => {
    const chosen = state.get("sort", null);
    if (chosen && named.some((column) => column.id === chosen.id)) return chosen;
    const best = columns.find((column) => column.better);
    return best ? { id: best.id, descending: best.better === "higher" } : { id: "name", descending: false };
  };

  const compare = (column, descending) => (a, b) => {
    const [x, y] = [column.value(runs[a]), column.value(runs[b])];
    if (x === null || y === null) return x === y ? a - b : x === null ? 1 : -1; // unknown values come last
    const order = column.numeric ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
    return (descending ? -order : order) || a - b;
  };

  /** Tests of a filter: words that occur in a row, and comparisons such as rate<0.01. */
  const parse = (text) =>
    text
      .toLowerCase()
      .split(/\s+/)
      .filter(Boolean)
      .map((word) => {
        const match = word.match(/^([^<>=:]+)(<=|>=|<|>|=|:)(.+)$/);
        const column =
          match &&
          named.find(
            (one) =>
              one.name.toLowerCase() === match[1] ||
              one.id.toLowerCase() === match[1] ||
              one.id.toLowerCase().endsWith(`.${match[1]}`),
          );
        if (!column) return (run) => run.text.includes(word);
        const [, , sign, wanted] = match;
        return (run) => {
          const value = column.value(run);
          if (value === null) return false;
          const limit = Number(wanted);
          if (!column.numeric || Number.isNaN(limit))
            return String(column.text ? column.text(run) : value)
              .toLowerCase()
              .includes(wanted);
          if (sign === "<") return value < limit;
          if (sign === ">") return value > limit;
          if (sign === "<=") return value <= limit;
          if (sign === ">=") return value >= limit;
          return value === limit;
        };
      });

  const passing = () => {
    const tests = parse(state.get("filter", ""));
    return runs
      .map((_, index) => index)
      .filter((index) => (!brushed || brushed.has(index)) && tests.every((test) => test(runs[index])));
  };

  const update = () => {
    const { id, descending } = sorting();
    const found = passing().sort(
      compare(
        named.find((column) => column.id === id),
        descending,
      ),
    );
    body.replaceChildren(...found.map((index) => rows[index]));
    const shown = found.filter((index) => !unchecked.has(index));
    status.textContent = `${found.length} of ${runs.length} runs${shown.length < found.length ? `, ${shown.length} of them in the charts` : ""}`;
    for (const index of found) rows[index].querySelector("input").checked = !unchecked.has(index);
    Report.shown.set(shown);
  };

  const check = (indices, checked) => {
    for (const index of indices) checked ? unchecked.delete(index) : unchecked.add(index);
    state.set("unchecked", [...unchecked]);
    update();
  };

  const row = (run, index, bests) => {
    const box = h("input", {
      type: "checkbox",
      checked: !unchecked.has(index),
      "aria-label": `Show ${run.label} in the charts`,
      change: (event) => check([index], event.target.checked),
    });
    const name = h(
      "button",
      { type: "button", class: "link", title: run.name, click: () => Report.compare.open(index) },
      run.label,
    );
    const cells = columns.map((column) => {
      const value = column.value(run);
      const text = column.text ? column.text(run) : number(value);
      const best = column.better && value !== null && value === bests.get(column.id);
      return h(
        "td",
        { class: `${column.numeric ? "number" : ""} ${best ? "best" : ""}` },
        text,
        best ? h("span", { class: "hidden-text" }, " (best)") : null,
      );
    });
    const element = h(
      "tr",
      {
        pointerenter: () => Report.charts.emphasize(index),
        pointerleave: () => Report.charts.emphasize(null),
      },
      h(
        "th",
        { scope: "row" },
        h("div", { class: "pick" }, box, h("span", { class: "dot" }), h("div", { class: "run-name" }, name)),
      ),
      h("td", {}, Report.badge(run.state)),
      cells,
    );
    run.text = [
      run.name,
      run.label,
      run.state,
      ...run.overrides,
      ...columns.map((column) => (column.text ? column.text(run) : "")),
    ]
      .join(" ")
      .toLowerCase();
    return element;
  };

  const paint = () => {
    for (const [index, element] of rows.entries())
      element.querySelector(".dot").style.setProperty("--color", Report.runColors.of(index));
  };

  const header = () => {
    const cells = named.map((column) => {
      const arrow = h("span", { class: "arrow", "aria-hidden": "true" });
      const button = h(
        "button",
        {
          type: "button",
          title: column.title,
          click: () => {
            const now = sorting();
            const first = column.better === "higher";
            state.set("sort", { id: column.id, descending: now.id === column.id ? !now.descending : first });
            mark();
            update();
            Report.announce(`sorted by ${column.name}`);
          },
        },
        column.name,
        arrow,
      );
      const cell = h("th", { scope: "col", class: column.numeric ? "number" : null }, button);
      cell.mark = () => {
        const { id, descending } = sorting();
        const chosen = id === column.id;
        arrow.textContent = chosen ? (descending ? "↓" : "↑") : "";
        if (chosen) cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
        else cell.removeAttribute("aria-sort");
      };
      return cell;
    });
    const mark = () => {
      for (const cell of cells) cell.mark();
    };
    mark();
    return h("thead", {}, h("tr", {}, cells));
  };

  const section = () => {
    const bests = new Map(
      columns
        .filter((column) => column.better)
        .map((column) => {
          const values = runs.map((run) => column.value(run)).filter((value) => value !== null);
          return [column.id, column.better === "higher" ? Math.max(...values) : Math.min(...values)];
        }),
    );
    rows = runs.map((run, index) => row(run, index, bests));
    body = h("tbody", {});
    status = h("span", { role: "status" });
    let timer = null;
    const filter = h("input", {
      type: "search",
      placeholder: "Filter: adamw  epochs>10",
      "aria-label": "Filter runs by words, or by comparisons such as epochs>10",
      value: state.get("filter", ""),
      input: (event) => {
        state.set("filter", event.target.value);
        clearTimeout(timer);
        timer = setTimeout(update, 60);
      },
    });
    const buttons = [
      h("button", { type: "button", click: () => check(passing(), true) }, "Show all"),
      h("button", { type: "button", click: () => check(passing(), false) }, "Show none"),
      runs.length > 10
        ? h(
            "button",
            {
              type: "button",
              click: () => {
                const first = [...body.children].slice(0, 10).map((element) => rows.indexOf(element));
                check(
                  runs.map((_, index) => index),
                  false,
                );
                check(first, true);
              },
            },
            "Show first 10",
          )
        : null,
    ];
    const table = h("table", { class: "runs-table" }, h("caption", { class: "hidden-text" }, "Runs"), header(), body);
    const part = Report.section(
      "runs",
      "Runs",
      null,
      h(
        "div",
        { class: "controls", style: { "margin-bottom": "10px" } },
        filter,
        status,
        h("span", { style: { flex: 1 } }),
        buttons,
      ),
      h("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": "Table of runs" }, table),
    );
    paint();
    Report.theme.onChange(paint);
    update();
    return part;
  };

  /** Emphasize the row of a run. */
  Report.light = (index) => {
    for (const [number, element] of rows.entries())
      element.classList.toggle("lit", index !== null && Number(index) === number);
  };

  return {
    section,
    columns,
    brush: (indices) => {
      brushed = indices;
      update();
    },
  };
})();
