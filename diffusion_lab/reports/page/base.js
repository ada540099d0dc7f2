"use strict";

// Everything shown is made of elements and text nodes, never of HTML text: names come from files.
const Report = { content: JSON.parse(document.getElementById("content").textContent) };

// Their keys come from files: "constructor" must not be found in a run that has no such key.
{
  const bare = (values) => Object.assign(Object.create(null), values);
  const { content } = Report;
  for (const name of ["shared", "defaults"]) content[name] = bare(content[name]);
  for (const chart of content.charts) chart.lines = bare(chart.lines);
  for (const run of content.runs)
    for (const name of ["settings", "numbers", "curves", "nulls"]) run[name] = bare(run[name]);
}

/** Make an element. Attributes with a function are event listeners, null and false are left out. */
Report.h = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name === "style") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Number.POSITIVE_INFINITY).filter((child) => child !== null && child !== undefined));
  return element;
};

/** Keeps what the reader chose while the page is read again, and between visits. */
Report.state = (() => {
  const key = `diffusion_lab report ${location.pathname}`;
  let values = {};
  try {
    values = JSON.parse(sessionStorage.getItem(key)) || {};
  } catch {
    // no storage: the choices last as long as the page
  }
  return {
    get: (name, otherwise) => values[name] ?? otherwise,
    set: (name, value) => {
      values[name] = value;
      try {
        sessionStorage.setItem(key, JSON.stringify(values));
      } catch {
        // as above
      }
    },
  };
})();

Report.format = (() => {
  const grouped = new Intl.NumberFormat("en");
  const number = (value, digits = 4) => {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-4 || size >= 1e7))
      return value
        .toExponential(2)
        .replace(/\.?0+e/, "e")
        .replace("e+", "e");
    if (Number.isInteger(value)) return grouped.format(value);
    return size >= 1000 ? grouped.format(Math.round(value)) : String(Number(value.toPrecision(digits)));
  };
  const compact = (value) => {
    for (const [unit, size] of [
      ["G", 1e9],
      ["M", 1e6],
      ["k", 1e3],
    ])
      if (Math.abs(value) >= size) return `${Number((value / size).toPrecision(3))} ${unit}`;
    return number(value, 3);
  };
  const duration = (exact) => {
    if (exact === null || exact === undefined) return "–";
    if (exact < 59.5) return `${Number(exact.toPrecision(2))} s`;
    const seconds = Math.round(exact);
    const minutes = Math.floor(seconds / 60);
    if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
    const hours = Math.floor(minutes / 60);
    return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
  };
  const count = (value, one, many) => `${grouped.format(value)} ${value === 1 ? one : many || `${one}s`}`;
  const interval = ([, low, high]) => (low === null || high === null ? "" : `${number(low, 3)} to ${number(high, 3)}`);
  return { number, compact, duration, count, interval };
})();

Report.badge = (state) => Report.h("span", { class: `badge ${state}` }, state);

/** A command with a button that copies it. */
Report.command = (text) => {
  const { h } = Report;
  const code = h("code", {}, text);
  const button = h(
    "button",
    {
      type: "button",
      click: async () => {
        try {
          await navigator.clipboard.writeText(text);
          button.textContent = "Copied";
        } catch {
          const range = document.createRange();
          range.selectNodeContents(code);
          getSelection().removeAllRanges();
          getSelection().addRange(range);
          button.textContent = "Selected";
        }
        Report.announce(`${button.textContent}: ${text}`);
        setTimeout(() => {
          button.textContent = "Copy";
        }, 1600);
      },
    },
    "Copy",
  );
  button.setAttribute("aria-label", `Copy the command ${text}`);
  return h("div", { class: "command" }, code, button);
};

Report.empty = (text, ...more) => Report.h("div", { class: "empty" }, Report.h("p", {}, text), ...more);

