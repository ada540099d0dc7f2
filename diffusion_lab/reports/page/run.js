"use strict";

/** The parts of the page that are about one run. */
Report.run = (() => {
  const { h } = Report;
  const { number, compact, duration, count, interval } = Report.format;
  const { content } = Report;
  const name = (metric) => metric.replace(/^val\//, "validation ").replace(/_/g, " ");

  const tiles = (run) => {
    const { facts } = run;
    const rows = [];
    if (run.best)
      rows.push([
        `Best ${name(run.best.metric)}`,
        number(run.best.value),
        [
          run.best.epoch ? `epoch ${run.best.epoch}` : "",
          run.best.mode === "max" ? "higher is better" : "lower is better",
        ]
          .filter(Boolean)
          .join(", "),
      ]);
    const total = facts.total_epochs;
    const progress =
      run.state === "running" && total
        ? h("progress", { value: facts.epochs, max: total, "aria-label": "Epochs finished" })
        : null;
    rows.push([
      "Epochs",
      total ? `${number(facts.epochs)} of ${number(total)}` : number(facts.epochs),
      facts.steps ? count(facts.steps, "step") : "",
      progress,
    ]);
    if (facts.seconds) {
      const rest = facts.remaining ? `about ${duration(facts.remaining)} left` : "";
      const evaluation = facts.evaluation_seconds ? `${duration(facts.evaluation_seconds)} of it evaluation` : "";
      rows.push(["Time", duration(facts.seconds), rest || evaluation]);
    }
    if (facts.images_per_second)
      rows.push(["Throughput", `${number(Math.round(facts.images_per_second))}`, "images per second"]);
    if (facts.parameters)
      rows.push([
        "Parameters",
        compact(facts.parameters),
        facts.forward_flops ? `${compact(facts.forward_flops)}FLOP per image` : "",
      ]);
    if (facts.train_images)
      rows.push([
        "Training images",
        number(facts.train_images),
        [
          run.batch ? `${number(run.batch)} per step` : "",
          facts.validation_images ? `${number(facts.validation_images)} for validation` : "",
        ]
          .filter(Boolean)
          .join(", "),
      ]);
    if (run.device) rows.push(["Device", ...run.device]);
    if (facts.peak_memory_mb) rows.push(["Peak memory", `${compact(facts.peak_memory_mb * 1e6)}B`, ""]);
    return h(
      "dl",
      { class: "tiles" },
      rows.map(([term, value, more, extra]) =>
        h("div", {}, h("dt", {}, term), h("dd", {}, value, more ? h("small", {}, more) : null, extra || null)),
      ),
    );
  };

  const notes = (run) => {
    const parts = [];
    if (run.why)
      parts.push(
        h(
          "div",
          { class: `notes ${["failed", "died"].includes(run.state) ? "failure" : ""}`, role: "note" },
          `The run ${run.state === "failed" ? "failed" : `is marked ${run.state}`}: ${run.why}`,
        ),
      );
    const lines = [...run.notes];
    if (run.nan.length)
      lines.unshift(
        `The loss or gradient was NaN or infinite at step ${run.nan.map((step) => number(step)).join(", ")}.`,
      );
    if (lines.length)
      parts.push(
        h(
          "div",
          { class: "notes", role: "note" },
          h(
            "ul",
            {},
            lines.map((line) => h("li", {}, line)),
          ),
        ),
      );
    return parts;
  };

  const samples = (run) => {
    const about =
      "Sampled during training, every time from the same noise, so differences are what the model learned in between.";
    const body = run.pictures.length
      ? h("div", { class: "card" }, Report.images.viewer(run.pictures, run.facts.total_epochs))
      : Report.empty(
          run.state === "running"
            ? "There are no samples yet. They appear every training.visualization.interval epochs."
            : "This run has no sample images: training.visualization was off, or it ended before the first ones.",
        );
    return Report.section("samples", "Samples", run.pictures.length ? about : null, body);
  };

  const commandFor = (run, what) => run.commands.find(([label]) => label === what)?.[1];

  const pictureCards = (pictures) =>
    pictures.map((picture) =>
      h(
        "figure",
        { class: "card" },
        h(
          "figcaption",
          { style: { "margin-bottom": "8px" } },
          picture.caption[0].toUpperCase() + picture.caption.slice(1),
        ),
        Report.images.lazy(picture),
      ),
    );

  const sampled = (run) => {
    const command = commandFor(run, "Sample for this report");
    const body = run.sampled.length
      ? h("div", { class: "two" }, pictureCards(run.sampled))
      : Report.empty(
          command
            ? "Denoising strips and a grid of guidance × steps need a few seconds of sampling. This command makes them, keeps them in the run folder, and writes the report again:"
            : "Denoising strips and a grid of guidance × steps need a checkpoint, and the run has none.",
          command ? Report.command(command) : null,
        );
    return Report.section("sampling", "From noise to image", run.sampled.length ? run.sampled_from : null, body);
  };

  const boundsOf = (intervals) => {
    const numbers = intervals
      .filter(Boolean)
      .flat()
      .filter((one) => one !== null);
    const low = Math.min(...numbers);
    const high = Math.max(...numbers);
    const margin = (high - low || Math.abs(high) || 1) * 0.04;
    return [low - margin, high + margin];
  };

  /** One line of a list of values: its name, the value, and its interval over that of real images. */
  const measured = (label, value, real, [low, high], best = false) => {
    const at = (number) => `${((100 * (number - low)) / (high - low)).toFixed(2)}%`;
    const part = (kind, [middle, from, to]) => [
      from === null || to === null
        ? null
        : h("span", { class: `bar-of ${kind}`, style: { left: at(from), right: `calc(100% - ${at(to)})` } }),
      h("span", { class: `point-of ${kind}`, style: { left: at(middle) } }),
    ];
    const plot = h(
      "span",
      { class: "plot", "aria-hidden": "true" },
      real ? part("real", real) : null,
      part("value", value),
    );
    const bounds = interval(value);
    return h(
      "li",
      { class: best ? "best" : null },
      label,
      h(
        "span",
        { class: "figure" },
        h("b", {}, number(value[0], 3)),
        bounds ? h("span", { class: "interval" }, bounds) : null,
      ),
      plot,
    );
  };

  const realLine = (real) =>
    real
      ? h(
          "p",
          { class: "source real-line" },
          h("span", { class: "key-of-real" }),
          `real images ${number(real[0], 3)}${interval(real) ? ` (${interval(real)})` : ""}`,
        )
      : null;

  /** How the samples of each row were made, without what all have in common. */
  const samplings = (rows) => {
    const first = new Set(rows.map((row) => row.sampling.split(", ")[0]));
    const names = new Set(rows.map((row) => row.sampling));
    return (row) =>
      first.size === 1 && names.size > 1 ? row.sampling.split(", ").slice(1).join(", ") || row.sampling : row.sampling;
  };

  const qualityCards = (rows) => {
    const sampling = samplings(rows);
    const groups = new Map();
    for (const row of rows) groups.set(row.title, [...(groups.get(row.title) || []), row]);
    return [...groups].map(([metric, members]) => {
      const bounds = boundsOf(members.flatMap((row) => [row.value, row.null, row.matched]));
      const sign = members[0].better === "higher" ? -1 : 1;
      const best = members.length > 1 ? members.reduce((a, b) => (sign * (b.value[0] - a.value[0]) < 0 ? b : a)) : null;
      const real = members.find((row) => row.null)?.null ?? null;
      return h(
        "div",
        { class: "card" },
        h("h3", {}, metric, " ", h("span", { class: "hint" }, `${members[0].better} is better`)),
        realLine(real),
        h(
          "ul",
          { class: "measures" },
          members.map((row) => [
            measured(h("span", { class: "who" }, sampling(row)), row.value, row.null, bounds, row === best),
            row.matched
              ? measured(h("span", { class: "who hint" }, "as many as real images"), row.matched, row.null, bounds)
              : null,
          ]),
        ),
        members.filter((row) => row.classes.length).map((row) => byClass(row, members.length > 1 ? sampling(row) : "")),
      );
    });
  };

  /** The values of the classes, the worst first, each next to that of real images of the class. */
  const byClass = (row, what) => {
    const bounds = boundsOf(row.classes.flatMap((one) => [one.value, one.null]));
    const list = h(
      "ul",
      { class: "measures" },
      row.classes.map((one) => measured(h("span", { class: "who" }, one.name), one.value, one.null, bounds)),
    );
    const title = `By class, worst first (${row.classes.length})${what ? `: ${what}` : ""}`;
    return h(
      "details",
      { class: "by-class" },
      h("summary", {}, title),
      list,
      row.more_classes
        ? h("p", { class: "source" }, `${count(row.more_classes, "better class", "better classes")} not shown`)
        : null,
    );
  };

  const quality = (run) => {
    const command = commandFor(run, "Evaluate");
    if (!run.quality.length)
      return Report.section(
        "quality",
        "Quality",
        null,
        Report.empty(
          "The samples have not been evaluated. This command measures them, with intervals, next to real images:",
          command ? Report.command(command) : null,
        ),
      );
    const sizes = [...new Set(run.quality.map((row) => row.n))].map((n) => number(n)).join(" or ");
    const samplers = [...new Set(run.quality.map((row) => row.sampling.split(", ")[0]))].join(" and ");
    const about = `By evaluate.py, on ${sizes} samples of ${samplers}. Real images in place of samples show what perfect samples would reach; if there are fewer of them, compare them with the values of as many samples.`;
    return Report.section("quality", "Quality", about, h("div", { class: "cards" }, qualityCards(run.quality)));
  };

  const nearest = (run) =>
    Report.section(
      "nearest",
      "Nearest training images",
      run.nearest.length
        ? "The samples that are most similar to training images, each next to the one that it is nearest to: pairs that look the same are copies."
        : null,
      run.nearest.length
        ? h("div", { class: "two" }, pictureCards(run.nearest))
        : Report.empty(
            "These come with an evaluation:",
            commandFor(run, "Evaluate") ? Report.command(commandFor(run, "Evaluate")) : null,
          ),
    );

  const settings = (run, id = "settings") => {
    const all = { ...content.shared, ...run.settings };
    const different = new Set([...content.differs, ...run.differs]);
    const varied = new Set(content.varied.map((one) => one.key));
    const keys = Object.keys(all);
    if (!keys.length)
      return Report.section(id, "Settings", null, Report.empty("The run folder has no readable settings."));
    const known = Object.keys(content.defaults).length > 0;
    const groups = [
      ["Differ between the runs", keys.filter((key) => varied.has(key)), true],
      ["Differ from the defaults of train.py", keys.filter((key) => different.has(key) && !varied.has(key)), true],
      [
        different.size || varied.size
          ? "All others"
          : known
            ? "None differs from the defaults of train.py; all"
            : "All",
        keys.filter((key) => !different.has(key) && !varied.has(key)),
        false,
      ],
    ].filter(([, members]) => members.length);
    const table = (members) =>
      h(
        "div",
        { class: "scroll" },
        h(
          "table",
          { class: "settings-table" },
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              h("th", { scope: "col" }, "key"),
              h("th", { scope: "col" }, "value"),
              known ? h("th", { scope: "col" }, "default") : null,
            ),
          ),
          h(
            "tbody",
            {},
            members.map((key) =>
              h(
                "tr",
                { "data-text": `${key} ${all[key]}`.toLowerCase() },
                h("th", { scope: "row" }, key),
                h("td", {}, all[key]),
                known ? h("td", { class: "default" }, content.defaults[key] ?? "") : null,
              ),
            ),
          ),
        ),
      );
    const parts = groups.map(([title, members, open]) =>
      h("details", { open }, h("summary", {}, `${title} (${members.length})`), table(members)),
    );
    const filter = h("input", {
      type: "search",
      placeholder: "Filter settings",
      "aria-label": "Filter settings",
      input: () => {
        const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
        for (const [index, part] of parts.entries()) {
          let found = 0;
          for (const row of part.querySelectorAll("tbody tr")) {
            row.hidden = !words.every((word) => row.dataset.text.includes(word));
            found += row.hidden ? 0 : 1;
          }
          part.open = words.length ? found > 0 : groups[index][2];
        }
      },
    });
    const section = Report.section(id, "Settings", null, h("div", { class: "stack" }, parts));
    section.head.append(filter);
    return section;
  };

  const commands = (run, id = "commands") =>
    Report.section(
      id,
      "Commands",
      null,
      h(
        "div",
        { class: "card stack" },
        run.commands.length
          ? run.commands.map(([label, text]) => h("div", {}, h("p", { class: "what" }, label), Report.command(text)))
          : "There is no checkpoint to go on with.",
      ),
    );

  const environment = (run, id = "environment") =>
    Report.section(
      id,
      "Environment",
      null,
      run.environment.length
        ? h(
            "dl",
            { class: "card pairs" },
            run.environment.map(([term, value]) => [h("dt", {}, term), h("dd", { class: "mono" }, value)]),
          )
        : Report.empty("The run folder has no readable environment.json."),
    );

  const log = (run, id = "log") =>
    run.log.length
      ? Report.section(
          id,
          "Log",
          `The last ${count(run.log.length, "line")} of logs/run.log.`,
          h(
            "pre",
            { class: "card log", tabindex: 0, role: "region", "aria-label": "Text of the log" },
            run.log.join("\n"),
          ),
        )
      : null;

  return {
    tiles,
    notes,
    samples,
    sampled,
    quality,
    nearest,
    settings,
    commands,
    environment,
    log,
    measured,
    realLine,
    boundsOf,
  };
})();