Report.section = (id, title, about, ...children) => {
  const { h } = Report;
  const heading = h("h2", { id: `${id}-title` }, title);
  const head = h("div", { class: "head" }, heading);
  const text = about ? h("p", { class: "about" }, about) : null;
  const section = h("section", { id, "aria-labelledby": `${id}-title` }, head, text, ...children);
  section.head = head;
  section.label = title;
  return section;
};

/** Have a screen reader say a text. */
Report.announce = (text) => {
  let place = document.getElementById("live");
  if (!place) {
    place = Report.h("div", { id: "live", class: "hidden-text", "aria-live": "polite" });
    document.body.append(place);
  }
  place.textContent = text;
};

Report.theme = (() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const listeners = [];
  const shown = () => {
    const chosen = Report.state.get("theme", "auto");
    return chosen === "auto" ? (dark.matches ? "dark" : "light") : chosen;
  };
  const apply = () => {
    root.dataset.shown = shown();
    for (const listener of listeners) listener();
  };
  dark.addEventListener("change", apply);
  apply();
  const names = { auto: "Theme: system", light: "Theme: light", dark: "Theme: dark" };
  return {
    onChange: (listener) => listeners.push(listener),
    color: (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim(),
    button: () => {
      const label = () => names[Report.state.get("theme", "auto")];
      const next = { auto: "light", light: "dark", dark: "auto" };
      const button = Report.h(
        "button",
        {
          type: "button",
          click: () => {
            Report.state.set("theme", next[Report.state.get("theme", "auto")]);
            button.textContent = label();
            apply();
          },
        },
        label(),
      );
      return button;
    },
  };
})();

/** Colours of runs and lines, the same everywhere, of equal lightness in the current theme. */
Report.colors = (() => {
  const hues = [262, 50, 155, 22, 305, 210, 345, 110, 235, 75];
  const golden = 137.508;
  const linear = (value) => (value <= 0.0031308 ? 12.92 * value : 1.055 * value ** (1 / 2.4) - 0.055);
  // OKLCH to sRGB, by Björn Ottosson's matrices: canvases of older browsers do not know oklch().
  const oklch = (lightness, chroma, hue) => {
    const a = chroma * Math.cos((hue * Math.PI) / 180);
    const b = chroma * Math.sin((hue * Math.PI) / 180);
    const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
    const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
    const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
    const rgb = [
      4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
      -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
      -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
    ];
    const bytes = rgb.map((value) => Math.round(255 * Math.min(1, Math.max(0, linear(Math.max(0, value))))));
    return `#${bytes.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
  };
  const base = () => [Number(Report.theme.color("lightness")), Number(Report.theme.color("chroma"))];
  const category = (index) => {
    const [lightness, chroma] = base();
    const hue = index < hues.length ? hues[index] : (262 + golden * index) % 360;
    const turn = index < hues.length ? 0 : (Math.floor(index / hues.length) % 3) * 0.07 - 0.07;
    return oklch(lightness + turn, chroma, hue);
  };
  /** Colour of a share between 0 and 1, from cool to warm. */
  const scale = (share) => {
    const [lightness, chroma] = base();
    return oklch(lightness + 0.1 - 0.16 * share, chroma, 230 - 210 * share);
  };
  return { category, scale };
})();

/** The metric by which more runs than can be told apart by colours are coloured, and the colour of each run. */
Report.runColors = (() => {
  const { runs, metric } = Report.content;
  const most = 20;
  const values = runs.map((run) => (run.best && metric ? run.best.value : null));
  const known = values.filter((value) => value !== null).sort((a, b) => (metric?.mode === "max" ? b - a : a - b));
  const ranked = runs.length > most && known.length > 1;
  return {
    metric: ranked ? metric.name.replace(/^val\//, "") : null,
    of: (index) => {
      if (!ranked) return Report.colors.category(index);
      if (values[index] === null) return Report.theme.color("strong-line");
      return Report.colors.scale(known.indexOf(values[index]) / (known.length - 1));
    },
  };
})();
